"""The page in a real browser: headless Chromium draws every figure, complains of nothing, asks for nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pages import add_everything, make_folders

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]


@pytest.fixture(scope="module")
def folders(tiny_folder: Path, text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from lowrise.report.page import write_report

    made = make_folders(
        tmp_path_factory.mktemp("pages"), tiny_folder, text_file, ("layer", "merge", "search", "weights")
    )
    for folder in made.values():
        add_everything(folder)
        write_report(folder)
    return made


@pytest.mark.parametrize(
    ("kind", "figures"),
    [
        ("layer", {"spans", "pairs", "layers", "norms", "training-0", "tasks", "speed"}),
        ("merge", {"trials", "tasks", "speed"}),
        ("search", {"search", "tasks", "speed"}),
        ("weights", {"weights", "pairs", "layers", "norms", "tasks", "speed"}),
    ],
)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1180])
def test_every_figure_is_drawn_and_nothing_else_happens(
    browser: Any, folders: dict[str, Path], kind: str, figures: set[str], scheme: str, width: int
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page, complaints, requests = context.new_page(), [], []
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda asked: requests.append(asked.url))
    address = (folders[kind] / "lowrise/report.html").as_uri()
    page.goto(address)
    for name in figures:
        page.wait_for_selector(f"#chart-{name}.drawn canvas")
    assert page.locator(".plot").count() == len(figures)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 20, 27)"
    assert dark is (scheme == "dark")
    assert page.locator(".layer").count() == 6 + 4 + 4  # layers, and what stands below and above them in each
    _hover(page, "speed")
    page.emulate_media(color_scheme="light" if scheme == "dark" else "dark")
    for name in figures:  # drawn anew in the other colours
        page.wait_for_selector(f"#chart-{name}.drawn canvas")
    assert complaints == []
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [address]
    context.close()


def _hover(page: Any, name: str) -> None:
    """Half-way along the figure's bars the pointer finds one, and its value shows."""
    plot = page.locator(f"#chart-{name}")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    for down in range(5, 80, 5):
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] * down / 100)
        page.wait_for_timeout(30)
        if page.locator(".bk-Tooltip").filter(has_text="tokens/s").count():
            return
    raise AssertionError(f"no value on hover in {name}")


def test_the_table_of_costs_has_its_heads_over_its_numbers_on_a_phone(browser: Any, folders: dict[str, Path]) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto((folders["layer"] / "lowrise/report.html").as_uri())
    edges = (
        """rows => rows.map(row => [...row.querySelectorAll(".n")].map(cell => cell.getBoundingClientRect().right))"""
    )
    heads, *rows = page.locator(".costs tr").evaluate_all(edges)
    assert rows
    for row in rows:
        assert row == pytest.approx(heads, abs=1)
    page.close()
