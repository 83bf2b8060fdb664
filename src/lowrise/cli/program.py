"""The command `lowrise`, which the other modules here add commands to, and what they report with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lowrise.errors import printable
from lowrise.ranks import is_first

if TYPE_CHECKING:
    from lowrise.progress import Reporter
    from lowrise.results import Results

app = typer.Typer(
    name="lowrise",
    help="Make a Hugging Face causal language model shallower, repair it, and say what it cost.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@contextmanager
def working(command: str, quiet: bool) -> Iterator[Reporter]:
    """What a command reports with: no part of it is silent for long, the import of what is heavy included."""
    from lowrise.progress import Reporter

    progress = Reporter(quiet, muted=not is_first())
    with progress.working(command):
        yield progress


def show(results: Results, as_json: bool, path: Path | None) -> None:
    """Results on stdout: JSON, or the short table and where the result lies."""
    from rich.console import Console

    from lowrise.report.engines import misread_sentence
    from lowrise.report.table import terminal_table

    if as_json:
        typer.echo(results.to_json())
        return
    Console(highlight=False).print(terminal_table(results))
    if path is not None:
        misread = misread_sentence(results)
        typer.echo(printable(f"written to {path}; {misread}") if misread else f"written to {path}")
