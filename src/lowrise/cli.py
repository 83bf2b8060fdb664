"""The command line: options into a recipe, one call into the pipeline, results out. Imports nothing heavy."""

from __future__ import annotations

import functools
import inspect
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lowrise.errors import LowriseError
from lowrise.files import check_file, check_output, write_file

if TYPE_CHECKING:
    from lowrise.progress import Reporter
    from lowrise.recipe import Recipe

app = typer.Typer(
    name="lowrise",
    help="Make a Hugging Face causal language model shallower, repair it, and say what it cost.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

# Options that stand in a recipe too, under the same names. None: not given, so the recipe's own value holds.
_MODEL = Annotated[str | None, typer.Argument(help="A hub id, a folder, or a .gguf file.", show_default=False)]
_OPTIONS: dict[str, Any] = {
    "preset": Annotated[str | None, typer.Option(help="A method by name: see `lowrise presets`.")],
    "remove": Annotated[str | None, typer.Option(help="Net layers to remove: 8, or 25%.", metavar="N|P%")],
    "text": Annotated[list[str] | None, typer.Option(help="Calibration text; repeatable.", metavar="FILE")],
    "dataset": Annotated[str | None, typer.Option(help="Calibration from `datasets`: NAME or NAME:CONFIG.")],
    "samples": Annotated[str | None, typer.Option(help="Calibration windows [default: 128].", metavar="N")],
    "length": Annotated[
        str | None, typer.Option(help="Tokens a window [default: 2048, capped by the model].", metavar="N")
    ],
    "seed": Annotated[
        str | None, typer.Option(help="Decides samples, initial weights and order [default: 0].", metavar="N")
    ],
    "form": Annotated[str | None, typer.Option(help="Of ffn and swiglu: paper, or portable, which loads plainly.")],
    "avoid_massive": Annotated[
        bool | None, typer.Option(help="Only spans without a layer that writes massive activations.")
    ],
    "loss": Annotated[str | None, typer.Option(help="Of training: mse, as published, or relative.")],
    "combine": Annotated[int | None, typer.Option(help="laco: layers that become one, C [default: 4].")],
    "low": Annotated[int | None, typer.Option(help="laco: the lowest layer a merge may begin at [default: 1].")],
    "high": Annotated[int | None, typer.Option(help="laco: where the merged layers end [default: the last layer].")],
    "interval": Annotated[int | None, typer.Option(help="laco: layers to go down after a merge, I [default: 2].")],
    "threshold": Annotated[
        float | None, typer.Option(help="laco: similarity a merge must exceed, T [default: 0.65, unless --remove].")
    ],
    "representation": Annotated[
        str | None, typer.Option(help="laco: flattened-final, as published, or per-token, before the final norm.")
    ],
    "norms": Annotated[str | None, typer.Option(help="laco: keep the first layer's norms, or merge them too.")],
    "strict": Annotated[
        bool | None, typer.Option("--strict", help="laco: exit 2 if nothing is merged or the output collapses.")
    ],
    "max_ram": Annotated[str | None, typer.Option(help="For training pairs, as 4G [default: half of what is free].")],
    "eval_text": Annotated[
        list[str] | None, typer.Option(help="Text to measure perplexity on; repeatable.", metavar="FILE")
    ],
    "windows": Annotated[str | None, typer.Option(help="Measure the first N windows of each text only.", metavar="N")],
    "speed": Annotated[
        bool | None,
        typer.Option("--speed", help="Time generation too, both models in turn; holds both in memory meanwhile."),
    ],
    "tasks": Annotated[
        str | None, typer.Option(help="lm-eval tasks, or `papers`, both papers' benchmark list.", metavar="A,B")
    ],
    "task_dir": Annotated[str | None, typer.Option(help="A folder of lm-eval task files.", metavar="DIR")],
    "limit": Annotated[str | None, typer.Option(help="The first N items of each task only.", metavar="N")],
    "fewshot": Annotated[
        str | None, typer.Option(help="Examples in front of each item [default: the task's own].", metavar="N")
    ],
    "dtype": Annotated[str | None, typer.Option(help="auto (the model's own; float32 on CPU), float32, bfloat16 ...")],
    "device": Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps ...")],
    "trust_remote_code": Annotated[bool | None, typer.Option(help="Run code that the checkpoint brings.")],
    "allow_pickle": Annotated[bool | None, typer.Option(help="Open pickled weights, which can run code.")],
}
_TASKS = ("tasks", "task_dir", "limit", "fewshot")
_OPENING = ("dtype", "device", "trust_remote_code", "allow_pickle")
_COLLAPSE = ("combine", "low", "high", "interval", "threshold", "representation", "norms")
_SELECTING = ("preset", "remove", "text", "dataset", "samples", "length", "seed", "form", "avoid_massive", "loss")
_SHARED = tuple(name for name in _SELECTING if name not in ("preset", "remove"))
_SEARCHING = (*_COLLAPSE, "strict")

# The base of what typer raises for an unusable command line; it has no public name of its own.
_UsageError: type[BaseException] = typer.BadParameter.__mro__[1]

RecipeFile = Annotated[Path | None, typer.Option("--recipe", help="Options as YAML; the command line wins.")]
Json = Annotated[bool, typer.Option("--json", help="Results as JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output, once the new one is whole.")]
OutFolder = Annotated[Path, typer.Option("--out", help="The output folder.", show_default=False)]
OutFile = Annotated[Path, typer.Option("--out", help="The plan file.", show_default=False)]


def _takes(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the recipe options `names`; it receives those that were given as `given`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True)
        options = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_OPTIONS[name])
            for name in names
        ]

        @functools.wraps(command)
        def wrapped(**values: Any) -> None:
            given = {name: values.pop(name) for name in names}
            command(**values, given={name: value for name, value in given.items() if value not in (None, [])})

        kept = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own.parameters.values()]
        wrapped.__signature__ = own.replace(  # type: ignore[attr-defined]
            parameters=[parameter for parameter in kept if parameter.name != "given"] + options
        )
        wrapped.__annotations__ = {p.name: p.annotation for p in wrapped.__signature__.parameters.values()}  # type: ignore[attr-defined]
        return wrapped

    return decorate


def _recipe(recipe_file: Path | None, given: dict[str, Any], **more: Any) -> Recipe:
    """The recipe file, with what was given on top."""
    from lowrise.recipe import build_recipe

    return build_recipe(*_given(recipe_file, given, **more), where=str(recipe_file or ""))


def _given(recipe_file: Path | None, given: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    """The recipe file and, later and so stronger, what was given on the command line."""
    from lowrise.recipe import read_recipe

    given = {**given, **{name: value for name, value in more.items() if value is not None}}
    if "loss" in given:
        given["training"] = {"loss": given.pop("loss")}
    if "tasks" in given:
        given["tasks"] = [name.strip() for name in given["tasks"].split(",")]
    searching = {name: given.pop(name) for name in _COLLAPSE if name in given}
    if searching:
        given["collapse"] = searching
    return [read_recipe(recipe_file), given] if recipe_file is not None else [given]


def _reporter(quiet: bool) -> Reporter:
    from lowrise.progress import Reporter

    return Reporter(quiet)


def _show(results: dict[str, Any], as_json: bool, path: Path | None) -> None:
    """Results on stdout: JSON, or the short table and where the result lies."""
    import json

    from rich.console import Console

    from lowrise.report.table import terminal_table

    if as_json:
        typer.echo(json.dumps(results, indent=2))
        return
    Console(highlight=False).print(terminal_table(results))
    if path is not None:
        typer.echo(f"written to {path}")


@app.command()
@_takes(*_SELECTING, *_SEARCHING, "max_ram", "eval_text", "windows", "speed", *_TASKS, *_OPENING)
def run(
    out: OutFolder,
    given: dict[str, Any],
    model: _MODEL = None,
    recipe: RecipeFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Plan, edit, heal, measure and write, in one go."""
    settings = _recipe(recipe, given, model=model)
    check_output(out, force, settings.model)
    from lowrise import pipeline

    _show(pipeline.run(settings, out, force, _reporter(quiet)), as_json, out)


@app.command()
@_takes(*_SELECTING, *_SEARCHING, *_OPENING)
def plan(
    out: OutFile,
    given: dict[str, Any],
    model: _MODEL = None,
    recipe: RecipeFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Choose what to do to which layers, and write it down."""
    settings = _recipe(recipe, given, model=model)
    check_file(out, force)
    from lowrise import pipeline

    made = pipeline.make_plan(settings, _reporter(quiet)).to_json()
    write_file(out, made)
    typer.echo(made if as_json else f"written to {out}", nl=not as_json)


@app.command()
@_takes("text", "dataset", "max_ram", "eval_text", "windows", *_OPENING)
def apply(
    model: Annotated[str, typer.Argument(help="The model that the plan is for.", show_default=False)],
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan file.", show_default=False)],
    out: OutFolder,
    given: dict[str, Any],
    as_json: Json = False,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Do what a plan says, heal and write. Samples, length and seed are the plan's."""
    from lowrise.plan import read_plan

    planned = read_plan(plan_file)
    made_from = planned.calibration
    settings = _recipe(
        None,
        given,
        model=model,
        preset=planned.preset,
        samples=made_from.samples,
        length=made_from.length,
        seed=made_from.seed,
    )
    check_output(out, force, model)
    from lowrise import pipeline

    _show(pipeline.apply(planned, settings, out, force, _reporter(quiet)), as_json, out)


@app.command()
@_takes("text", "length", "windows", "speed", *_TASKS, *_OPENING)
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
    import json

    settings = _recipe(None, given, model=model, eval_text=given.pop("text", None))
    if out is not None:
        check_file(out, force)
    from lowrise import pipeline

    results = pipeline.measure(settings, dense, _reporter(quiet))
    if out is not None:
        write_file(out, json.dumps(results, indent=2) + "\n")
    _show(results, as_json, out)


@app.command()
@_takes(*_SHARED, *_SEARCHING, "max_ram", "eval_text", "windows", *_TASKS, *_OPENING)
def compare(
    out: OutFolder,
    given: dict[str, Any],
    model: _MODEL = None,
    presets: Annotated[str | None, typer.Option(help="Methods by name, between commas.", metavar="A,B")] = None,
    remove: Annotated[str | None, typer.Option(help="Net layers, between commas: 4,8,25%.", metavar="N|P%,...")] = None,
    recipe: RecipeFile = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep every row's checkpoint.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    force: Annotated[bool, typer.Option("--force", help="Begin an existing comparison anew.")] = False,
) -> None:
    """Several presets and sizes on one model: one table, pictures. Goes on where it stopped."""
    import json

    from rich.console import Console

    from lowrise import compare as comparing
    from lowrise.report.comparison import terminal_comparison

    names, sizes, settings = comparing.read_lists(presets, remove, _given(recipe, given, model=model))
    asked = comparing.ask(names, sizes, settings, where=str(recipe or ""))
    results = comparing.compare(asked, out, force, keep, _reporter(quiet))
    if as_json:
        typer.echo(json.dumps(results, indent=2))
        return
    Console(highlight=False).print(terminal_comparison(results))
    typer.echo(f"written to {out}")


@app.command(hidden=True)
def prepare(folder: Path, asked: Path) -> None:
    """The first step of `compare`, in a process of its own."""
    from lowrise.compare.preparing import prepare as prepare_comparison

    prepare_comparison(folder, asked, _reporter(quiet=False))


@app.command()
@_takes("text", "dataset", "samples", "length", "seed", *_OPENING)
def observe(
    model: Annotated[str, typer.Argument(help="A hub id, a folder, or a .gguf file.", show_default=False)],
    out: OutFolder,
    given: dict[str, Any],
    as_json: Json = False,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """How alike a model's layers are, in outputs and weights: numbers as JSON, and pictures."""
    import json

    settings = _recipe(None, given, model=model)
    check_output(out, force, model)
    from lowrise import pipeline

    found = pipeline.observe_model(settings, out, force, _reporter(quiet))
    typer.echo(json.dumps(found) if as_json else f"written to {out}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `run` or `apply` wrote.", show_default=False)],
) -> None:
    """Write the page and the model card of an output folder anew, from the numbers in it."""
    from lowrise.report.page import write_report

    typer.echo(f"written to {' and '.join(map(str, write_report(folder)))}")


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete what is kept.")] = False,
    as_json: Json = False,
) -> None:
    """What measurements are kept, so that nothing is measured twice, and where; or clear them away."""
    import json

    from lowrise.measure.cache import cache_folder, clear_entries, entries

    folder = cache_folder()
    if clear:
        removed = clear_entries(folder)
        typer.echo(json.dumps({"folder": str(folder), "removed": removed}) if as_json else f"removed {removed}")
        return
    kept = list(entries(folder))
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), "entries": kept}, indent=2))
        return
    for entry in kept:
        typer.echo(f"{entry['bytes']:>10,}  {entry['what']}  {entry.get('model', '')}".rstrip())
    typer.echo(f"{len(kept)} measurements, {sum(entry['bytes'] for entry in kept):,} bytes in {folder}")


@app.command()
def presets(as_json: Json = False) -> None:
    """What methods there are, their papers, and whether their output loads plainly."""
    import json

    from lowrise.recipe import presets as all_presets

    found = all_presets()
    if as_json:
        rows = {
            name: {"summary": one.summary, "paper": one.paper, "loads_plainly": one.loads_plainly}
            for name, one in found.items()
        }
        typer.echo(json.dumps(rows, indent=2))
        return
    for name, one in found.items():
        plain = "yes" if one.loads_plainly else "no; with --form portable, yes"
        typer.echo(f"{name}\n    {one.summary}\n    {one.paper}\n    loads plainly: {plain}")


def main() -> None:
    """The console script. Exit 0 done, 2 bad usage or input (one line), 130 interrupted, 1 anything else."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    sys.unraisablehook = _unraisable
    command = typer.main.get_command(app)
    try:
        sys.exit(command.main(standalone_mode=False) or 0)
    except LowriseError as error:
        typer.echo(f"lowrise: {error}", err=True)
        sys.exit(error.exit_status)
    except _UsageError as error:
        typer.echo(f"lowrise: {' '.join(error.format_message().split())}; see `lowrise --help`", err=True)  # type: ignore[attr-defined]
        sys.exit(2)


def _stop(number: int, _frame: object) -> None:
    """End in order, removing what is half written; a second signal must not break into that."""
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    os.write(2, b"lowrise: interrupted\n")
    ready = {"lowrise.pipeline": "measure", "lowrise.compare": "compare"}
    if not any(hasattr(sys.modules.get(module), name) for module, name in ready.items()):
        # libraries are still being imported, some of which do not bear an exception there; nothing is written yet
        os._exit(128 + number)
    sys.exit(128 + number)


def _unraisable(lost: sys.UnraisableHookArgs) -> None:
    """An exception that a `__del__` cannot pass on. If it is the one of `_stop`, it is raised anew a moment later."""
    if isinstance(lost.exc_value, SystemExit) and lost.exc_value.code is not None:
        code = lost.exc_value.code
        signal.signal(signal.SIGALRM, lambda *_: sys.exit(code))
        signal.setitimer(signal.ITIMER_REAL, 0.001)
    else:
        sys.__unraisablehook__(lost)
