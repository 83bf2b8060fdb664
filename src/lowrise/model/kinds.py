"""Which models can be opened at all, by their config: before weights are read."""

from __future__ import annotations

from typing import Any

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from lowrise.errors import ModelError
from lowrise.model.wrappers import wrapper_class

_DIVIDED = ("mamba", "mamba2", "falcon_mamba")  # whose loaded matrices transformers changes, by a setting


def check_kind(config: Any, source: str, is_gguf: bool) -> None:
    """Raises ModelError for encoders and encoder-decoders, which some auto classes would open as decoders, and for
    decoders that transformers loads with other weights than their files have.
    """
    _refuse_divided(config, source)
    expected, remedy = "a decoder-only causal language model", "choose another model"
    if any(getattr(one, "is_encoder_decoder", False) for one in (config, config.get_text_config(decoder=True))):
        raise ModelError(source, expected, f"an encoder-decoder ({config.model_type})", remedy)
    if wrapper_class(config) is not None:
        return
    causal = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    named = getattr(config, "architectures", None) or []
    remote = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    fits = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in named) or is_gguf
    # some encoders can be opened as decoders: without a named architecture, only if the config says that they are
    encoder = not named and getattr(config, "is_decoder", None) is False
    if not remote and (causal is None or encoder or (named and not fits)):
        kind = named[0] if named else config.model_type
        encoder = encoder or any(word in kind for word in ("MaskedLM", "Bert", "Encoder"))
        what = "an encoder" if encoder else "a model of another kind"
        raise ModelError(source, expected, f"{what} ({kind})", remedy)


def _refuse_divided(config: Any, source: str) -> None:
    """This setting is meant for weights that are drawn; loaded output matrices are divided by the root of the depth,
    too.
    """
    if config.model_type in _DIVIDED and config.rescale_prenorm_residual:
        expected = "false, since transformers otherwise divides the output matrices of"
        raise ModelError(
            f"{source}: rescale_prenorm_residual",
            f"{expected} {config.model_type} at every load",
            "true",
            "set it to false in config.json: it is of use before training only",
        )
