"""`run`, `plan`, `apply` and `heal`: what makes a model or the plan of one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lowrise.chosen import chosen, output_of
from lowrise.cli.exporting import check_gguf_too, write_gguf_too
from lowrise.cli.program import app, foretold, sending, show, working
from lowrise.files import check_file, check_output
from lowrise.inputs import check_there, inputs_of
from lowrise.options import (
    HEALING,
    OPENING,
    SEARCHING,
    SELECTING,
    TASKS,
    TO_HEAL,
    TRAINED_TEXT,
    DryRun,
    Force,
    Fresh,
    Gguf,
    GgufType,
    Json,
    ModelArgument,
    OutFile,
    OutFolder,
    Private,
    Quiet,
    RecipeFile,
    ToHub,
    given_layers,
    recipe_of,
    takes,
)
from lowrise.ranks import is_first


@app.command()
@takes(*SELECTING, "fast", *SEARCHING, "max_ram", "eval_text", "windows", "speed", *TASKS, *OPENING, **TO_HEAL)
def run(
    given: dict[str, Any],
    model: ModelArgument = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The output folder [default: beside the model, by a telling name].")
    ] = None,
    recipe: RecipeFile = None,
    gguf: Gguf = None,
    gguf_type: GgufType = None,
    as_json: Json = False,
    quiet: Quiet = False,
    force: Force = False,
    fresh: Fresh = False,
    dry_run: DryRun = False,
    push: ToHub = None,
    private: Private = False,
) -> None:
    """Plan, edit, heal, measure and write, in one go."""
    from lowrise.recipe import build_recipe

    layers = given_layers(recipe, given, model=model)
    settings = build_recipe(*layers, where=str(recipe or ""))
    check_there(settings)
    said = {key for layer in layers for key in layer} | ({"out"} if out is not None else set())
    usual = output_of(settings)  # complains where no model is named, before anything is said
    out = usual if out is None else out
    check_output(out, force, [*inputs_of(settings), recipe])
    check_gguf_too(settings, out, gguf, gguf_type, force)
    if dry_run:
        foretold("run", settings, as_json, quiet)
        return
    with sending(out, push, private, force, quiet):
        with working("run", quiet, as_json) as progress:
            from lowrise import pipeline
            from lowrise.pipeline.opening import check_texts

            check_texts(settings)  # before the next line: bad input is one line alone
            if told := chosen(settings, out, said):
                progress.say(told)

            results = pipeline.run(settings, out, force, progress, fresh)
            write_gguf_too(out, gguf, gguf_type, force, progress)
        show(results, as_json, out)


@app.command()
@takes(*SELECTING, "fast", *SEARCHING, *OPENING)
def plan(
    out: OutFile,
    given: dict[str, Any],
    model: ModelArgument = None,
    recipe: RecipeFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    force: Force = False,
    fresh: Fresh = False,
    dry_run: DryRun = False,
) -> None:
    """Choose what to do to which layers, and write it down."""
    settings = recipe_of(recipe, given, model=model)
    check_file(out, force, [*inputs_of(settings), recipe])
    if dry_run:
        foretold("plan", settings, as_json, quiet)
        return
    with working("plan", quiet, as_json) as progress:
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
    gguf: Gguf = None,
    gguf_type: GgufType = None,
    as_json: Json = False,
    quiet: Quiet = False,
    force: Force = False,
    fresh: Fresh = False,
    dry_run: DryRun = False,
    push: ToHub = None,
    private: Private = False,
) -> None:
    """Do what a plan says, heal and write. All settings are the plan's; --text is for texts that have moved."""
    from lowrise.plan import read_plan
    from lowrise.planned import recipe_of_plan

    planned = read_plan(plan_file)
    settings = recipe_of_plan(planned, {**given, "model": model}, str(plan_file))
    check_output(out, force, [*inputs_of(settings), plan_file])
    check_gguf_too(settings, out, gguf, gguf_type, force)
    if dry_run:
        foretold("apply", settings, as_json, quiet)
        return
    with sending(out, push, private, force, quiet):
        with working("apply", quiet, as_json) as progress:
            from lowrise import pipeline

            results = pipeline.apply(planned, settings, out, force, progress, fresh)
            write_gguf_too(out, gguf, gguf_type, force, progress)
        show(results, as_json, out)


@app.command()
@takes("dataset", "seed", "bos", "eval_text", "windows", *TASKS, *OPENING, text=TRAINED_TEXT, **HEALING)
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
    dry_run: DryRun = False,
    push: ToHub = None,
    private: Private = False,
) -> None:
    """Train a shallow model to be the dense one again; keep what made it better. Takes `accelerate launch -m`."""
    settings = recipe_of(recipe, given, healed=True, model=model)
    if is_first():
        check_output(out, force, [*inputs_of(settings), recipe])
    if dry_run:
        foretold("heal", settings, as_json, quiet)
        return
    with sending(out, push, private, force, quiet):
        with working("heal", quiet, as_json) as progress:
            from lowrise.pipeline.healing import heal as heal_model

            results = heal_model(settings, out, force, progress, fresh)
        if results is not None:
            show(results, as_json, out)
