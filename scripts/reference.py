"""The generated pages of the documentation: command line, recipes, presets and methods, formats, messages, Python API.

They are made from the code itself, and so say what it does: `python scripts/reference.py` writes them, `--check` ends
with status 1 where a page is another one, and names it. No torch. What other packages add is left out.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer
from documentation.error_messages import errors_of
from documentation.generated import asked_to_check, write_or_check
from pydantic import BaseModel

import lowrise
from lowrise.cli import app
from lowrise.methods import Kind, methods, origin
from lowrise.plan import Plan
from lowrise.recipe import Recipe, presets
from lowrise.results import Analysis, Comparison, Curve, Healing, Observation, Results
from lowrise.settings import ENGINES, OLDER_KEYS, Heal, MergeSearch, Training

DOCS = Path(__file__).resolve().parent.parent / "docs"
SOURCES = DOCS.parent / "src" / "lowrise"
COMMAND = "python scripts/reference.py"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
# What a file holds, by its name: the type, and who writes it.
FILES: dict[str, tuple[type[BaseModel], str]] = {
    "plan": (Plan, "`lowrise plan` writes it, and `run` puts it into the output folder as `lowrise/plan.json`."),
    "results": (Results, "`run` and `apply` write it as `lowrise/results.json`, `measure` with `--out`."),
    "comparison": (Comparison, "`compare` writes it as `compare.json`."),
    "observation": (Observation, "`run` writes it as `lowrise/observation.json`."),
    "analysis": (Analysis, "`observe` writes it as `observation.json`."),
    "healing": (Healing, "`Model.save` writes it as `lowrise/healing.json`; in results it stands under `healing`."),
    "training": (Curve, "`lowrise/training.json` is a list of these, one for each network that was trained."),
}
KINDS: dict[Kind, tuple[str, str]] = {
    "criterion": (
        "Criteria",
        "`select` in a recipe: how layers are chosen. Older names are read, and plans keep them: "
        + ", ".join(f"`{row.older_name}` (now `{row.name}`)" for row in methods("criterion").values() if row.older_name)
        + ".",
    ),
    "repair": ("Repairs", "`--repair`, or `repair` in a recipe: what makes up for layers that are gone."),
    "network": ("Networks", "`network` in a recipe: what is trained in a span's place."),
}
# Names of `lowrise.Model` that its own modules alone use.
INNER = ("opened", "at_work", "unedited", "note", "note_healing", "settings")
RECORDS = ("Comparison", "Healing", "Plan", "Results")  # whose keys stand on the page of the formats


def main() -> int:
    check, found = asked_to_check(__doc__, "a page"), dict(pages())
    files = ((DOCS / name, content) for name, content in found.items())
    return write_or_check(files, check, f"run `{COMMAND}`", f"{len(found)} pages are as the code is")


def pages() -> Iterator[tuple[str, str]]:
    """(path below docs/, content) of every generated file."""
    texts = {"command": command_line(), "recipes": recipes(), "presets": methods_and_presets(), "formats": formats()}
    texts |= {"messages": messages(), "python": python()}
    for name, parts in texts.items():
        yield f"reference/{name}.md", "\n\n".join([f"<!-- generated: {COMMAND} -->", *parts]) + "\n"
    kinds: dict[str, type[BaseModel]] = {name: kind for name, (kind, _) in FILES.items()} | {"recipe": Recipe}
    for name, kind in kinds.items():
        schema = {"$schema": DIALECT, **kind.model_json_schema()}
        yield f"schema/{name}.json", json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# -- the command line -----------------------------------------------------------------------------------------------


def command_line() -> list[str]:
    group = typer.main.get_command(app)
    commands = {name: one for name, one in group.commands.items() if not one.hidden}  # type: ignore[attr-defined]
    rows = [(f"[`lowrise {name}`](#lowrise-{name})", first_line(one.help)) for name, one in commands.items()]
    parts = [
        "# The command line",
        "Exit status: 0 done; 2 bad usage or input, in one line; 130 interrupted; 1 anything else. "
        "An option that stands in a [recipe](recipes.md) too has the same name there, with `_` for `-`.",
        table(("command", "what it does"), rows),
    ]
    for name, one in commands.items():
        arguments = [p for p in one.params if p.param_type_name == "argument"]
        usage = " ".join(said(p) if p.required else f"[{said(p)}]" for p in arguments)
        parts += [f"## `lowrise {name}`", " ".join((one.help or "").split())]
        parts.append(f"    lowrise {name} {usage} [OPTIONS]".replace("  [", " ["))
        if arguments:
            parts.append(table(("argument", "meaning"), [(f"`{said(p)}`", p.help or "") for p in arguments]))
        options = [p for p in one.params if p.param_type_name == "option" and not p.hidden and p.name != "help"]
        parts.append(table(("option", "default", "meaning"), map(option, options)))
    return parts


def first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]


def said(parameter: Any) -> str:
    """What stands for a value."""
    return str(parameter.metavar or parameter.name.upper())


def option(parameter: Any) -> tuple[str, str, str]:
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    value = "" if parameter.is_flag else f" `{parameter.metavar or 'VALUE'}`"
    meaning, _, default = (parameter.help or "").partition("[default: ")
    usual = default.rstrip("].") if default else "required" if parameter.required else ""
    if not usual and parameter.default not in (None, False, [], ()):
        usual = str(parameter.default)
    return f"{names}{value}", usual, meaning.strip()


# -- recipes --------------------------------------------------------------------------------------------------------


def recipes() -> list[str]:
    older = {older: key for older, key in OLDER_KEYS.items() if older != "for"}
    read = ", ".join(f"`{key}` (now `{now}`)" for key, now in older.items())
    parts = [
        "# Recipes",
        "A recipe is a YAML file, given by `--recipe FILE`. Every key may be left out. The preset gives what is not "
        "said, then the defaults below hold. What stands on the command line wins. An unknown key is refused.",
        f"Older spellings are read: {read}. [recipe.json](../schema/recipe.json) is the same page as a JSON schema.",
        "## Keys",
        keys(Recipe),
    ]
    within: dict[str, type[BaseModel]] = {"training": Training, "merge_search": MergeSearch, "heal": Heal}
    for name, kind in within.items():
        parts += [f"## Under `{name}:`", *paragraphs(kind.__doc__), keys(kind)]
    return parts


def keys(kind: type[BaseModel]) -> str:
    schema = kind.model_json_schema()
    rows = []
    for name, about in schema["properties"].items():
        written = "for" if name == "for_engines" else name
        default = f"[below](#under-{name})" if isinstance(about.get("default"), dict) else shown(about.get("default"))
        rows.append((f"`{written}`", form(name, about), limits(about), default, about["description"]))
    return table(("key", "type", "range", "default", "meaning"), rows)


def shown(value: object) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def form(name: str, about: dict[str, Any]) -> str:
    """A type in words."""
    if name in ("select", "network", "repair"):
        kinds: dict[str, Kind] = {"select": "criterion", "network": "network", "repair": "repair"}
        return f"one of [{KINDS[kinds[name]][0].lower()}](presets.md#{KINDS[kinds[name]][0].lower()})"
    if name == "for_engines":
        return f"list of {', '.join(f'`{engine}`' for engine in ENGINES)}"
    if name == "preset":
        return "one of [presets](presets.md)"
    return type_of(about)


def type_of(about: dict[str, Any]) -> str:
    """A JSON schema's type in words; parts of a format lead to their table."""
    if "$ref" in about:
        name = about["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})" if name not in ("Training", "MergeSearch", "Heal") else "mapping, see below"
    for key in ("anyOf", "oneOf"):
        if key in about:
            return " or ".join(dict.fromkeys(map(type_of, about[key])))
    if "enum" in about:
        return ", ".join(shown(value) for value in about["enum"])
    if "const" in about:
        return shown(about["const"])
    if about.get("type") == "array":
        entries = about.get("prefixItems")
        return f"({', '.join(map(type_of, entries))})" if entries else f"list of {type_of(about.get('items', {}))}"
    if isinstance(about.get("additionalProperties"), dict):
        return f"mapping to {type_of(about['additionalProperties'])}"
    return {"object": "mapping", None: "any"}.get(about.get("type"), str(about.get("type")))


def limits(about: dict[str, Any]) -> str:
    bounds = {"exclusiveMinimum": "> ", "minimum": "≥ ", "exclusiveMaximum": "< ", "maximum": "≤ "}
    found = [one for one in (about, *about.get("anyOf", [])) if bounds.keys() & one.keys()]
    return ", ".join(f"{sign}{power(found[0][key])}" for key, sign in bounds.items() if found and key in found[0])


def power(value: float) -> str:
    """Large bounds as powers."""
    if isinstance(value, int) and value >= 10**4:
        for base in (2, 10):
            exponent = len(bin(value)) - 3 if base == 2 else len(str(value)) - 1
            if base**exponent == value:
                return f"{base}^{exponent}"
    return f"{value:g}"


def paragraphs(text: str | None) -> list[str]:
    return [" ".join(one.split()) for one in re.split(r"\n\s*\n", (text or "").strip()) if one.strip()]


# -- methods and presets ---------------------------------------------------------------------------------------------


def methods_and_presets() -> list[str]:
    rows = []
    for name, one in presets().items():
        if one.package is not None:
            continue
        recipe = one.recipe
        portable = any("form" in row.settings for row in recipe.methods)
        plain = "yes" if one.loads_plainly else "with `form: portable`" if portable else "no"
        windows = f"{recipe.samples} × {recipe.fitted_length}"
        made_of = f"`{recipe.select}`, `{recipe.network}`, `{recipe.repair}`"
        made_of += "" if recipe.heal is None else f", then healed on {recipe.heal.tokens} tokens"
        rows.append((f"`{name}`", one.summary, link(one.paper), made_of, windows, plain))
    parts = [
        "# Presets and methods",
        "A preset is a criterion, a network and a repair under one name. "
        "[How to choose](../choose.md) · [how to add one](../adding.md). `lowrise presets` prints this page, and what "
        "other packages add.",
        "## Presets",
        "Calibration is in windows times tokens; presets of a merge search look at as many sentences instead. Stock "
        "`transformers` opens the result if it loads plainly; else its folder brings a modelling file.",
        table(("preset", "what it does", "paper", "select, network, repair", "calibration", "loads plainly"), rows),
    ]
    for kind, (title, about) in KINDS.items():
        own = [row for name, row in methods(kind).items() if origin(kind, name) is None]
        head = ("name", "what it does", "paper", *(("looks at",) if kind == "criterion" else ()))
        lines = [
            (f"`{row.name}`", row.summary, link(row.paper), *((row.looks_at,) if kind == "criterion" else ()))
            for row in own
        ]
        parts += [f"## {title}", about, table(head, lines)]
    return parts


def link(paper: str | None) -> str:
    return "lowrise's own: [methods](../methods.md)" if paper is None else f"[{paper.rpartition('/')[2]}]({paper})"


# -- formats --------------------------------------------------------------------------------------------------------


def formats() -> list[str]:
    parts = [
        "# File formats",
        "All files are JSON. A key that a run had no cause to write is left out. A number that could not be had is "
        "`null`, with its reason beside it where there is one. Each format is published as a JSON schema.",
    ]
    told: set[str] = set()
    for name, (kind, about) in FILES.items():
        schema = kind.model_json_schema()
        parts += [f"## {name}.json", f"{about} Schema: [{name}.json](../schema/{name}.json)."]
        if kind.__name__ not in told:  # healing is a part of results
            told.add(kind.__name__)
            parts += typed(kind.__name__, schema)
        else:
            parts.append(f"Its keys: [{kind.__name__}](#{kind.__name__.lower()}).")
        for part, inner in schema.get("$defs", {}).items():
            if part not in told:
                told.add(part)
                parts += typed(part, inner)
    return parts


def typed(name: str, schema: dict[str, Any]) -> list[str]:
    rows = [
        (f"`{key}`", type_of(about), limits(about), "" if key in schema.get("required", []) else "may be left out")
        for key, about in schema.get("properties", {}).items()
    ]
    head = f"### {name}"
    return [head, *paragraphs(schema.get("description")), table(("key", "type", "range", ""), rows)]


# -- messages -------------------------------------------------------------------------------------------------------


def messages() -> list[str]:
    """Every error whose expectation stands in the code in words, by the part that finds it."""
    parts = [
        "# All messages",
        "Made from the code. `…` stands for what differs. What stands in front of `expected` says where. "
        "[Trouble](../trouble.md) explains the most frequent.",
    ]
    found: dict[str, list[tuple[str, str]]] = {}
    for file in sorted(SOURCES.rglob("*.py")):
        part = file.relative_to(SOURCES).parts[0].removesuffix(".py")
        found.setdefault(part, []).extend(errors_of(file))
    for part, rows in found.items():
        if rows:
            parts += [f"## {part}", table(("message", "what to do"), dict.fromkeys(rows))]
    return parts


# -- Python ---------------------------------------------------------------------------------------------------------


def python() -> list[str]:
    """mkdocstrings fills in what the docstrings say."""
    parts = [
        "# Python API",
        "All names of `import lowrise`, as their docstrings have them. [lowrise in Python](../api.md) is the way in.",
    ]
    for name in sorted(lowrise.__all__, key=lambda name: (name[0].isupper(), name)):
        home = lowrise._ELSEWHERE.get(name, "lowrise.api")
        hidden = ["_", *(f"{inner}$" for inner in INNER if name == "Model")]
        members = "members: false" if name in RECORDS else f"filters: {json.dumps([f'!^{one}' for one in hidden])}"
        parts.append(f"::: {home}.{name}\n    options:\n      heading: lowrise.{name}\n      {members}")
        if name in RECORDS:
            parts.append(
                f"Its keys, as attributes: [file formats](formats.md#{name.lower()}). `to_json()` gives its file."
            )
    return parts


if __name__ == "__main__":
    sys.exit(main())
