"""From which GGUF file a folder was cut, and which of its layers were kept: plan by plan, back to the file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lowrise.edit.student import layers_left
from lowrise.engines.gguf_checks import PLAN, SUFFIX
from lowrise.engines.gguf_file import GgufFile, open_gguf
from lowrise.errors import ModelError
from lowrise.model.weights import check_weight_files, fingerprint
from lowrise.plan import Plan, read_plan
from lowrise.reading import read_json


@dataclass(frozen=True)
class Origin:
    """kept: numbers of layers of `base`, in order; a layer that others were merged into, or trained in a span's place,
    counts as the one it came from.
    """

    base: GgufFile
    kept: tuple[int, ...]


def origin(folder: Path, named: Path | None) -> Origin | None:
    """None: it was not made from a GGUF file, as far as its plan says. named: where that file is now.

    Raises ModelError where the file, or a folder on the way, is gone or another one, and for a model that no plain
    stack of layers is.
    """
    file = folder / PLAN
    if not file.exists():
        if named is not None:
            expected, found = "a folder that lowrise cut", f"none: {PLAN} is missing"
            raise ModelError(folder, expected, found, "leave --base out, and llama.cpp's converter is called")
        return None
    plan = read_plan(file)
    kept = tuple(layers_left(plan.model.layers, plan.edits))
    source = Path(plan.model.source)
    if source.suffix != SUFFIX:
        return _of_folder(folder, source, plan, kept, named)
    _check_plain(folder, plan)
    return Origin(_checked_base(folder, named or source, plan), kept)


def _of_folder(folder: Path, source: Path, plan: Plan, kept: tuple[int, ...], named: Path | None) -> Origin | None:
    """Of one that was made from another folder, which may have been made from a file."""
    if not (source / PLAN).exists():
        if named is not None:
            found = f"one made from {plan.model.source}"
            raise ModelError(folder, "a folder that was made from a GGUF file", found, "leave --base out")
        return None
    if fingerprint(_weights(source)) != plan.model.sha256:
        found = "other weights there, sha256 not as in its plan"
        raise ModelError(source, f"the folder that {folder} was made from", found, "use --converter")
    before = origin(source, named)
    if before is None:
        return None
    _check_plain(folder, plan)
    return Origin(before.base, tuple(before.kept[layer] for layer in kept))


def _checked_base(folder: Path, file: Path, plan: Plan) -> GgufFile:
    expected = f"the GGUF file that {folder} was made from"
    if not file.is_file():
        raise ModelError(file, expected, "nothing there", "say where it is with --base, or use --converter")
    base = open_gguf(file)
    if fingerprint([file]) != plan.model.sha256:
        raise ModelError(file, expected, "another file, by its sha256", "say where it is with --base")
    if base.layers != plan.model.layers:
        raise ModelError(file, f"{plan.model.layers} layers, as its plan says", f"{base.layers}", "use --converter")
    return base


def _check_plain(folder: Path, plan: Plan) -> None:
    if not plan.loads_plainly:
        found = f"networks that {plan.preset} puts between them"
        raise ModelError(folder, "decoder layers alone, which is what GGUF knows", found, "choose another method")


def _weights(folder: Path) -> list[Path]:
    config = read_json(folder / "config.json", ModelError, "JSON", "use --converter", lenient=True)
    named = config.get("transformers_weights") if isinstance(config, dict) else None
    return check_weight_files(folder, str(folder), allow_pickle=False, named=named)
