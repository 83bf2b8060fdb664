"""`push`: a checkpoint to the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lowrise.cli.program import app, working
from lowrise.options import Json, Private, Quiet


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A checkpoint's folder.", show_default=False)],
    name: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Its place on the hub.", show_default=False)],
    private: Private = False,
    as_json: Json = False,
    quiet: Quiet = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the files of a repository that is there.")] = False,
) -> None:
    """Send a checkpoint with its card to the hub: weights, tokenizer and the records of lowrise, and nothing else."""
    with working("push", quiet, as_json) as progress:
        from lowrise.pipeline.pushing import Push, push_folder

        address = push_folder(folder, Push(name, private, force), progress)
    typer.echo(json.dumps({"url": address}) if as_json else f"pushed to {address}")
