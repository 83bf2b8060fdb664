"""The command line: options into a recipe, one call into the pipeline, results out. Imports nothing heavy."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lowrise.errors import LowriseError, one_line, printable
from lowrise.files import check_file, check_output, write_file
from lowrise.inputs import inputs_of
from lowrise.options import (
    HEALING,
    OPENING,
    SEARCHING,
    SELECTING,
    SHARED,
    TASKS,
    TO_HEAL,
    Force,
    Fresh,
    Json,
    ModelArgument,
    OutFile,
    OutFolder,
    Quiet,
    RecipeFile,
    UsageError,
    given_layers,
    recipe_of,
    takes,
)
from lowrise.ranks import is_first
from lowrise.streams import keep_streams

if TYPE_CHECKING:
    from lowrise.methods import Kind
    from lowrise.progress import Reporter
    from lowrise.results import Results

app = typer.Typer(
    name="lowrise",
    help="Make a Hugging Face causal language model shallower, repair it, and say what it cost.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


_stopped: list[int] = []  # the exit status of a signal that came


@contextmanager
def _working(command: str, quiet: bool) -> Iterator[Reporter]:
    """What a command reports with: no part of it is silent for long, the import of what is heavy included."""
    from lowrise.progress import Reporter

    progress = Reporter(quiet, muted=not is_first())
    with progress.working(command):
        yield progress


def _show(results: Results, as_json: bool, path: Path | None) -> None:
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
        typer.echo(f"written to {path}" + (f"; {printable(misread)}" if misread else ""))


@app.command()
@takes(*SELECTING, *SEARCHING, "max_ram", "eval_text", "windows", "speed", *TASKS, *OPENING, **TO_HEAL)
def run(
    out: OutFolder,
    given: dict[str, Any],
    model: ModelArgument = None,
    recipe: RecipeFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    force: Force = False,
    fresh: Fresh = False,
) -> None:
    """Plan, edit, heal, measure and write, in one go."""
    settings = recipe_of(recipe, given, model=model)
    check_output(out, force, [*inputs_of(settings), recipe])
    with _working("run", quiet) as progress:
        from lowrise import pipeline

        results = pipeline.run(settings, out, force, progress, fresh)
    _show(results, as_json, out)


@app.command()
@takes(*SELECTING, *SEARCHING, *OPENING)
def plan(
    out: OutFile,
    given: dict[str, Any],
    model: ModelArgument = None,
    recipe: RecipeFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    force: Force = False,
    fresh: Fresh = False,
) -> None:
    """Choose what to do to which layers, and write it down."""
    settings = recipe_of(recipe, given, model=model)
    check_file(out, force, [*inputs_of(settings), recipe])
    with _working("plan", quiet) as progress:
        from lowrise import pipeline

        made = pipeline.make_plan(settings, progress, out, force, fresh).to_json()
    typer.echo(made if as_json else f"written to {out}", nl=not as_json)


@app.command()
@takes("text", "dataset", "synthetic_share", "for_engines", "max_ram", "eval_text", "windows", *OPENING, **TO_HEAL)
def apply(
    model: Annotated[str, typer.Argument(help="The model that the plan is for.", show_default=False)],
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan file.", show_default=False)],
    out: OutFolder,
    given: dict[str, Any],
    as_json: Json = False,
    quiet: Quiet = False,
    force: Force = False,
    fresh: Fresh = False,
) -> None:
    """Do what a plan says, heal and write. All settings are the plan's; --text is for texts that have moved."""
    from lowrise.plan import read_plan
    from lowrise.planned import recipe_of_plan

    planned = read_plan(plan_file)
    settings = recipe_of_plan(planned, {**given, "model": model}, str(plan_file))
    check_output(out, force, [*inputs_of(settings), plan_file])
    with _working("apply", quiet) as progress:
        from lowrise import pipeline

        results = pipeline.apply(planned, settings, out, force, progress, fresh)
    _show(results, as_json, out)


@app.command()
@takes("text", "dataset", "seed", "bos", "eval_text", "windows", *TASKS, *OPENING, **HEALING)
def heal(
    out: OutFolder,
    given: dict[str, Any],
    model: Annotated[
        str | None, typer.Argument(metavar="SHALLOW", help="A shallow model, made by any tool.", show_default=False)
    ] = None,
    recipe: RecipeFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    force: Force = False,
    fresh: Fresh = False,
) -> None:
    """Train a shallow model to be the dense one again; keep what made it better. Takes `accelerate launch -m`."""
    settings = recipe_of(recipe, given, healed=True, model=model)
    if is_first():
        check_output(out, force, [*inputs_of(settings), recipe])
    with _working("heal", quiet) as progress:
        from lowrise.pipeline.healing import heal as heal_model

        results = heal_model(settings, out, force, progress, fresh)
    if results is not None:
        _show(results, as_json, out)


@app.command()
@takes("text", "length", "bos", "windows", "speed", *TASKS, *OPENING)
def measure(
    model: Annotated[str, typer.Argument(help="A hub id, a folder, or a .gguf file.", show_default=False)],
    given: dict[str, Any],
    dense: Annotated[str | None, typer.Option("--dense", help="The model it was made from, measured too.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where to write results.json.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Layers, parameters, bytes, perplexity and tasks of a model, beside the dense one's if it is named."""
    settings = recipe_of(None, given, model=model, eval_text=given.pop("text", None))
    if out is not None:
        check_file(out, force, [*inputs_of(settings), dense])
    with _working("measure", quiet) as progress:
        from lowrise import pipeline

        results = pipeline.measure(settings, dense, progress)
    if out is not None:
        write_file(out.resolve(), results.to_json() + "\n")
    _show(results, as_json, out)


@app.command()
@takes(*SHARED, *SEARCHING, "max_ram", "eval_text", "windows", *TASKS, *OPENING, **TO_HEAL)
def compare(
    out: OutFolder,
    given: dict[str, Any],
    model: ModelArgument = None,
    presets: Annotated[str | None, typer.Option(help="Methods by name, between commas.", metavar="A,B")] = None,
    remove: Annotated[str | None, typer.Option(help="Net layers, between commas: 4,8,25%.", metavar="N|P%,...")] = None,
    recipe: RecipeFile = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep every row's checkpoint.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    force: Annotated[bool, typer.Option("--force", help="Begin an existing comparison anew.")] = False,
) -> None:
    """Several presets and sizes on one model: one table, pictures. Goes on where it stopped."""
    from rich.console import Console

    from lowrise.compare import ask, read_lists
    from lowrise.compare import compare as compare_presets
    from lowrise.report.comparison import terminal_comparison

    names, sizes, settings = read_lists(presets, remove, given_layers(recipe, given, model=model))
    asked = ask(names, sizes, settings, where=str(recipe or ""))
    with _working("compare", quiet) as progress:
        results = compare_presets(asked, out, force, keep, progress, where=str(recipe or ""))
    if as_json:
        typer.echo(results.to_json())
        return
    Console(highlight=False).print(terminal_comparison(results))
    typer.echo(f"written to {out}")


@app.command(hidden=True)
def prepare(folder: Path, asked: Path) -> None:
    """The first step of `compare`, in a process of its own."""
    with _working("prepare", quiet=False) as progress:
        from lowrise.compare.preparing import prepare as prepare_comparison

        prepare_comparison(folder, asked, progress)


@app.command()
@takes("text", "dataset", "samples", "length", "seed", "bos", *OPENING)
def observe(
    model: Annotated[str, typer.Argument(help="A hub id, a folder, or a .gguf file.", show_default=False)],
    out: OutFolder,
    given: dict[str, Any],
    as_json: Json = False,
    quiet: Quiet = False,
    force: Force = False,
    fresh: Fresh = False,
) -> None:
    """Similarity of a model's layers, by their outputs and weights: numbers as JSON, and pictures."""
    settings = recipe_of(None, given, model=model, preset="streamline-none")  # whose windows are the usual ones
    check_output(out, force, inputs_of(settings))
    with _working("observe", quiet) as progress:
        from lowrise import pipeline

        found = pipeline.observe_model(settings, out, force, progress, fresh)
    typer.echo(found.to_json(indent=None) if as_json else f"written to {out}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `run` or `apply` wrote.", show_default=False)],
) -> None:
    """Write the page and the model card of an output folder anew, from the numbers in it."""
    from lowrise.report.page import write_report

    typer.echo(f"written to {' and '.join(map(str, write_report(folder)))}")


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a model.", show_default=False)],
    for_engines: Annotated[
        str | None, typer.Option("--for", help="These engines alone.", metavar="ENGINE,...", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """What each serving engine will do with a folder, from what is known of it; nothing is run.

    With --for, exit 0 if all that are named open it and it equals, else 1.
    """
    import json

    from lowrise.engines import check as check_folder
    from lowrise.recipe import build_recipe

    named = build_recipe({"for_engines": for_engines}).for_engines if for_engines is not None else []
    verdicts = check_folder(folder, named)
    if as_json:
        typer.echo(json.dumps([verdict.data() for verdict in verdicts], indent=2))
    else:
        for verdict in verdicts:
            typer.echo(printable(f"{verdict.name:<32}  {verdict.sentence()}"))
    if named and not all(verdict.reads_right for verdict in verdicts):
        raise typer.Exit(1)


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete what is kept.")] = False,
    as_json: Json = False,
) -> None:
    """What measurements and stored teachers are kept, so that nothing is made twice, and where; or clear them away."""
    import json

    from lowrise.heal.targets import clear_teachers, stored_teachers
    from lowrise.measure.cache import cache_folder, clear_entries, entries

    folder = cache_folder()
    if clear:
        removed = clear_entries(folder) + clear_teachers(folder)
        typer.echo(json.dumps({"folder": str(folder), "removed": removed}) if as_json else f"removed {removed}")
        return
    kept, teachers = list(entries(folder)), list(stored_teachers(folder))
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), "entries": kept + teachers}, indent=2))
        return
    for entry in kept + teachers:
        typer.echo(printable(f"{entry['bytes']:>10,}  {entry['what']}  {entry.get('model', '')}".rstrip()))
    for found, name in ((kept, "measurements"), (teachers, "stored teachers")):
        if found or name == "measurements":
            typer.echo(f"{len(found)} {name}, {sum(entry['bytes'] for entry in found):,} bytes in {folder}")


_METHODS: dict[Kind, str] = {"criterion": "Criteria (`select` in a recipe)", "repair": "Repairs (--repair)"}


@app.command()
def presets(as_json: Json = False) -> None:
    """What methods there are, their papers, what they are made of, and whether their output loads plainly."""
    import json

    from lowrise.methods import methods, origin
    from lowrise.recipe import presets as all_presets

    found = all_presets()
    if as_json:
        rows = {
            name: {
                "summary": one.summary,
                "paper": one.paper,
                "loads_plainly": one.loads_plainly,
                **one.recipe.model_dump(include={"select", "network", "repair"}),
                "heal": one.settings.get("heal"),
                "package": one.package,
            }
            for name, one in found.items()
        }
        typer.echo(json.dumps(rows, indent=2))
        return
    for name, one in found.items():
        recipe = one.recipe
        portable = any("form" in row.settings for row in recipe.methods)
        plain = "yes" if one.loads_plainly else "no; with --form portable, yes" if portable else "no"
        paper = one.paper or ("lowrise's own: docs/methods.md" if one.package is None else f"of {one.package}")
        typer.echo(f"{name}\n    {one.summary}\n    {paper}")
        typer.echo(f"    select {recipe.select}, network {recipe.network}, repair {recipe.repair}")
        if recipe.heal is not None:
            typer.echo(f"    healed on {recipe.heal.tokens} tokens: {recipe.heal.objective}, {recipe.heal.train}")
        typer.echo(f"    loads plainly: {plain}")
    for kind, title in _METHODS.items():
        typer.echo(f"\n{title}")
        for name, row in methods(kind).items():
            package = origin(kind, name)
            typer.echo(f"{name}\n    {row.summary}{'' if package is None else f' (of {package})'}")


def main() -> None:
    """The console script. Exit 0 done, 2 bad usage or input (one line), 130 interrupted, 1 anything else.

    1 too where what was asked for is written, but stdout does not take what is to be printed.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    sys.unraisablehook = _unraisable
    keep_streams()
    _stopped.clear()
    command = typer.main.get_command(app)
    try:
        status = command.main(standalone_mode=False) or 0
        sys.stdout.flush()
        sys.exit(status)
    except LowriseError as error:
        if is_first() and not _stopped:
            typer.echo(f"lowrise: {one_line(str(error))}", err=True)
        sys.exit(_stopped[0] if _stopped else error.exit_status)
    except UsageError as error:
        typer.echo(f"lowrise: {one_line(error.format_message(), 450)}; see `lowrise --help`", err=True)  # type: ignore[attr-defined]
        sys.exit(2)
    except Exception:
        if not _stopped:
            raise
        sys.exit(_stopped[0])  # a library made another exception of the one that `_stop` raised in it


def _stop(number: int, _frame: object) -> None:
    """End in order, removing what is half written; a second signal must not break into that."""
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    with suppress(OSError):  # closed, full, or of a terminal that is gone
        os.write(2, b"lowrise: interrupted\n")
    ready = {
        "lowrise.pipeline": "measure",
        "lowrise.pipeline.healing": "heal",
        "lowrise.compare": "compare",
        "lowrise.report.page": "write_report",
    }
    if not any(hasattr(sys.modules.get(module), name) for module, name in ready.items()):
        # libraries are still being imported, some of which do not bear an exception there; nothing is written yet
        os._exit(128 + number)
    _stopped.append(128 + number)
    sys.exit(128 + number)


def _unraisable(lost: sys.UnraisableHookArgs) -> None:
    """An exception that a `__del__` cannot pass on. If it is the one of `_stop`, it is raised anew a moment later."""
    if isinstance(lost.exc_value, SystemExit) and lost.exc_value.code is not None:
        code = lost.exc_value.code
        signal.signal(signal.SIGALRM, lambda *_: sys.exit(code))
        signal.setitimer(signal.ITIMER_REAL, 0.001)
    else:
        sys.__unraisablehook__(lost)
