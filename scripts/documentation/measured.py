"""docs/data/results.yaml as Markdown: the tables of docs/results.md, and blocks of other pages that hold numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lowrise.report import words

Data = dict[str, Any]


def times(value: float) -> str:
    return f"×{value:,.2f}" if value < 10 else f"×{value:,.1f}" if value < 100 else f"×{value:,.0f}"


def perplexity(value: float) -> str:
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def _powers(value: float) -> str:
    return times(value) if value < 1e5 else f"×{value:.1e}".replace("e+0", "e").replace("e+", "e")


FORMS: dict[str, Callable[[float, Data], str]] = {
    "number": lambda value, _: f"{value:,}",
    "one": lambda value, _: perplexity(value),
    "three": lambda value, _: f"{value:.3f}",
    "six": lambda value, _: f"{value:.6f}",
    "percent": lambda value, _: f"{value:.1f}%",
    "times": lambda value, _: _powers(value),
    "ratio": lambda value, column: (
        perplexity(value) if value == column["dense"] else f"{perplexity(value)} ({times(value / column['dense'])})"
    ),
}


def rows_of(table: Data) -> Iterator[list[str]]:
    """As they are shown: the best of a group is bold, and a group says only once what it has in common."""
    columns, before = table["columns"], None
    grouped = columns[0]["form"] == "number"
    for row in table["rows"]:
        cells = []
        for place, (column, value) in enumerate(zip(columns, row, strict=True)):
            shown = str(value) if isinstance(value, str) else FORMS[column["form"]](value, column)
            mates = [other[place] for other in table["rows"] if not grouped or other[0] == row[0]]
            cells.append(f"**{shown}**" if _is_best(column.get("best"), value, mates, row) else shown)
        if grouped and row[0] == before:
            cells[0] = ""
        before = row[0]
        yield cells


def _is_best(best: str | None, value: Any, mates: Sequence[Any], row: Sequence[Any]) -> bool:
    if best is None or isinstance(value, str):
        return False
    if best == "row":
        return bool(value == min(one for one in row if not isinstance(one, str)))
    numbers = [one for one in mates if not isinstance(one, str)]
    return len(numbers) > 1 and bool(value == (min if best == "low" else max)(numbers))


def markdown(table: Data) -> str:
    head = [column["name"] for column in table["columns"]]
    ruler = ["---" if column["form"] == "text" else "---:" for column in table["columns"]]
    lines = [head, ruler, *rows_of(table)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def section(table: Data) -> str:
    """Of docs/results.md: what, by which command, on which day, and where to read more."""
    command = f"<!-- not run: {table['not_run']} -->\n```sh\n{table['command'].strip()}\n```"
    where = f"{table['date']}, [log](log.md#{table['entry']})."
    return "\n\n".join(filter(None, [f"{table['about']} {where}", command, markdown(table), table.get("after")]))


def demo_table(demo: Data, every: bool) -> str:
    """What `make demo` prints at its end. every: line of it."""
    dense, cut = (f"{value:,}" for value in demo["parameters"])
    ratio = demo["perplexity"][1] / demo["perplexity"][0]
    share = words.percent(demo["parameters"][1] / demo["parameters"][0])
    lines = [
        ("", "dense", "compressed"),
        ("layers", *map(str, demo["layers"])),
        ("parameters", dense, f"{cut} ({share})"),
        *([("of them embeddings", f"{demo['embeddings']:,}", f"{demo['embeddings']:,}")] if every else []),
        ("weights (float32)", *(f"{size} MB" for size in demo["megabytes"])),
        (f"perplexity, {demo['text']}", f"{demo['perplexity'][0]:.2f}", f"{demo['perplexity'][1]:.2f} (×{ratio:.2f})"),
        ("same greedy tokens as dense", "", words.percent(demo["same_tokens"])),
    ]
    if every:
        lines += [
            ("tokens until the first other one", "", str(demo["first_other"])),
            ("repeated 4-grams", *(words.percent(share) for share in demo["repeated"])),
            ("seconds", "", str(demo["seconds"])),
        ]
    wide = [max(len(line[place]) for line in lines) for place in range(3)]
    told = [f"{name:<{wide[0]}}  {one:>{wide[1]}}  {two:>{wide[2]}}" for name, one, two in lines]
    return "\n".join(["```text", *told, *(["written to .demo/shallower"] if every else []), "```"])


def clock(seconds: float) -> str:
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def demo_time(data: Data) -> str:
    demo = data["demo"]
    return (
        "From nothing, environment and model included, it takes "
        + "; ".join(
            f"on {one['machine']} {clock(one['wall_seconds'])} and {one['cpu_seconds']} CPU seconds"
            for one in demo["from_nothing"]
        )
        + "."
    )


def keeps(data: Data) -> str:
    """README's table: what is kept, on texts and of answers, by layers gone."""
    depth, answers = data["tables"]["depth"], data["tables"]["answers"]
    accuracy = {(gone, preset): (by_seed, mean) for gone, preset, by_seed, mean, *_ in answers["rows"]}
    dense = [column["dense"] for column in depth["columns"][2:]]
    layers, before, rows = depth_layers(data), None, []
    for gone, preset, *values in depth["rows"]:
        if not gone:
            continue
        group = [row for row in depth["rows"] if row[0] == gone]
        cells = []
        for place, (value, base) in enumerate(zip(values, dense, strict=True)):
            best = value == min(row[2 + place] for row in group)
            cells.append(f"**{times(value / base)}**" if best else times(value / base))
        by_seed, mean = accuracy.get((gone, preset), ("", None))
        seeds = f" ({_number(by_seed.count(',') + 1)} seeds)" if "," in by_seed else ""
        told = "" if mean is None else f"{mean:.1f}%{seeds}"
        rows.append(["" if gone == before else f"{gone} of {layers}", preset, *cells, told])
        before = gone
    head = ["layers gone", "", *(column["name"] for column in depth["columns"][2:]), "accuracy"]
    lines = [head, ["---:", "---", "---:", "---:", "---:"], *rows]
    about = (
        "SmolLM2-135M, calibrated on 128 windows of 512 tokens, half of them written by the model. Perplexity, as "
        "multiples of the dense model's, on two texts that the calibration never saw; accuracy over eight tasks as a "
        f"share of the dense model's. {depth['measured']} Commands, days, seeds and more: "
        "[docs/results.md](docs/results.md)."
    )
    return about + "\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def depth_layers(data: Data) -> int:
    return int(data["demo"]["layers"][0])


def how_many(data: Data) -> str:
    """Of the default preset, by layers gone: size, texts, answers."""
    depth, answers, demo = data["tables"]["depth"], data["tables"]["answers"], data["demo"]
    columns = depth["columns"][2:]
    a_layer = (demo["parameters"][0] - demo["parameters"][1]) / (demo["layers"][0] - demo["layers"][1])
    found = {row[0]: row[2:] for row in answers["rows"] if row[1] == "`refit`"}
    head = ["layers gone", "parameters kept", *(column["name"] for column in columns), "accuracy", "agreement"]
    lines = [head, ["---:"] * len(head)]
    for gone, preset, *values in depth["rows"]:
        if preset != "`refit`":
            continue
        by_seed, mean, _, agreement = found[gone]
        ratios = [times(value / column["dense"]) for value, column in zip(values, columns, strict=True)]
        kept = words.percent(1 - gone * a_layer / demo["parameters"][0])
        seeds = f" ({_number(by_seed.count(',') + 1)} seeds)" if "," in by_seed else ""
        lines.append([f"{gone} of {depth_layers(data)}", kept, *ratios, f"{mean:.1f}%{seeds}", f"{agreement:.1f}%"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: int) -> str:
    return {2: "two", 3: "three", 4: "four", 5: "five"}.get(value, str(value))


def blocks(data: Data) -> dict[str, str]:
    """By name, what stands between `<!-- made: NAME -->` and `<!-- end -->` on any page."""
    search = data["search"]
    found = {
        "demo": f"{demo_time(data)} It ends like this (calibrated on one half of a text, measured on the other):\n\n"
        + demo_table(data["demo"], every=False),
        "demo in full": f"{demo_time(data)} It ends like this:\n\n" + demo_table(data["demo"], every=True),
        "keeps": keeps(data),
        "how many": how_many(data),
        "search time": (
            f"On the demo model without a text this search takes {clock(search['seconds'])} of a plan's "
            f"{clock(search['plan_seconds'])}, on two idle cores of a faster machine "
            f"([log](log.md#{search['entry']}))."
        ),
    }
    for name, table in data["tables"].items():
        found[f"table {name}"] = markdown(table)
        if "measured" in table:  # beside a table that stands without its `about`
            found[f"measured {name}"] = table["measured"]
        found[f"command {name}"] = f"<!-- not run: {table['not_run']} -->\n```sh\n{table['command'].strip()}\n```"
    return found
