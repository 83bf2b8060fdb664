"""mlx-lm: `mlx_lm/models/*.py`, which read config.json by the names of transformers 4."""

from __future__ import annotations

from typing import Literal

from lowrise.engines.facts.rows import Engine, Fact, by_source, rows
from lowrise.engines.facts.texts import MISTRAL3, QWEN2_VL
from lowrise.engines.patterns import (
    CHUNKED,
    CONV,
    DENSE,
    EXPERTS,
    FULL,
    LINEAR,
    TOLD,
    Letters,
    Listed,
    Numbered,
    Period,
)
from lowrise.engines.rules import (
    KindsFromNumbers,
    KnownWords,
    NeedsKinds,
    NeedsSetting,
    NoWindow,
    OnlyWith,
    RopeInOldWords,
    SameNumbers,
    TextAlone,
    TextLike,
    TiedByText,
)

_PATH = "mlx_lm/models/{}.py"
_PLAIN = "reads settings that follow a cut"
_EVERY = "takes every {} layer for full attention, by its number"

# theta that a family's ModelArgs takes where config.json lacks the word; None: it refuses
_THETAS: dict[str, float | None] = {
    "llama": 10_000, "mistral": 10_000, "mixtral": 1e6, "qwen2": 1e6, "granite": None, "granitemoe": None,
    "gemma": 10_000, "gemma2": 10_000, "cohere": 8e6, "cohere2": 50_000, "olmo": 10_000, "olmo2": 10_000,
    "olmo3": None, "olmoe": 10_000, "exaone4": None, "smollm3": 10_000, "glm": 10_000, "minicpm3": 1e6,
    "starcoder2": 100_000, "gpt_oss": 150_000, "qwen2_moe": 1e6, "qwen3_moe": None, "apertus": None,
    "seed_oss": 10_000, "ernie4_5": None, "hunyuan_v1_dense": 10_000, "helium": None, "deepseek_v3": 10_000,
    "qwen3_next": None, "deepseek_v2": 10_000, "falcon_h1": 1e11, "minimax_m2": None, "ernie4_5_moe": None,
    "bitnet": 10_000,
}  # fmt: skip
_FILES = {
    "mistral": "llama",
    "gemma3": "gemma3_text",
    "minimax_m2": "minimax",
}  # MODEL_REMAPPING, and what a wrapper takes
# multimodal families, the file of their text, what it takes where text_config does not say whether the head is tied,
# and what comes of a head that is taken for a tied one: Qwen's have a tensor too many
_TIED: tuple[tuple[str, str, bool | None, Literal["wrong", "refuses"]], ...] = (
    ("qwen2_vl", "qwen2", True, "refuses"), ("qwen2_5_vl", "qwen2", True, "refuses"),
    ("qwen3_vl", "qwen3", None, "refuses"), ("mistral3", "mistral3", False, "wrong"),
)  # fmt: skip
_ROPE_SAYS = "reads rope_theta and rope_scaling, the words of transformers 4"


def _rope(family: str, rule: RopeInOldWords) -> Fact:
    return Fact(family, rule, f"{_PATH.format(_FILES.get(family, family))}: ModelArgs", _ROPE_SAYS)


_FACTS = [
    *by_source(
        {
            "llama": "llama", "mistral": "llama", "mixtral": "mixtral", "qwen2": "qwen2", "qwen3": "qwen3",
            "granite": "granite", "granitemoe": "granitemoe", "gemma": "gemma", "gemma2": "gemma2",
            "gemma3": "gemma3", "gemma3_text": "gemma3_text", "cohere": "cohere", "cohere2": "cohere2", "olmo": "olmo",
            "olmo2": "olmo2",
            "olmo3": "olmo3", "olmoe": "olmoe", "exaone4": "exaone4", "smollm3": "smollm3", "glm": "glm",
            "glm4": "glm4", "phi": "phi", "phi3": "phi3", "nemotron": "nemotron", "starcoder2": "starcoder2",
            "gpt2": "gpt2", "gpt_neox": "gpt_neox", "stablelm": "stablelm", "minicpm3": "minicpm3",
            "gpt_oss": "gpt_oss", "qwen2_moe": "qwen2_moe", "qwen3_moe": "qwen3_moe", "apertus": "apertus",
            "seed_oss": "seed_oss", "ernie4_5": "ernie4_5", "hunyuan_v1_dense": "hunyuan_v1_dense",
            "helium": "helium", "lfm2": "lfm2", "qwen3_next": "qwen3_next", "deepseek_v2": "deepseek_v2",
            "deepseek_v3": "deepseek_v3", "glm4_moe": "glm4_moe", "lfm2_moe": "lfm2_moe", "jamba": "jamba",
            "granitemoehybrid": "granitemoehybrid", "olmo_hybrid": "olmo_hybrid", "falcon_h1": "falcon_h1",
            "mamba": "mamba", "mamba2": "mamba2", "falcon_mamba": "mamba", "minimax_m2": "minimax",
            "ernie4_5_moe": "ernie4_5_moe", "ministral3": "ministral3", "dbrx": "dbrx", "gpt_bigcode": "gpt_bigcode",
            "bitnet": "bitnet",
        },
        _PLAIN,
        _PATH,
    ),
    *rows(
        ["gemma3", "gemma3_text"],
        KindsFromNumbers(
            Period(6, "sliding_window_pattern"), _EVERY.format("6th"), least=True
        ),
        "mlx_lm/models/gemma3_text.py: Attention.__init__, Gemma3Model.__call__",
        "takes every 6th layer for full attention with the global rope, by its number, and needs 6 layers",
    ),
    *rows(
        ["cohere2"],
        KindsFromNumbers(
            Period(4, "sliding_window_pattern"), _EVERY.format("4th"), least=True
        ),
        "mlx_lm/models/cohere2.py: Attention.__init__, CohereModel.__call__",
        "takes every 4th layer for full attention without rope, by its number, and needs 4 layers",
    ),
    *rows(
        ["exaone4"],
        KindsFromNumbers(Letters("sliding_window_pattern"), "tells windows by sliding_window_pattern"),
        "mlx_lm/models/exaone4.py: ExaoneModel.__init__",
        "tells windows by the letters of sliding_window_pattern, over and over",
    ),
    *rows(
        ["qwen3_next"],
        KindsFromNumbers(
            Period(4, "full_attention_interval", FULL, LINEAR),
            "takes the last layer of each period for full attention, by its number",
            least=True,
            fate="refuses",
        ),
        "mlx_lm/models/qwen3_next.py: Qwen3NextDecoderLayer.__init__",
        "takes the last layer of each `full_attention_interval` for full attention, by its number",
    ),
    *rows(
        ["qwen3_moe"],
        NeedsSetting("num_experts"),
        "mlx_lm/models/qwen3_moe.py: ModelArgs.num_experts",
        "needs num_experts; transformers 5 writes num_local_experts",
    ),
    *rows(
        ["olmo3", "gpt_oss"],
        NeedsKinds(("sliding_attention", "full_attention")),
        "mlx_lm/models/{olmo3,gpt_oss}.py: layer_types.index",
        "reads layer_types, and needs a layer of each kind",
    ),
    *rows(
        ["granitemoehybrid"],
        KnownWords("layer_types", ("attention", "mamba"), "refuses"),
        "mlx_lm/models/granitemoehybrid.py: GraniteMoeHybridLayer.__init__",
        "knows `attention` and `mamba` in layer_types; transformers 5 writes `full_attention` and `linear_attention`",
    ),
    *rows(
        ["lfm2", "lfm2_moe"],
        SameNumbers(Numbered("full_attn_idxs", Listed(), FULL, CONV), "full_attn_idxs"),
        "mlx_lm/models/{lfm2,lfm2_moe}.py: ModelArgs.__post_init__",
        "takes full_attn_idxs, where there is one, before layer_types",
    ),
    *rows(
        ["lfm2", "lfm2_moe"],
        NeedsKinds(("full_attention", "conv")),
        "mlx_lm/models/{lfm2,lfm2_moe}.py: Lfm2Model.__init__",
        "reads layer_types, and needs a layer of each kind",
    ),
    *rows(
        ["gemma2", "mistral", "mixtral", "phi3", "starcoder2", "qwen2", "qwen3"],
        NoWindow(),
        "mlx_lm/models/{gemma2,llama,mixtral,phi3,starcoder2,qwen2,qwen3}.py: create_attention_mask without a window",
        "gives no layer a sliding window, before the cut and after",
    ),
    *rows(
        ["qwen2_moe"],
        OnlyWith("decoder_sparse_step", (1, None)),
        "mlx_lm/models/qwen2_moe.py: experts in every layer",
        "known where every layer has experts",
    ),
    *rows(
        ["qwen2_moe"],
        OnlyWith("mlp_only_layers", ([], None)),
        "mlx_lm/models/qwen2_moe.py: experts in every layer",
        "known where every layer has experts",
    ),
    *rows(
        ["qwen2_vl", "qwen2_5_vl"],
        TextLike(QWEN2_VL),
        "mlx_lm/models/qwen2_vl.py: Model.__init__; mlx_lm/utils.py: MODEL_REMAPPING",
        "reads the text as `qwen2`",
    ),
    *rows(
        ["qwen3_vl"],
        TextLike({"qwen3_vl_text": "qwen3"}),
        "mlx_lm/models/qwen3_vl.py: Model.__init__",
        "reads the text as `qwen3`",
    ),
    *rows(
        ["mistral3"],
        TextLike(MISTRAL3),
        "mlx_lm/models/mistral3.py: Model.__init__",
        "reads the text as its own family: `mistral`, `ministral3`",
    ),
    *rows(
        ["llama4"],
        KindsFromNumbers(
            Period(4, None, FULL, CHUNKED),
            _EVERY.format("4th"),
            least=True,
            told=TOLD["llama4_text"],
        ),
        "mlx_lm/models/llama4.py: Attention.__init__, LlamaModel.__call__, cache[3]",
        "takes every 4th layer for full attention without rope, by its number, and needs 4 layers",
    ),
    *rows(
        ["llama4"],
        KindsFromNumbers(
            Period(1, "interleave_moe_layer_step", EXPERTS, DENSE),
            "takes the last layer of each interleave_moe_layer_step for one of experts",
            fate="refuses",
            told=Numbered("moe_layers", Period(1, "interleave_moe_layer_step", EXPERTS, DENSE), EXPERTS, DENSE),
        ),
        "mlx_lm/models/llama4.py: TransformerBlock.__init__",
        "takes the last layer of each `interleave_moe_layer_step` for one of experts",
    ),
    *rows(
        ["llama4"],
        NeedsSetting("rope_scaling"),
        "mlx_lm/models/llama4.py: TextArgs",
        "needs rope_scaling in text_config",
    ),
    *(
        Fact(
            family,
            TiedByText(usual, apart=apart),
            f"mlx_lm/models/{file}.py: ModelArgs, tie_word_embeddings",
            "takes from text_config whether the head is tied",
        )
        for family, file, usual, apart in _TIED
    ),
    *rows(
        ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "mistral3", "llama4", "gemma3"],
        TextAlone(),
        "mlx_lm/models/{qwen2_vl,qwen3_vl,mistral3,llama4,gemma3}.py: Model.sanitize",
        "takes no images, before the cut and after",
    ),
    *(_rope(family, RopeInOldWords(theta)) for family, theta in _THETAS.items()),
    _rope("llama4", RopeInOldWords(None)),
    _rope("gemma3", RopeInOldWords(1e6, local=10_000)),
    _rope("gemma3_text", RopeInOldWords(1e6, local=10_000)),
    _rope("glm4", RopeInOldWords(None)),
    _rope("glm4_moe", RopeInOldWords(None)),
    _rope("stablelm", RopeInOldWords(None)),
    _rope("phi", RopeInOldWords(10_000, usual_share=0.4)),
    _rope("phi3", RopeInOldWords(10_000)),
    _rope("nemotron", RopeInOldWords(10_000, usual_share=0.5)),
    _rope("gpt_neox", RopeInOldWords(None, word="rotary_emb_base", share="rotary_pct")),
]  # fmt: skip

# mlx_lm/models/*.py, and MODEL_REMAPPING of mlx_lm/utils.py
_FAMILIES = """
Klear afm7 afmoe apertus baichuan_m1 bailing_hybrid bailing_moe bailing_moe_linear bailing_moe_v3 bitnet cohere
cohere2 dbrx deepseek deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v41 deepseek_v41_text dots1 ernie4_5 ernie4_5_moe
exaone exaone4 exaone_moe falcon_h1 falcon_mamba gear gemma gemma2 gemma3 gemma3_text gemma3n gemma4 gemma4_text
gemma4_unified glm glm4 glm4_moe glm4_moe_lite glm_moe_dsa gpt2 gpt_bigcode gpt_neox gpt_oss gptj granite granitemoe
granitemoehybrid helium hunyuan hunyuan_v1_dense internlm2 internlm3 iquestcoder iquestloopcoder jamba joyai_llm_flash
kimi_k2 kimi_k25 kimi_k3 kimi_linear kimi_vl laguna lfm2 lfm2-vl lfm2_moe lille-130m llama llama4 llama4_text llava
longcat_flash longcat_flash_ngram mamba mamba2 mellum mimo mimo_v2_flash minicpm minicpm3 minimax minimax_m2
minimax_m3_vl ministral3 mistral mistral3 mistral4 mixtral muse_glimmer muse_spark nanbeige nanochat nemotron
nemotron-nas nemotron_h olmo olmo2 olmo3 olmo_hybrid olmoe openelm phi phi-msft phi3 phi3small phimoe phixtral pixtral
plamo plamo2 plamo3 prism_hadamard_qwen35 qwen qwen2 qwen2_5_vl qwen2_moe qwen2_vl qwen3 qwen3_5 qwen3_5_moe qwen3_moe
qwen3_next qwen3_vl qwen3_vl_moe recurrent_gemma rwkv7 seed_oss smollm3 solar_open spark2_5 stablelm starcoder2
step3p5 talkie telechat3 xverse youtu_llm
"""

ENGINE = Engine(
    name="mlx",
    title="MLX",
    version="mlx-lm 0.32.2",
    obtained="PyPI mlx-lm 0.32.2; run on mlx 0.32.4, in its build for CPUs",
    facts=tuple(_FACTS),
    families=frozenset(_FAMILIES.split()),
)
