"""Multimodal models: a decoder of text with towers for images or sound around it, which are kept as they are.

transformers lists them by model type, each with one class that takes all inputs. That class is opened, cut and written,
never the text model alone that `AutoModelForCausalLM` may make of the same folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)

from lowrise.restriction import Restriction

CAUSAL = AutoModelForCausalLM.__name__
# Vision features are added to the stream at layers of the text that are told by number. Entries of this list of the
# vision tower: the n-th one's at layer n.
_IN_TURN = "deepstack_visual_indexes"
# Entries of these are numbers of layers, or lists that end in one (Granite-4 Vision).
_BY_NUMBER = ("deepstack_layer_map", "spatial_target_layers")


def wrapper_class(config: Any) -> str | None:
    """The name of the class around the text decoder that `config` is of; None for a plain causal model.

    Where a config names no class, the whole of its model is meant.
    """
    name: str | None = MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.get(config.model_type)
    named = getattr(config, "architectures", None) or [name]
    remote = CAUSAL in (getattr(config, "auto_map", None) or {})
    plain = config.get_text_config(decoder=True) is config and config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return name if name in named and not plain and not remote else None


def auto_class(config: Any) -> Any:
    """The auto class of transformers that opens the whole model of `config`."""
    return AutoModelForCausalLM if wrapper_class(config) is None else auto_class_of(config.model_type)


def auto_class_of(kind: str) -> Any:
    """The one that opens multimodal models of this type."""
    with_images = kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return AutoModelForImageTextToText if with_images else AutoModelForMultimodalLM


def hub_task(config: Any) -> dict[str, str]:
    """What the hub calls that a model takes more than text, as an entry of a model card's header."""
    if wrapper_class(config) is None:
        return {}
    with_images = config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return {"pipeline_tag": "image-text-to-text" if with_images else "any-to-any"}


def is_known(config: Any) -> bool:
    """Whether stock transformers has a class of decoders for it."""
    return config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or wrapper_class(config) is not None


def restrictions_of_images(config: Any, layers: int) -> list[Restriction]:
    """The cuts of a stack of `layers` layers that leave those which are given vision features beside the stream.

    None before the last of them goes, so that all keep their numbers.
    """
    setting, count = max(_injected(config), key=lambda row: row[1], default=("", 0))
    if not count:
        return []
    count = min(count, layers)

    def patterns(depth: int) -> list[tuple[str, ...]]:
        return [_kinds(count, depth)] if depth >= count else []

    first = f"the first {count} layers" if count > 1 else "the first layer"
    reason = f"{config.model_type} adds features of images to the stream within {first}, by number ({setting})"
    return [Restriction(reason, _kinds(count, layers), patterns)]


def _injected(config: Any) -> Iterator[tuple[str, int]]:
    """(setting, how many of the first layers it speaks of)."""
    for part in parts(config):
        yield _IN_TURN, len(getattr(part, _IN_TURN, None) or ())
        for name in _BY_NUMBER:
            entries = getattr(part, name, None) or ()
            yield name, max((1 + (one[-1] if isinstance(one, list | tuple) else one) for one in entries), default=0)


def _kinds(count: int, depth: int) -> tuple[str, ...]:
    return ("injected",) * count + ("free",) * (depth - count)


def parts(config: Any) -> Iterator[Any]:
    """The config and all that are nested in it."""
    yield config
    for name in getattr(config, "sub_configs", ()):
        part = getattr(config, name, None)
        if part is not None and not isinstance(part, dict):
            yield from parts(part)
