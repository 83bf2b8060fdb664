"""A number is one row: what is added to the table stands in terminal, page, card and comparison."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from lowrise.report import numbers
from lowrise.report.comparison import (
    RowState,
    csv_comparison,
    markdown_comparison,
    summarise,
    terminal_comparison,
)
from lowrise.report.comparison_page import comparison_page
from lowrise.report.folder import read_folder
from lowrise.report.numbers import NUMBERS, Number, everywhere
from lowrise.report.readings import Reading, Value
from lowrise.report.table import rows
from lowrise.results import Comparison, Results
from pages import Page, page_of, read_results
from refusals import Main


def _bytes_per_parameter(results: Results) -> Iterable[Reading]:
    """What nobody shows: bytes a parameter, dense and compressed."""
    assert results.dense is not None
    before, after = (one.bytes / one.parameters for one in (results.dense, results))
    return [Reading("", Value(before), Value(after), Value(after / before))]


ADDED = Number(
    "bytes_per_parameter",
    _bytes_per_parameter,
    **everywhere("bytes a parameter", lambda value: f"{value:.3f} B", lambda ratio: f"by {ratio:.2f}"),
)


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "NUMBERS", (*NUMBERS, ADDED))


@pytest.mark.usefixtures("added")
def test_one_row_is_all_that_a_number_takes(main: Main, folder: Path) -> None:
    contents = read_folder(folder)
    assert ("bytes a parameter", "4.000 B", "4.000 B (by 1.00)") in rows(contents.results)
    assert main("report", folder)[0] == 0
    assert "bytes a parameter4.000 B4.000 Bby 1.00" in page_of(folder).text.replace("\n", "")
    assert "| bytes a parameter | 4.000 B | 4.000 B | by 1.00 |" in (folder / "README.md").read_text()

    removed = contents.plan.model.layers - contents.plan.layers_after
    row = RowState("layer-2", "layer", removed, True, "done", 1.0, results=contents.results, plan=contents.plan)
    coming = RowState("layer-3", "layer", 3, True)
    dense = Results.model_validate(read_results(folder)["dense"] | {"memory": {}, "versions": {}, "seconds": {}})
    made = summarise(contents.plan.model, contents.plan.model.layers, dense, [row, coming], {"seed": 0})
    compared = Comparison.model_validate(json.loads(made.to_json()))
    table = [line.split(" | ") for line in markdown_comparison(compared).splitlines()]
    column = table[0].index("bytes a parameter")
    assert [line[column] for line in table[2:5]] == ["4.000 B", "4.000 B", ""]
    assert "bytes a parameter" in Page(comparison_page(compared)).text
    (line, _) = csv.DictReader(io.StringIO(csv_comparison(compared)))
    assert float(line["bytes_per_parameter"]) == 4.0
    assert "4.000 B" in _printed(compared)


def _printed(compared: Comparison) -> str:
    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=200).print(terminal_comparison(compared))
    return stream.getvalue()


def test_keys_are_those_of_one_number_each_and_every_number_has_a_place() -> None:
    assert len({number.key for number in NUMBERS}) == len(NUMBERS)
    assert all(number.terminal or number.costs or number.speed or number.comparison for number in NUMBERS)


def test_a_comparison_whose_rows_know_all_numbers_keeps_none_twice(folder: Path) -> None:
    contents = read_folder(folder)
    row = RowState("layer-2", "layer", 2, True, "done", 1.0, results=contents.results, plan=contents.plan)
    dense = contents.results
    kept = summarise(contents.plan.model, 6, dense, [row], {"seed": 0}).model_dump()["rows"][0]["numbers"]
    assert set(kept) == {"greedy_agreement", "tokens_until_difference", "repetition"}  # which a row has no key for
    older = contents.results.but(generation=None)
    row = replace(row, results=older)
    assert "numbers" not in summarise(contents.plan.model, 6, dense, [row], {"seed": 0}).model_dump()["rows"][0]


def test_a_text_is_shown_by_its_name_whatever_it_says(folder: Path) -> None:
    """A file may be called {note} or {dtype}."""
    results = read_results(folder)
    for model in (results, results["dense"]):
        model["perplexity"] = {"{note} {dtype}": next(iter(model["perplexity"].values()))}
    results["retained"]["perplexity_ratio"] = {"{note} {dtype}": 1.5}
    assert [what for what, _, _ in rows(Results.model_validate(results)) if "perplexity" in what] == [
        "perplexity, {note} {dtype}"
    ]
