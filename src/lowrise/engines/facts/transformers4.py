"""transformers 4, which other engines pin: `src/transformers/models/*/configuration_*.py`."""

from __future__ import annotations

from lowrise.engines.facts.rows import Engine, Fact, by_source, rows
from lowrise.engines.facts.texts import INTERNVL, LLAMA4, SMOLVLM
from lowrise.engines.rules import KnownWords, NeedsSetting, RopeInOldWords, TensorsIn, TextLike, TiedByText, V5Tokenizer

_PATH = "src/transformers/models/{0}/configuration_{0}.py"
_READS_KINDS = "reads layer_types and no_rope_layers as transformers 5 does"

# theta that a family's config takes where config.json lacks the word
_THETAS = {
    "apertus": 12e6, "arcee": 10_000, "cohere": 10_000, "cohere2": 10_000, "deepseek_v2": 10_000,
    "deepseek_v3": 10_000, "ernie4_5": 500_000, "exaone4": 10_000, "falcon": 10_000, "gemma": 10_000,
    "gemma2": 10_000, "gpt_oss": 150_000, "granite": 10_000, "granitemoe": 10_000, "helium": 100_000,
    "hunyuan_v1_dense": 10_000, "lfm2": 1e6, "llama": 10_000, "mistral": 10_000,
    "mixtral": 1e6, "olmo": 10_000, "olmo2": 10_000, "olmo3": 10_000, "olmoe": 10_000, "qwen2": 10_000,
    "qwen2_moe": 10_000, "qwen3": 10_000, "qwen3_moe": 10_000, "seed_oss": 10_000, "smollm3": 2e6,
    "starcoder2": 10_000, "bitnet": 500_000, "ernie4_5_moe": 500_000, "falcon_h1": 100_000, "granitemoeshared": 10_000,
    "granitemoehybrid": 10_000, "llama4_text": 500_000,
}  # fmt: skip
_RULES = {family: RopeInOldWords(theta) for family, theta in _THETAS.items()} | {
    "gemma3": RopeInOldWords(1e6, local=10_000),
    "gemma3_text": RopeInOldWords(1e6, local=10_000),
    "gemma3n_text": RopeInOldWords(1e6, local=10_000),
    "glm": RopeInOldWords(10_000, usual_share=0.5),
    "glm4": RopeInOldWords(10_000, usual_share=0.5),
    "glm4_moe": RopeInOldWords(10_000, usual_share=0.5),
    "nemotron": RopeInOldWords(10_000, usual_share=0.5),
    "phi": RopeInOldWords(10_000, usual_share=0.5),
    "phi3": RopeInOldWords(10_000),
    "qwen3_next": RopeInOldWords(10_000, usual_share=0.25),
    "stablelm": RopeInOldWords(10_000, usual_share=0.25),
    "gpt_neox": RopeInOldWords(10_000, word="rotary_emb_base", share="rotary_pct", usual_share=0.25),
}
# families whose folder there has another name
_FOLDERS = {"gemma3_text": "gemma3", "gemma3n_text": "gemma3n", "llama4_text": "llama4"}
_WITHOUT_ROPE = (
    *("gpt2", "gptj", "opt", "bloom", "mpt", "gpt_bigcode", "biogpt", "xglm", "codegen"),
    *("jamba", "mamba", "mamba2", "falcon_mamba"),
)

# multimodal models with positions of three parts, and theta where the text's config lacks the word
_SECTIONED = {"qwen2_vl": 1e6, "qwen2_5_vl": 1e6, "qwen3_vl": 5e6, "qwen3_vl_moe": 5e6}
# multimodal models around a family: `model_type` of the text → family
_AROUND = {
    "llama4": LLAMA4,
    "mistral3": {"mistral": "mistral"},
    "llava": {"llama": "llama", "mistral": "mistral"},
    "smolvlm": SMOLVLM,
    "internvl": INTERNVL,
}

_FACTS = [
    *by_source({family: _FOLDERS.get(family, family) for family in (*_RULES, *_WITHOUT_ROPE)}, _READS_KINDS, _PATH),
    *(
        Fact(
            family,
            rule,
            _PATH.format(_FOLDERS.get(family, family)),
            "reads rope_theta and rope_scaling, not rope_parameters",
        )
        for family, rule in _RULES.items()
    ),
    Fact(
        "granitemoehybrid",
        KnownWords("layer_types", ("attention", "mamba"), "wrong"),
        "src/transformers/models/granitemoehybrid/modeling_granitemoehybrid.py: GraniteMoeHybridDecoderLayer.__init__",
        "takes whatever is not `mamba` in layer_types for attention; transformers 5 writes `linear_attention`",
    ),
    *by_source({family: family for family in _SECTIONED}, _READS_KINDS, _PATH),
    *(
        Fact(
            family,
            RopeInOldWords(theta),
            _PATH.format(family),
            "reads rope_theta and rope_scaling, not rope_parameters",
        )
        for family, theta in _SECTIONED.items()
    ),
    *(
        Fact(
            family,
            NeedsSetting("mrope_section", "rope_scaling"),
            f"src/transformers/models/{family}/modeling_{family}.py: mrope_section",
            "needs mrope_section in text_config's rope_scaling",
        )
        for family in _SECTIONED
    ),
    *(
        Fact(
            family,
            TextLike(texts),
            f"src/transformers/models/{family}/modeling_{family}.py: AutoModel.from_config(config.text_config)",
            "reads the text as its own family",
        )
        for family, texts in _AROUND.items()
    ),
    *rows(
        ["qwen3_vl_moe"],
        NeedsSetting("num_experts", unless=("num_local_experts", 60)),
        "src/transformers/models/qwen3_vl_moe/configuration_qwen3_vl_moe.py: num_experts=60",
        "takes 60 experts where text_config lacks num_experts; transformers 5 writes num_local_experts",
    ),
    *rows(
        ["qwen3_moe"],
        NeedsSetting("num_experts", unless=("num_local_experts", 128)),
        "src/transformers/models/qwen3_moe/configuration_qwen3_moe.py: num_experts=128",
        "takes 128 experts where config.json lacks num_experts; transformers 5 writes num_local_experts",
    ),
    *rows(
        ["gemma3", "llava"],
        TensorsIn("vision_tower", "vision_model"),
        "src/transformers/models/siglip/modeling_siglip.py: SiglipVisionModel.vision_model; the same of clip",
        "looks for the tower's weights in vision_tower.vision_model, as published folders name them",
    ),
    *rows(
        ["qwen3_vl", "qwen3_vl_moe", *_AROUND],
        TiedByText(False, missing="wrong"),
        "src/transformers/modeling_utils.py: tie_weights, get_text_config",
        "takes from text_config whether the head is tied",
    ),
]

# models/auto/modeling_auto.py: MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
_FAMILIES = """
apertus arcee aria_text bamba bart bert bert-generation big_bird bigbird_pegasus biogpt bitnet blenderbot
blenderbot-small bloom blt camembert code_llama codegen cohere cohere2 cpmant ctrl data2vec-text dbrx deepseek_v2
deepseek_v3 diffllama doge dots1 electra emu3 ernie ernie4_5 ernie4_5_moe exaone4 falcon falcon_h1 falcon_mamba
flex_olmo fuyu gemma gemma2 gemma3 gemma3_text gemma3n gemma3n_text git glm glm4 glm4_moe got_ocr2 gpt-sw3 gpt2
gpt_bigcode gpt_neo gpt_neox gpt_neox_japanese gpt_oss gptj granite granitemoe granitemoehybrid granitemoeshared
helium hunyuan_v1_dense hunyuan_v1_moe jamba jetmoe lfm2 llama llama4 llama4_text longcat_flash mamba mamba2 marian
mbart mega megatron-bert minimax ministral mistral mixtral mllama modernbert-decoder moshi mpt musicgen
musicgen_melody mvp nemotron olmo olmo2 olmo3 olmoe open-llama openai-gpt opt pegasus persimmon phi phi3
phi4_multimodal phimoe plbart prophetnet qdqbert qwen2 qwen2_moe qwen3 qwen3_moe qwen3_next recurrent_gemma reformer
rembert roberta roberta-prelayernorm roc_bert roformer rwkv seed_oss smollm3 speech_to_text_2 stablelm starcoder2
transfo-xl trocr vaultgemma whisper xglm xlm xlm-prophetnet xlm-roberta xlm-roberta-xl xlnet xlstm xmod zamba zamba2
"""
# MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, without those above
_MULTIMODAL = """
aria aya_vision blip blip-2 chameleon cohere2_vision deepseek_vl deepseek_vl_hybrid evolla florence2 glm4v glm4v_moe
idefics idefics2 idefics3 instructblip internvl janus kosmos-2 kosmos-2.5 lfm2_vl llava llava_next llava_next_video
llava_onevision mistral3 ovis2 paligemma perception_lm pix2struct pixtral qwen2_5_vl qwen2_vl qwen3_vl qwen3_vl_moe
shieldgemma2 smolvlm udop vipllava vision-encoder-decoder
"""

ENGINE = Engine(
    name="transformers4",
    title="transformers 4",
    version="4.57.6",
    obtained="PyPI transformers 4.57.6",
    facts=tuple(_FACTS),
    always=((
        V5Tokenizer(),
        "src/transformers/models/auto/tokenization_auto.py",
        "knows no tokenizer class TokenizersBackend, and takes extra_special_tokens as a mapping",
    ),),
    families=frozenset(_FAMILIES.split()) | frozenset(_MULTIMODAL.split()),
    opens_own_code=True,
)  # fmt: skip
