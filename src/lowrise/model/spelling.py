"""config.json and tokenizer_config.json in the words of transformers 4 beside those of transformers 5.

Version 5 writes `rope_parameters` and `dtype` alone. Version 4, which other engines pin, reads `rope_theta`,
`rope_scaling` and `torch_dtype`, and takes their defaults without a word where they are missing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, AutoTokenizer

# A family's own words in version 4 for what is one word in version 5.
_OWN_WORDS = {
    "gpt_neox": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
    "gpt_neox_japanese": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
}
_LOCAL_THETA = {"modernbert-decoder": "local_rope_theta"}
_GLOBAL_THETA = {"modernbert-decoder": "global_rope_theta"}
# Longrope has, in version 4, these three words exactly and nothing else (Phi-3).
_LONGROPE = ("short_factor", "long_factor")
# Which parts of a head are rotated by which of the three positions of an image; version 4 looks for it in rope_scaling.
_SECTIONS = "mrope_section"
_TIED = "tie_word_embeddings"
# What version 5 writes under another word than version 4, by `model_type` of the config that it stands in.
_EXPERTS = {"num_local_experts": "num_experts"}
_RENAMED = {
    "qwen3_moe": _EXPERTS,
    "qwen3_vl_moe_text": _EXPERTS,
    "vipllava": {"vision_feature_layer": "vision_feature_layers"},
}
# What version 5 alone calls a tokenizer that is nothing but its tokenizer.json.
_V5_TOKENIZER = "TokenizersBackend"


def spell_config(folder: Path) -> None:
    """Add the old words to the folder's config.json, unless stock transformers would open another model with them."""
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    if config.get("model_type") not in transformers.CONFIG_MAPPING:  # its own code reads the words it always had
        write_json(file, config | _dtype_word(config))
        return
    plain = _opened(folder)
    write_json(file, config | _old_words(config))
    try:
        same = _opened(folder) == plain
    except Exception:  # noqa: BLE001 - a config class raises what it likes at words that it does not know
        same = False
    if not same:
        write_json(file, config | _dtype_word(config))


def spell_tokenizer(folder: Path, trust_remote_code: bool) -> None:
    """Give the folder's tokenizer_config.json a class and words that version 4 knows.

    Left as it is unless version 5 wrote it, and unless stock transformers opens the same tokenizer after.
    """
    file = folder / "tokenizer_config.json"
    if not file.is_file() or not (folder / "tokenizer.json").is_file():
        return
    text = file.read_text(encoding="utf-8")
    config = json.loads(text)
    spelled = dict(config)
    if spelled.get("tokenizer_class") == _V5_TOKENIZER:
        spelled["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(spelled.get("extra_special_tokens"), list) and "additional_special_tokens" not in spelled:
        spelled["additional_special_tokens"] = spelled.pop("extra_special_tokens")
    if spelled == config:
        return
    before = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    write_json(file, spelled)
    after = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    if _tokenizer_facts(before) != _tokenizer_facts(after):
        file.write_text(text, encoding="utf-8")


def _tokenizer_facts(tokenizer: Any) -> dict[str, Any]:
    """How it encodes, and the special tokens that it names."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return {
        "backend": backend.to_str() if backend is not None else tokenizer.get_vocab(),
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "ids": sorted(tokenizer.all_special_ids),
        "template": tokenizer.chat_template,
        "length": tokenizer.model_max_length,
        "sides": (tokenizer.padding_side, tokenizer.truncation_side),
    }


def write_json(file: Path, data: dict[str, Any]) -> None:
    file.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _old_words(config: dict[str, Any]) -> dict[str, Any]:
    """What version 4 calls the settings of a config.json of version 5, nested configs included."""
    words = _dtype_word(config) | _rope_words(config)
    for name, old in _RENAMED.get(str(config.get("model_type")), {}).items():
        if name in config:
            words[old] = config[name]
    for name, value in config.items():
        if isinstance(value, dict) and "model_type" in value:
            words[name] = value | _old_words(value)
    text = words.get("text_config")
    if isinstance(text, dict) and isinstance(config.get(_TIED), bool):
        text[_TIED] = config[_TIED]  # of the whole model; version 4, and other engines, look for it beside the text
    return words


def _dtype_word(config: dict[str, Any]) -> dict[str, Any]:
    return {"torch_dtype": config["dtype"]} if isinstance(config.get("dtype"), str) else {}


def _rope_words(config: dict[str, Any]) -> dict[str, Any]:
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict):
        return {}
    family, words = str(config.get("model_type")).removeprefix("lowrise-"), {}
    by_kind = {kind: value for kind, value in rope.items() if isinstance(value, dict) and "rope_type" in value}
    if by_kind:
        rope = by_kind.get("full_attention") or next(iter(by_kind.values()))
        local = by_kind.get("sliding_attention")
        if local is not None and local.get("rope_theta") != rope.get("rope_theta"):
            words[_LOCAL_THETA.get(family, "rope_local_base_freq")] = local.get("rope_theta")
    own = _OWN_WORDS.get(family, {})
    for name in ("rope_theta", "partial_rotary_factor"):
        if rope.get(name) is not None:
            words[own.get(name, name)] = rope[name]
    if by_kind and family in _GLOBAL_THETA:
        words[_GLOBAL_THETA[family]] = rope.get("rope_theta")
    kind = rope.get("rope_type", "default")
    if kind == "longrope" and "original_max_position_embeddings" in config:
        words["rope_scaling"] = {"type": kind} | {name: rope[name] for name in _LONGROPE if name in rope}
    elif kind != "default" or _SECTIONS in rope:
        apart = ("rope_theta", "partial_rotary_factor")
        words["rope_scaling"] = {name: value for name, value in rope.items() if name not in apart}
    return words


def _opened(folder: Path) -> dict[str, Any]:
    """What stock transformers makes of the folder's config.json, without the words that are only old."""
    settings: dict[str, Any] = AutoConfig.from_pretrained(folder, trust_remote_code=False).to_dict()
    return _without_old(settings)


def _without_old(settings: dict[str, Any]) -> dict[str, Any]:
    old = {"rope_theta", "rope_scaling", "torch_dtype", "partial_rotary_factor", "rope_local_base_freq", "type"}
    old |= {*_LOCAL_THETA.values(), *_GLOBAL_THETA.values(), "rotary_emb_base", "rotary_pct"}
    kept = {}
    for name, value in settings.items():
        if name == "rope_parameters" and isinstance(value, dict):
            kept[name] = _rope_as_read(value)
        elif name == "text_config" and isinstance(value, dict):
            kept[name] = {word: one for word, one in _without_old(value).items() if word != _TIED}
        elif name not in old:
            kept[name] = _without_old(value) if isinstance(value, dict) else value
    return kept


def _rope_as_read(rope: dict[str, Any]) -> dict[str, Any]:
    """Without the doubled word for its type."""
    return {
        name: _rope_as_read(value) if isinstance(value, dict) else value
        for name, value in rope.items()
        if name != "type"
    }
