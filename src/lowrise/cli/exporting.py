"""`export`: a folder as a file that other engines open."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from lowrise.cli.program import app, working
from lowrise.errors import InputError
from lowrise.options import Json, Quiet

if TYPE_CHECKING:
    from lowrise.engines.gguf_checks import Type
    from lowrise.progress import Reporter
    from lowrise.recipe import Recipe


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A model folder.", show_default=False)],
    gguf: Annotated[Path, typer.Option("--gguf", help="The file to write.", metavar="OUT.gguf", show_default=False)],
    wanted: Annotated[
        str,
        typer.Option(
            "--type",
            help="Of matrices that changed: f32, f16, bf16 or q8_0; auto: the base's if it is one of these, else q8_0.",
        ),
    ] = "auto",
    everything: Annotated[
        bool, typer.Option("--all", help="Write all matrices in --type, not only changed ones.")
    ] = False,
    base: Annotated[
        Path | None, typer.Option(help="Where the GGUF file that DIR was cut from is now.", metavar="FILE")
    ] = None,
    converter: Annotated[
        Path | None,
        typer.Option(help="llama.cpp's convert_hf_to_gguf.py, for folders from no GGUF file [default: on PATH]."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing GGUF file, once the new one is whole.")
    ] = False,
) -> None:
    """Write a folder as a GGUF file, read it back and compare; with `xllamacpp` installed, ask llama.cpp too.

    What was cut from a GGUF file becomes a cut of that file: tensors that did not change keep their own bytes.
    """
    from lowrise.engines.gguf_checks import check_export

    check_export(gguf, [folder, base], wanted, everything, force)
    with working("export", quiet, as_json) as progress:
        from lowrise.engines.gguf_out import export as export_gguf

        made = export_gguf(
            folder, gguf, wanted=cast("Type", wanted), everything=everything, base=base, converter=converter,
            force=force, progress=progress,
        )  # fmt: skip
    if as_json:
        typer.echo(made.to_json())
        return
    typer.echo("\n".join([*made.sentences(), f"written to {gguf}"]))


def check_gguf_too(settings: Recipe, folder: Path, gguf: Path | None, wanted: str | None, force: bool) -> None:
    """Refuse what could not be exported after a run to `folder`, if that is wished for."""
    if gguf is None:
        if wanted is not None:
            raise InputError("--type", "--gguf, whose matrices it is of", "none", "give --gguf too, or leave it out")
        return
    from lowrise.engines.gguf_checks import check_wish

    check_wish(settings, folder, gguf, wanted or "auto", force)


def write_gguf_too(folder: Path, gguf: Path | None, wanted: str | None, force: bool, progress: Reporter) -> None:
    """The folder that a run has written, as `export` writes it, if that is wished for."""
    if gguf is None:
        return
    from lowrise.engines.gguf_out import export as export_gguf

    made = export_gguf(folder, gguf, wanted=cast("Type", wanted or "auto"), force=force, progress=progress)
    for sentence in made.sentences():
        progress.say(f"{gguf}: {sentence}")
