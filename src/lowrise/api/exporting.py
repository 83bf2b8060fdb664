"""A folder as a file that other engines open, as the command of the same name writes it."""

from __future__ import annotations

from pathlib import Path

from lowrise.api.progress import Progress, reporting
from lowrise.engines.gguf_checks import Type
from lowrise.engines.gguf_out import Exported
from lowrise.engines.gguf_out import export as export_gguf


def export(
    folder: str | Path,
    out: str | Path,
    *,
    type: Type = "auto",
    all: bool = False,
    base: str | Path | None = None,
    converter: str | Path | None = None,
    force: bool = False,
    progress: Progress = None,
) -> Exported:
    """Write a checkpoint folder as the GGUF file `out`, read it back and compare. What is not proven is not put there.

    A folder that lowrise cut from a GGUF file becomes a cut of that file: blocks left out, the others numbered anew,
    tensors that did not change by their own bytes. Any other goes through llama.cpp's converter, as does one for which
    `converter` is named.

    type: the format of matrices that changed, with `all` of all of them; `auto` is the base's if that is F32, F16, BF16
    or Q8_0, else Q8_0. base: where the GGUF file is now, if it has moved. converter: llama.cpp's convert_hf_to_gguf.py;
    None: the one on PATH. force: replace an existing GGUF file, once the new one is whole.
    Raises InputError for what cannot be written, ProofError where the file read back is not what it is to be.

    >>> made = lowrise.export("cut", "cut.gguf")  # doctest: +SKIP
    >>> made.changed  # doctest: +SKIP
    ['blk.12.ffn_down.weight']
    """
    with reporting(progress, "export") as reporter:
        return export_gguf(
            Path(folder),
            Path(out),
            wanted=type,
            everything=all,
            base=None if base is None else Path(base),
            converter=None if converter is None else Path(converter),
            force=force,
            progress=reporter,
        )
