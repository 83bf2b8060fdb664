"""The command `lowrise`, which the other modules here add commands to, and what they report with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lowrise.errors import OutputError, printable
from lowrise.ranks import is_first

if TYPE_CHECKING:
    from lowrise.progress import Reporter
    from lowrise.recipe import Recipe
    from lowrise.results import Estimate, Results

app = typer.Typer(
    name="lowrise",
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


_MOST_USED = """\
lowrise makes a causal language model shallower, repairs it, and says what it cost. The commands that people use:

  lowrise run MODEL                        choose layers, take them out, repair, measure, write
  lowrise heal DIR --dense MODEL --out D   train a cut model to be the dense one again
  lowrise measure DIR --dense MODEL        what is left: size, perplexity, tasks
  lowrise compare MODEL --presets A,B ...  several methods and sizes: one table, one page
  lowrise check DIR                        what serving engines will do with it

All commands: lowrise --help. Methods: lowrise presets. To complete names in the shell: lowrise --install-completion"""


@app.callback()
def alone(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Say which version this is.", is_eager=True)] = False,
) -> None:
    """Make a Hugging Face causal language model shallower, repair it, and say what it cost."""
    if version:
        import lowrise

        typer.echo(f"lowrise {lowrise.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(_MOST_USED)


@contextmanager
def working(command: str, quiet: bool, as_json: bool = False) -> Iterator[Reporter]:
    """What a command reports with: no part of it is silent for long, the import of what is heavy included."""
    from lowrise.progress import Reporter

    progress = Reporter(quiet, muted=not is_first())
    if not as_json:
        progress.begin("starting")
    with progress.working(command):
        yield progress


@contextmanager
def sending(out: Path, name: str | None, private: bool, force: bool, quiet: bool) -> Iterator[None]:
    """Around a command that writes the folder `out`: sends it to the hub at last, if that is asked for by name.

    Raises OutputError before anything else where it could not be sent.
    """
    if name is None:
        if private:
            raise OutputError("--private", "--push, whose repository is private then", "none", "say --push ORG/NAME")
        yield
        return
    from lowrise.pipeline.pushing import Push, check_push, push_folder
    from lowrise.progress import Reporter

    push = Push(name, private, force)
    if is_first():
        check_push(push)
    yield
    if is_first():
        progress = Reporter(quiet)
        progress.say(f"pushed to {push_folder(out, push, progress)}")


def foretold(command: str, settings: Recipe, as_json: bool, quiet: bool) -> None:
    """What `--dry-run` says in place of the command."""
    with working(command, quiet, as_json):
        from lowrise.pipeline.estimating import dry_run

        found = dry_run(command, settings)
    show_estimate(found, as_json)


def show_estimate(found: Estimate, as_json: bool) -> None:
    """Three lines on stdout, or JSON."""
    from lowrise.cost.total import lines

    for line in [found.to_json()] if as_json else lines(found):
        typer.echo(line if as_json else printable(line))


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
        page = path / "lowrise" / "report.html"
        if page.exists():
            typer.echo(printable(f"its page: {page}"))
        misread = misread_sentence(results)
        typer.echo(printable(f"written to {path}; {misread}") if misread else f"written to {path}")
