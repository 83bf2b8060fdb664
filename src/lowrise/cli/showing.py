"""`report`, `check`, `cache` and `presets`: what is there already."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lowrise.cli.program import app
from lowrise.errors import printable
from lowrise.options import Json, completing

if TYPE_CHECKING:
    from lowrise.methods import Kind


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
        str | None,
        typer.Option(
            "--for",
            help="These engines alone.",
            metavar="ENGINE,...",
            show_default=False,
            autocompletion=completing("for_engines"),
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """What each serving engine will do with a folder, from what is known of it; nothing is run.

    With --for, exit 0 if all that are named open it and it equals, else 1.
    """
    import json

    from lowrise.engines import check as check_folder
    from lowrise.recipe import build_recipe

    named = [] if for_engines is None else build_recipe({"for_engines": for_engines}).for_engines
    verdicts = check_folder(folder, named)
    if as_json:
        typer.echo(json.dumps([verdict.data() for verdict in verdicts], indent=2))
    else:
        for verdict in verdicts:
            typer.echo(printable(f"{verdict.name:<24}  {verdict.sentence()}"))
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
