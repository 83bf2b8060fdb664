"""`measure`, `compare` and `observe`: what finds numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lowrise.cli.program import app, show, show_estimate, working
from lowrise.files import check_file, check_output, write_file
from lowrise.inputs import inputs_of
from lowrise.options import (
    MEASURED_TEXT,
    OPENING,
    SEARCHING,
    SHARED,
    TASKS,
    TO_HEAL,
    DryRun,
    Force,
    Fresh,
    Json,
    ModelArgument,
    OutFolder,
    Quiet,
    RecipeFile,
    completing,
    given_layers,
    recipe_of,
    takes,
)


@app.command()
@takes("length", "bos", "windows", "speed", *TASKS, *OPENING, text=MEASURED_TEXT)
def measure(
    model: Annotated[str, typer.Argument(help="A hub id, a folder, or a .gguf file.", show_default=False)],
    given: dict[str, Any],
    dense: Annotated[str | None, typer.Option("--dense", help="The model it was made from, measured too.")] = None,
    draft_for: Annotated[
        str | None, typer.Option("--draft-for", help="Try it as a draft of this dense model, too.", metavar="DENSE")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where to write results.json.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Layers, parameters, bytes, perplexity and tasks of a model, beside the dense one's if it is named."""
    settings = recipe_of(None, given, model=model, eval_text=given.pop("text", None))
    if out is not None:
        check_file(out, force, [*inputs_of(settings), dense, draft_for])
    with working("measure", quiet, as_json) as progress:
        from lowrise import pipeline

        results = pipeline.measure(settings, dense, progress, draft_for)
    if out is not None:
        write_file(out.resolve(), results.to_json() + "\n")
    show(results, as_json, out)


@app.command()
@takes(*SHARED, *SEARCHING, "max_ram", "eval_text", "windows", *TASKS, *OPENING, **TO_HEAL)
def compare(
    out: OutFolder,
    given: dict[str, Any],
    model: ModelArgument = None,
    presets: Annotated[
        str | None,
        typer.Option(help="Methods by name, between commas.", metavar="A,B", autocompletion=completing("preset")),
    ] = None,
    remove: Annotated[str | None, typer.Option(help="Net layers, between commas: 4,8,25%.", metavar="N|P%,...")] = None,
    recipe: RecipeFile = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep every row's checkpoint.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    force: Annotated[bool, typer.Option("--force", help="Begin an existing comparison anew.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Several presets and sizes on one model: one table, pictures. Goes on where it stopped."""
    from rich.console import Console

    from lowrise.compare import ask, check_place, read_lists
    from lowrise.compare import compare as compare_presets
    from lowrise.report.comparison import terminal_comparison

    names, sizes, settings = read_lists(presets, remove, given_layers(recipe, given, model=model))
    asked = ask(names, sizes, settings, where=str(recipe or ""))
    if dry_run:
        check_place(out, force, [*inputs_of(asked.recipes[0]), str(recipe) if recipe is not None else None])
        with working("compare", quiet, as_json):
            from lowrise.compare.estimating import dry_run as foretell

            found = foretell(asked.recipes, keep)
        show_estimate(found, as_json)
        return
    with working("compare", quiet, as_json) as progress:
        results = compare_presets(asked, out, force, keep, progress, where=str(recipe or ""))
    if as_json:
        typer.echo(results.to_json())
        return
    Console(highlight=False).print(terminal_comparison(results))
    typer.echo(f"written to {out}")


@app.command(hidden=True)
def prepare(folder: Path, asked: Path) -> None:
    """The first step of `compare`, in a process of its own."""
    with working("prepare", quiet=False) as progress:
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
    with working("observe", quiet, as_json) as progress:
        from lowrise import pipeline

        found = pipeline.observe_model(settings, out, force, progress, fresh)
    typer.echo(found.to_json(indent=None) if as_json else f"written to {out}")
