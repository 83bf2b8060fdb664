"""The documentation: its blocks of code run as they stand, and the log's index leads on.

Blocks run in a folder that holds what pages name: models `MODEL` and `org/name`, texts, conversations. Nothing in a
block is put in place of anything else.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import made_tasks
import tiny
from comparisons import steps_inside
from doc_blocks import LANGUAGES, PAGES, ROOT, RUN, Block, blocks

Main = Callable[..., tuple[int, str, str]]
BLOCKS = [block for page in PAGES for block in blocks(page)]
OF_PYTHON = ("README.md", "docs/api.md")  # whose examples run in the usual suite
# models here are so small that lm-eval shortens its prompts, and says so
pytestmark = pytest.mark.filterwarnings("ignore::lowrise.api.progress.LowriseWarning")
SLOW = sorted({block.page for block in BLOCKS if block.is_run} - {"docs/api.md"})


@pytest.fixture
def place(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`here`, with the other names that pages use. `piqa` is a made task, since lm-eval's own is on the hub."""
    from lm_eval.tasks import manager

    steps_inside(monkeypatch)
    (here / "MODEL").symlink_to(here / "org" / "name")
    for name in ("my-text.txt", "other-text.txt"):
        Path(name).write_text(tiny.text(1500, len(name)), encoding="utf-8")
    monkeypatch.setattr(manager, "__file__", str(here / "lm-eval" / "manager.py"))
    made_tasks.write_choice(made_tasks.write_tasks(here / "lm-eval"), "piqa", "piqa.jsonl", made_tasks.items(6, 2, 5))
    return here


def names() -> dict[str, Any]:
    """What examples have at hand beside `lowrise`."""
    return {"hf_model": tiny.model(max_position_embeddings=32), "tokenizer": tiny.tokenizer()}


def run(block: Block, known: dict[str, Any], main: Main) -> None:
    if block.file is not None:
        file = Path(block.file)
        file.parent.mkdir(exist_ok=True)
        file.write_text(block.code, encoding="utf-8")
    elif block.language == "python" and block.is_run:
        exec(compile(block.code, str(block), "exec"), known)  # noqa: S102 - our own page
    elif block.language == "sh" and block.is_run:
        for words in block.commands():
            status, _, err = main(*words[1:])
            assert status == 0, f"{block}: {' '.join(words)}\n{err}"


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_is_run_or_says_why_not(block: Block) -> None:
    assert block.language in LANGUAGES, f"{block}: a block is one of {', '.join(LANGUAGES)}"
    assert block.not_run is None or block.language in RUN, f"{block}: blocks of {block.language} are not run"
    if block.language == "sh" and block.is_run:
        others = [words[0] for words in block.commands() if words[0] != "lowrise"]
        assert not others, f"{block}: {others[0]} is not run here; say so by <!-- not run: why -->"
    if block.language == "json":
        json.loads(block.code)
    if block.language == "toml":
        tomllib.loads(block.code)
    if block.language == "yaml":
        yaml.safe_load(block.code)


@pytest.mark.parametrize("page", OF_PYTHON)
@pytest.mark.usefixtures("regressions_alone", "place")
def test_the_examples_of_python_run(page: str, main: Main) -> None:
    known = names()
    for block in blocks(page):
        if block.language == "python":
            run(block, known, main)
    assert known["small"].layers == 4
    assert known["results"].dense.layers == 6
    assert {*known["results"].tasks} == ({"piqa"} if page == "README.md" else set())


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW)
@pytest.mark.usefixtures("regressions_alone", "place")
def test_the_blocks_of_a_page_run(page: str, main: Main) -> None:
    known = names()
    for block in blocks(page):
        run(block, known, main)


def test_the_readme_is_short_and_its_numbers_are_made() -> None:
    """Outside blocks that scripts/results.py makes there are names with digits, and sizes that commands are given."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") <= 120
    assert {*re.findall(r"<!-- made: (\w+) -->", text)} == {"demo", "keeps"}
    bare = re.sub(r"(?s)<!-- made: .*?<!-- end -->|```.*?```|`[^`]*`|\]\([^)]*\)", "", text)
    names = r"SmolLM2-135M|Python 3\.11|Apache-2\.0|\[\d{4}\.\d{5}"
    assert re.findall(r"\S*\d\S*", re.sub(names, "", bare)) == []


def test_every_table_says_its_command_its_day_and_its_entry() -> None:
    data = yaml.safe_load((ROOT / "docs" / "data" / "results.yaml").read_text(encoding="utf-8"))
    log = (ROOT / "docs" / "log.md").read_text(encoding="utf-8")
    known = {slug(entry) for entry in re.findall(r"^## (.+)$", log, re.M)}
    for name, table in {**data["tables"], "demo": data["demo"], "how long a search takes": data["search"]}.items():
        assert table["entry"] in known, name
        assert table["command"].strip(), name
        assert re.fullmatch(r"2026-\d\d-\d\d", str(table["date"])), name
    shown = {part for part in data["page"]["parts"] if isinstance(part, str)}
    pages = "".join((ROOT / "docs" / page).read_text(encoding="utf-8") for page in ("science/refit.md", "choose.md"))
    assert {*data["tables"]} == shown | {*re.findall(r"<!-- made: table (\w+) -->", pages)}


def test_every_public_name_says_what_it_is() -> None:
    import lowrise

    silent = [name for name in lowrise.__all__ if not (getattr(lowrise, name).__doc__ or "").strip()]
    shown = {name: member for name, member in vars(lowrise.Model).items() if not name.startswith("_")}
    assert silent + [name for name, member in shown.items() if not member.__doc__] == []


def test_every_entry_of_the_log_is_in_its_index() -> None:
    text = (ROOT / "docs" / "log.md").read_text(encoding="utf-8")
    index = text.partition("\n## ")[0]
    entries = re.findall(r"^## (.+)$", text, re.M)
    slugs = [slug(entry) for entry in entries]
    assert len({*slugs}) == len(slugs)
    named = re.findall(r"\]\(#([^)]+)\)", text)
    assert {*named} <= {*slugs}, "a link leads to no entry"
    assert {*re.findall(r"\]\(#([^)]+)\)", index)} == {*slugs}, "an entry is missing from the index"


def slug(heading: str) -> str:
    """As GitHub makes it, and the site."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
