"""The page and the card: built by the real command on tiny models, rebuilt from the folder alone, safe and the same."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny
from pages import FILES, QUICK, Page, add_everything, change_results, page_of, read_results
from refusals import Main


@pytest.mark.parametrize(
    ("kind", "layers", "charts"),
    [
        ("layer", {"s-replaced": 3, "s-network": 1, "s-kept": 6}, {"spans", "pairs", "layers", "norms", "training-0"}),
        ("none", {"s-dropped": 2, "s-kept": 8}, {"spans", "pairs", "layers", "norms"}),
        ("paper", {"s-replaced": 3, "s-network": 1, "s-kept": 6}, {"spans", "pairs", "layers", "norms", "training-0"}),
        ("merge", {"s-merged": 4, "s-kept": 6}, {"trials"}),
        ("search", {"s-dropped": 2, "s-kept": 8}, {"search"}),
        ("span search", {"s-dropped": 2, "s-kept": 8}, {"bridges"}),
        ("weights", {"s-dropped": 2, "s-kept": 8}, {"weights", "pairs", "layers", "norms"}),
    ],
)
def test_the_page_shows_the_layers_and_the_curves(
    finished: dict[str, Path], kind: str, layers: dict[str, int], charts: set[str]
) -> None:
    """Layers of both models: six before, four after; the legend draws each kind once more."""
    page = page_of(finished[kind])
    assert {name: len(page.of_class(name)) - 1 for name in layers} == layers
    assert {id.removeprefix("chart-") for id in page.ids() if id.startswith("chart-")} == charts
    drawn = next(json.loads(text) for attributes, text in page.scripts if attributes.get("id") == "charts")
    assert {item["target_id"] for item in drawn} == {f"chart-{name}" for name in charts}
    assert ("trust_remote_code=True" in page.text) is (kind == "paper")
    for words in ("What it cost", "What they write", "The capital of France is", "Recipe", "Plan"):
        assert words in page.text


def test_a_page_asks_for_nothing_and_runs_only_its_own_scripts(finished: dict[str, Path]) -> None:
    page = page_of(finished["layer"])
    policy = next(a["content"] or "" for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert not re.search("script-src[^;]*unsafe|https?:", policy)
    for attributes, text in page.scripts:
        if attributes.get("type") != "application/json":
            assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy
    for tag, attributes in page.tags:
        assert "src" not in attributes
        assert tag != "link" or (attributes["href"] or "").startswith("data:")
        assert tag not in ("iframe", "object", "embed", "base")
    assert (finished["layer"] / FILES[0]).stat().st_size < 1_500_000


def test_report_builds_the_same_bytes_again_without_torch_wherever_the_folder_lies(folder: Path) -> None:
    before = [(folder / name).read_bytes() for name in FILES]
    for name in FILES:
        (folder / name).unlink()
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['transformers'] = None; from lowrise.cli import main;"
        f" sys.argv = ['lowrise', 'report', {str(folder)!r}]; main()"
    )
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert [(folder / name).read_bytes() for name in FILES] == before


def test_tasks_and_speed_are_shown_where_they_were_measured(main: Main, folder: Path) -> None:
    assert "How fast" not in page_of(folder).text
    add_everything(folder)
    assert main("report", folder)[0] == 0
    page, card = page_of(folder), (folder / "README.md").read_text(encoding="utf-8")
    assert {"chart-tasks", "chart-speed"} <= page.ids()
    for text in (page.text, card.replace("\\", "")):
        for words in (
            "local_boolq",
            "57.5% ±2.5",
            "93.9% [87.0–101.0]",
            "84.8% [80.0–90.0]",
            "×1.24",
            "×1.29",
            "73.1%",
            "mean of 3 tasks",
            "mean of 2 of 3 tasks",  # one has no chance level
        ):
            assert words in text


def test_the_terminal_says_of_how_many_tasks_a_mean_is(folder: Path) -> None:
    from lowrise.report.table import rows
    from lowrise.results import Results

    add_everything(folder)
    said = {what: value for what, _, value in rows(Results.model_validate(read_results(folder)))}
    assert said["retained, mean of 3 tasks"] == "84.8% (80% to 90%)"
    assert said["retained above chance, mean of 2 of 3 tasks"] == "61.2% (42% to 80%)"
    assert said["stability, mean of 1 of 3 tasks"] == "73.1%"


@pytest.mark.parametrize(("ratio", "loud"), [(2.99, False), (3.0, True), (float("inf"), True), (float("nan"), True)])
def test_a_collapse_is_said_first_on_page_and_card(main: Main, folder: Path, ratio: float, loud: bool) -> None:
    retained = read_results(folder)["retained"]
    change_results(folder, retained={**retained, "perplexity_ratio": {"other.txt": 1.1, "words.txt": ratio}})
    assert main("report", folder)[0] == 0
    page = page_of(folder)
    assert bool(page.of_class("collapse")) is loud
    assert ("The model has collapsed" in page.text) is loud
    assert ("**The model has collapsed.**" in (folder / "README.md").read_text()) is loud


def test_answers_no_better_than_chance_are_said_too(main: Main, folder: Path) -> None:
    add_everything(folder)
    retained = read_results(folder)["retained"]
    retained["tasks_mean"] |= {"above_chance": 0.02, "above_chance_low": -0.1}
    change_results(folder, retained=retained)
    assert main("report", folder)[0] == 0
    assert "No better than guessing" in page_of(folder).text
    assert "Over 2 of 3 tasks together" in page_of(folder).text


def test_whatever_a_user_names_stays_text(main: Main, tmp_path: Path) -> None:
    """Names of files and folders, text of models, titles of tasks: none becomes an element, a script or a table row."""
    evil = "<img src=x onerror=alert(1)>|`${1}{{7*7}}'\"&amp;"
    source = tiny.save(tmp_path / evil)
    text = tmp_path / f"{evil}.txt"
    text.write_text(tiny.text())
    out = tmp_path / f"out {evil}"
    status, _, errors = main("run", source, "--preset", "streamline-none", "--remove", "2", "--text", text,
                             "--eval-text", text, "--windows", "4", "--out", out, *QUICK)  # fmt: skip
    assert status == 0, errors
    add_everything(out)
    breakout = "</script><script>alert(1)</script><!--"
    results = read_results(out)
    results["tasks"][breakout] = results["tasks"].pop("local_boolq")
    results["dense"]["tasks"][breakout] = results["dense"]["tasks"].pop("local_boolq")
    results["samples"] = [{"prompt": breakout, "dense": breakout, "compressed": f"\x00\ud800{evil}"}]
    results["warnings"] = [breakout, evil]
    results["versions"] = {breakout: evil}
    change_results(out, **results)
    status, _, errors = main("report", out)
    assert status == 0, errors
    page = page_of(out)
    assert len(page.scripts) == 3
    assert {tag for tag, _ in page.tags} <= {
        "a", "blockquote", "body", "code", "dd", "details", "div", "dl", "dt", "figcaption", "figure", "footer", "g",
        "h1", "h2", "h3", "head", "header", "html", "li", "line", "link", "main", "meta", "p", "path", "polygon", "pre",
        "rect", "script", "span", "strong", "style", "summary", "svg", "table", "tbody", "td", "text", "th", "thead",
        "title", "tr", "ul", "circle",
    }  # fmt: skip
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert evil in page.text
    assert breakout in page.text
    assert "{{7*7}}" in page.text
    card = (out / "README.md").read_text(encoding="utf-8").split("---", 2)[2]
    outside_code = re.sub(r"```.*?```", "", card, flags=re.DOTALL)
    assert not re.search(r"(?<!\\)<", outside_code)
    for line in outside_code.splitlines():
        assert not line.startswith("| perplexity") or len(re.findall(r"(?<!\\)\|", line)) == 5


@pytest.mark.parametrize("odd", [float("nan"), 0.0, -1.0, 1e300, float("inf")])
def test_odd_numbers_do_not_stop_a_page(main: Main, folder: Path, odd: float) -> None:
    """A state of zeros has no cosine; a broken model has no perplexity; a clock may stand still."""
    seen = json.loads((folder / "lowrise/observation.json").read_text())
    seen["pairs"] = [[odd] * 7] * 7
    seen["input_output"] = [odd] * 6
    seen["norms"]["largest"] = [odd] * 7
    (folder / "lowrise/observation.json").write_text(json.dumps(seen))
    plan = json.loads((folder / "lowrise/plan.json").read_text())
    plan["scores"]["cosine"] = [odd] * 4
    (folder / "lowrise/plan.json").write_text(json.dumps(plan))
    add_everything(folder)
    results = read_results(folder)
    results["speed"]["compressed"]["decode"]["1"]["tokens_per_second"] = odd
    results["tasks"]["local_boolq"]["acc"] = odd
    results["perplexity"]["words.txt"]["value"] = odd
    results["retained"]["tasks_mean"]["ratio"] = odd
    results["seconds"]["total"] = odd
    change_results(folder, **results)
    status, _, errors = main("report", folder)
    assert status == 0, errors
    assert {"chart-pairs", "chart-layers", "chart-norms", "chart-spans"} <= page_of(folder).ids()


def test_a_model_of_any_depth_is_drawn(tiny_plan_of: Callable[[int], Any]) -> None:
    from lowrise.report.layer_diagram import layer_diagram

    for layers in (2, 12, 126):
        diagram = layer_diagram(tiny_plan_of(layers))
        assert (len(diagram.before), len(diagram.after)) == (layers, layers - 1)
        assert diagram.before[0].y + diagram.height == pytest.approx(diagram.base)
        heights = [layer.y for layer in diagram.before]
        assert heights == sorted(heights, reverse=True)
        assert heights[-1] > 0


@pytest.fixture
def tiny_plan_of() -> Callable[[int], Any]:
    from lowrise.plan import CalibrationRecord, Drop, ModelRecord, Plan

    def plan(layers: int) -> Plan:
        return Plan(
            model=ModelRecord(source="m", family="llama", layers=layers, sha256="0"),
            preset="streamline-none",
            calibration=CalibrationRecord(source="t", tokens=64, sha256="0", seed=0, samples=2, length=32),
            edits=[Drop(start=1, stop=2)],
            layers_after=layers - 1,
            parameters_before=2,
            parameters_after=1,
        )

    return plan


def test_html_parses_as_it_was_meant(finished: dict[str, Path]) -> None:
    """bokeh's code holds no end of a script that would spill it into the page."""
    assert "Bokeh" not in Page((finished["none"] / FILES[0]).read_text(encoding="utf-8")).text


def test_a_repair_beside_a_preset_is_said(main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = ["--preset", "streamline-none", "--repair", "fold", "--remove", "2", "--text", text_file, *QUICK]
    assert main("run", tiny_folder, *asked, "--out", out)[0] == 0
    page = page_of(out).text
    assert "Repaired by fold." in page.replace("\n", "")
    assert "nothing put back" not in page


def test_many_line_ends_are_one_line_on_the_page_alone(main: Main, folder: Path) -> None:
    sample = {"prompt": "Say", "dense": "one\n\ntwo", "compressed": "one" + "\n \n" * 20 + "two"}
    change_results(folder, samples=[sample])
    assert main("report", folder)[0] == 0
    html = (folder / FILES[0]).read_text(encoding="utf-8")
    assert "one\n⏎×40\ntwo<" in html
    assert "one\n\ntwo<" in html
    assert "⏎×5: five line ends in a row" in html
    assert read_results(folder)["samples"] == [sample]
