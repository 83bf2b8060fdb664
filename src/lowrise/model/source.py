"""Opening a model: a hub id, a local folder, or a `.gguf` file. What is refused is refused before weights are read."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoTokenizer

from lowrise.errors import UNUSABLE, ModelError, close_paths, reason
from lowrise.headers import gguf_header
from lowrise.model.companions import hub_files, refuse_adapter
from lowrise.model.decoder import Decoder
from lowrise.model.depth import depth
from lowrise.model.extras import notes_of_extras
from lowrise.model.formats import named_format, refuse_unreadable, usual_format
from lowrise.model.kinds import check_kind
from lowrise.model.placement import how_to_load, pick_devices, settle
from lowrise.model.side_files import check_side_files
from lowrise.model.sizes import check_layers, check_numbers
from lowrise.model.tokenizing import tokenizing
from lowrise.model.weights import (
    check_finite,
    check_weight_files,
    fingerprint,
    sizes_in_memory,
    stored_tensors,
)
from lowrise.model.wrappers import auto_class, is_known
from lowrise.plan import ModelRecord
from lowrise.reading import kind_of, read_json
from lowrise.store import Memory, store_for

# What transformers and the parsers below it raise on files that are not what they should be.
_UNUSABLE: tuple[type[Exception], ...] = (
    *UNUSABLE,
    struct.error,
    pickle.UnpicklingError,
    StrictDataclassError,
)

# What config.json says beside the numbers, by type. The numbers are checked by the family's own config class.
_TYPES = {"model_type": str, "architectures": list, "auto_map": dict, "transformers_weights": str}
_UNPACKING = 16  # bytes a number while a tensor of a GGUF file is unpacked: three copies in float32, and the packed one
_WORDS = {str: "text", list: "list", dict: "mapping"}


@dataclass
class OpenModel:
    """A loaded model with all that a run needs to know of it."""

    decoder: Decoder
    tokenizer: Any
    record: ModelRecord
    save_dtype: torch.dtype
    """The dtype the checkpoint came in, or the one the user asked for: the result is written in it."""
    bytes_on_disk: int
    place: Path | None
    """The folder, or the .gguf file, that it was read from; None: it was in memory already."""
    trust_remote_code: bool = False
    allow_pickle: bool = False
    memory: Memory = field(default_factory=Memory)
    """What was asked of the place where its layers live."""
    notes: list[str] = field(default_factory=list)
    """What the user should know of it, a sentence each."""

    @property
    def model(self) -> Any:
        return self.decoder.model


def open_model(
    source: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    memory: Memory | None = None,
) -> OpenModel:
    """Open `source` for pruning, in evaluation mode.

    dtype: `auto` is the model's own on an accelerator and float32 on CPU. device: as of `pick_devices`. memory: None:
    in memory.
    Raises ModelError, one line, for whatever cannot be opened or is not a decoder-only model fit to be pruned; as
    `store_for` does where its layers cannot live as `memory` asks.
    """
    _silence_transformers()
    pick_devices(device)
    place = _locate(source, trust_remote_code, allow_pickle)
    with _reading_once(place[1]):
        return _open(source, *place, dtype, device, trust_remote_code, allow_pickle, memory or Memory())


def _open(
    source: str,
    folder: Path,
    gguf: Path | None,
    revision: str | None,
    dtype: str,
    device: str,
    trust_remote_code: bool,
    allow_pickle: bool,
    memory: Memory,
) -> OpenModel:
    kwargs: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if gguf is not None:
        kwargs["gguf_file"] = gguf.name
        weights = [gguf]
    else:
        named = _check_config_file(folder, source, trust_remote_code).get("transformers_weights")
        weights = check_weight_files(folder, source, allow_pickle, named)
    tensors = stored_tensors(weights)
    if gguf is None:
        refuse_unreadable(tensors, source)
    config = _load(source, lambda: AutoConfig.from_pretrained(folder, **kwargs))
    check_kind(config, source, is_gguf=gguf is not None)
    if tensors:
        check_layers(config, tensors, source)
        if is_known(config):  # not code that the checkpoint brings
            _load(source, lambda: check_numbers(config, tensors, source))
    own_dtype = named_format(config) or usual_format(tensors)
    on_cpu = pick_devices(device)[0].type == "cpu"
    chosen = getattr(torch, dtype) if dtype != "auto" else torch.float32 if on_cpu else own_dtype
    devices = pick_devices(device, sum(tensor.numbers for tensor in tensors) * chosen.itemsize)
    tokenizer = _load_tokenizer(source, folder, kwargs)
    unpacked = 0 if gguf is None else _UNPACKING * max(tensor.numbers for tensor in tensors)
    store = store_for(memory, sizes_in_memory(tensors, weights, chosen), devices[0], unpacked)
    kwargs["use_safetensors"] = None if allow_pickle or gguf is not None else True
    # the GGUF loader draws a bar of its own, which no setting of transformers silences
    silent = contextlib.redirect_stderr(io.StringIO()) if gguf is not None else contextlib.nullcontext()
    with silent, store.placing(weights):
        how = {"config": config, "dtype": chosen, "output_loading_info": True, "ignore_mismatched_sizes": True}
        how |= how_to_load(devices, gguf=gguf is not None)
        if gguf is not None and store.layer_by_layer and not _gguf_layers().reads_by_itself(gguf):
            model, info = _load(source, lambda: _gguf_layers().opened(gguf, how))
        else:
            model, info = _load(source, lambda: auto_class(config).from_pretrained(folder, **how, **kwargs))
    lost = sorted(info["missing_keys"]) + sorted(str(key) for key in info.get("mismatched_keys", ()))
    if lost:
        raise ModelError(source, "weights for every parameter", f"none for {lost[0]} ({len(lost)} in all)", "mend it")
    if gguf is not None:
        _forget_quantisation(model)
    notes = notes_of_extras(info["unexpected_keys"], config.get_text_config(decoder=True), source)
    settle(model, devices, source).eval()
    check_finite(model, source, store)
    decoder = Decoder(model, source, store)
    return OpenModel(
        decoder=decoder,
        tokenizer=tokenizer,
        record=ModelRecord(
            source=source,
            revision=revision,
            family=decoder.family,
            layers=len(decoder),
            sha256=fingerprint(weights),
        ),
        save_dtype=own_dtype if dtype == "auto" else chosen,
        bytes_on_disk=sum(file.stat().st_size for file in weights),
        place=folder if gguf is None else gguf,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
        memory=memory,
        notes=notes,
    )


def open_tokenizer(source: str, *, trust_remote_code: bool = False, allow_pickle: bool = False) -> Any:
    """The tokenizer of `source` alone, as `open_model` reads it; no weights are fetched. Raises ModelError likewise."""
    _silence_transformers()
    folder, gguf, _ = _locate(source, trust_remote_code, allow_pickle, weights=False)
    kwargs: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if gguf is None:
        _check_config_file(folder, source, trust_remote_code)
    else:
        gguf_header(gguf)
        kwargs["gguf_file"] = gguf.name
    with _reading_once(gguf):
        return _load_tokenizer(source, folder, kwargs)


def layers_of(source: str, *, trust_remote_code: bool = False, allow_pickle: bool = False) -> int:
    """How many decoder layers `source` says that it has; no weights are fetched or read. Raises ModelError likewise."""
    _silence_transformers()
    folder, gguf, _ = _locate(source, trust_remote_code, allow_pickle, weights=False)
    if gguf is not None:
        about = gguf_header(gguf).metadata
        count = about.get(f"{about.get('general.architecture')}.block_count")
        if not isinstance(count, int):
            raise ModelError(source, "a number of layers in its metadata", "none", "fetch the model again")
        return count
    _check_config_file(folder, source, trust_remote_code)
    config = _load(source, lambda: AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code))
    check_kind(config, source, is_gguf=False)
    return int(_load(source, lambda: depth(config.get_text_config(decoder=True))))


@dataclass(frozen=True)
class Described:
    """A model that is not opened. config: of transformers. stored: the number format that its result is written in.

    tokenizer: None where its folder holds none.
    """

    config: Any
    stored: torch.dtype
    tokenizer: Any


def describe(
    source: str, *, dtype: str = "auto", trust_remote_code: bool = False, allow_pickle: bool = False
) -> Described:
    """Config, tokenizer and headers of `source`; of a hub id no weights are fetched. Raises ModelError likewise."""
    _silence_transformers()
    folder, gguf, _ = _locate(source, trust_remote_code, allow_pickle, weights=False)
    kwargs: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if gguf is None:
        named = _check_config_file(folder, source, trust_remote_code).get("transformers_weights")
        there = kind_of(source, ModelError, "a folder", "check the path") is not None
        tensors = stored_tensors(check_weight_files(folder, source, allow_pickle, named)) if there else []
    else:
        kwargs["gguf_file"] = gguf.name
        tensors = stored_tensors([gguf])
    with _reading_once(gguf):
        config = _load(source, lambda: AutoConfig.from_pretrained(folder, **kwargs))
        check_kind(config, source, is_gguf=gguf is not None)
        tokenizer = _load_tokenizer(source, folder, kwargs)
    own = named_format(config) or usual_format(tensors)
    return Described(config, own if dtype == "auto" else getattr(torch, dtype), tokenizer)


def _locate(
    source: str, trust_remote_code: bool, allow_pickle: bool, *, weights: bool = True
) -> tuple[Path, Path | None, str | None]:
    """(folder, gguf file or None, hub revision or None). weights: are fetched too, of a hub id."""
    path, expected, remedy = Path(source), "a folder, a .gguf file or a hub id", "check the path"
    kind = kind_of(source, ModelError, expected, remedy)
    if kind == "folder":
        return path, None, None
    if kind == "file" and path.suffix == ".gguf":
        return path.parent, path, None
    if kind is not None:
        raise ModelError(source, expected, "a file of another kind" if kind == "file" else kind, remedy)
    if source.count("/") > 1 or source.startswith((".", "/", "~")) or path.suffix == ".gguf":
        raise ModelError(source, expected, "nothing there", close_paths(source, remedy))
    from huggingface_hub import snapshot_download

    patterns = hub_files(trust_remote_code, allow_pickle)
    patterns = patterns if weights else [one for one in patterns if one not in ("*.safetensors", "*.bin")]
    remedy = close_paths(source, "check the name")
    folder = Path(_load(source, lambda: snapshot_download(source, allow_patterns=patterns), remedy))
    return folder, None, folder.name


def _check_config_file(folder: Path, source: str, trust_remote_code: bool) -> dict[str, Any]:
    """What config.json says, once it is seen to be one, unquantised, and not in need of code that is not allowed."""
    refuse_adapter(folder, source)
    file = folder / "config.json"
    if not file.is_file():
        raise ModelError(source, "a model folder with config.json", "no config.json in it", "check the path")
    config = read_json(file, ModelError, "JSON", "fetch the model again", lenient=True)
    check_side_files(folder)
    if not isinstance(config, dict):
        raise ModelError(file, "a mapping with a model_type", "something else", "fetch the model again")
    _check_types(config, file)
    if config.get("quantization_config"):
        said = config["quantization_config"]
        method = said.get("quant_method", "unknown method") if isinstance(said, dict) else "unknown method"
        raise ModelError(
            source, "unquantised weights", f"a quantised checkpoint ({method})", "prune the original, then quantise"
        )
    known = config.get("model_type") in transformers.CONFIG_MAPPING
    if config.get("auto_map") and not known and not trust_remote_code:
        raise ModelError(
            source,
            "a model that stock transformers knows",
            "one that asks to run its own code",
            "read that code, then say --trust-remote-code",
        )
    if not known and not config.get("auto_map"):
        found = f"model_type {config.get('model_type')!r}"
        raise ModelError(source, "a model that stock transformers knows", found, "upgrade transformers or check it")
    return config


def _check_types(config: dict[str, Any], file: Path) -> None:
    """Raises ModelError where config.json holds another type than everyone who reads it takes for granted."""
    for name, kind in _TYPES.items():
        value = config.get(name)
        if value is not None and not isinstance(value, kind):
            raise ModelError(file, f"a {_WORDS[kind]} as {name}", repr(value), "fetch the model again")
    if not all(isinstance(name, str) for name in config.get("architectures") or []):
        raise ModelError(file, "class names as architectures", repr(config["architectures"]), "fetch the model again")


def _forget_quantisation(model: Any) -> None:
    """A GGUF file is dequantised while it loads; the mark that stays would forbid saving.

    Matrices that were transposed on the way lie in memory as no checkpoint's do, which rounds products otherwise.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        if hasattr(model, name):
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def _gguf_layers() -> Any:
    from lowrise.model import gguf_layers  # the package takes its time to import

    return gguf_layers


def _load(source: str, action: Any, unreachable: str = "check the name") -> Any:
    """Run a loader; what libraries raise on unusable input becomes one line naming the model."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    from safetensors import SafetensorError

    try:
        return action()
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError) as error:
        expected = "a model folder or hub id that can be reached"
        raise ModelError(source, expected, reason(error), unreachable) from error
    except SafetensorError as error:
        raise ModelError(source, "whole safetensors files", str(error), "fetch the model again") from error
    except _UNUSABLE as error:
        expected = "a model transformers can open"
        raise ModelError(source, expected, reason(error), "check the model's files") from error


def _load_tokenizer(source: str, folder: Path, kwargs: dict[str, Any]) -> Any:
    with tokenizing(source, ModelError):
        return _load(source, lambda: AutoTokenizer.from_pretrained(folder, **kwargs))


def _reading_once(gguf: Path | None) -> contextlib.AbstractContextManager[None]:
    """While a model is opened; None: not of a GGUF file."""
    if gguf is None:
        return contextlib.nullcontext()
    from lowrise.model.gguf_once import read_once  # the package takes its time to import

    return read_once()


@contextlib.contextmanager
def silenced_transformers() -> Iterator[None]:
    """Without its progress bars and notes for a while, for whoever uses it himself too."""
    level, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    _silence_transformers()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()


def _silence_transformers() -> None:
    """Its progress bars and notes would land between ours."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
