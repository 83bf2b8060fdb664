"""README.md of the output folder: the model card, with the hub's metadata header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from lowrise.recipe import presets
from lowrise.report import words
from lowrise.report.edits import describe, repair_sentences
from lowrise.report.folder import Contents
from lowrise.report.healing import sentences
from lowrise.report.scores import costs, kept, scores, timings
from lowrise.report.verdict import notices
from lowrise.results import Results

# By the hub's word for what a model does, the class of transformers that opens it.
_CLASSES = {"image-text-to-text": "AutoModelForImageTextToText", "any-to-any": "AutoModelForMultimodalLM"}


def model_card(contents: Contents) -> str:
    """The card's text: the hub's header, what to beware of, what was done, what it cost, how to open it."""
    plan = contents.plan
    known = presets().get(plan.preset)
    paper = f" ({known.paper})" if known and known.paper else ""
    edits = [f"- {describe(edit)}" for edit in plan.edits] or ["- nothing was changed"]
    parts = [
        f"---\n{yaml.safe_dump(_header(contents), sort_keys=False)}---",
        f"# {words.markdown(plan.model_name)}, {plan.model.layers} → {plan.layers_after} layers",
        *(f"**{one.headline}.** {words.markdown(one.text)}" for one in notices(contents)),
        f"Made by lowrise with the preset `{words.markdown(plan.preset)}`{paper}.",
        "\n".join(edits),
        *repair_sentences(plan.edits, contents.results.repairs),
        *([] if contents.results.healing is None else [" ".join(sentences(contents.results.healing))]),
        *_tables(contents),
        how_to_open(contents.results.base, plan.loads_plainly),
        "`lowrise/report.html` shows it all in pictures; beside it lie the recipe, the plan and every number.",
    ]
    return "\n\n".join(parts) + "\n"


def _header(contents: Contents) -> dict[str, Any]:
    plan = contents.plan
    header: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["lowrise", "depth-pruning", plan.preset],
    }
    if plan.model.revision is not None:  # a hub id; a path of this machine would mean nothing to a reader
        header["base_model"] = plan.model.source
    return header | contents.results.base


def _tables(contents: Contents) -> list[str]:
    results = contents.results
    tables = [cost_table(results)]
    rows = []
    for row in scores(contents):
        share = results.tasks_retained.get(row.task)
        stability = results.stability.get(row.task)
        steady = "" if stability is None else words.percent(stability)
        shares = kept(share), kept(share, above_chance=True)
        rows.append((f"{row.task} ({row.note})", row.dense_text, row.compressed_text, *shares, steady))
    if rows:
        tables.append(_table(("task", "dense", "compressed", "kept", "kept above chance", "stability"), rows))
    paces = [
        (pace.name, pace.dense_text, pace.compressed_text, words.ratio(pace.ratio),
         "" if pace.ideal is None else words.ratio(pace.ideal))
        for pace in timings(contents)
    ]  # fmt: skip
    if paces:
        tables.append(_table(("tokens a second", "dense", "compressed", "ratio", "ideal"), paces))
    return tables


def cost_table(results: Results) -> str:
    rows = [
        (" ".join(filter(None, (f"{row.name},", row.note))).rstrip(","), row.dense, row.compressed, row.change)
        for row in costs(results)
    ]
    return _table(("", "dense", "compressed", "ratio"), rows)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---", *["---:"] * (len(head) - 1)), *(tuple(map(words.markdown, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(cell.strip() for cell in line)} |" for line in lines)


def how_to_open(base: Mapping[str, str], plainly: bool = True) -> str:
    """base: what the card inherits."""
    trust = "" if plainly else ", trust_remote_code=True"
    cls = _CLASSES.get(base.get("pipeline_tag", ""), "AutoModelForCausalLM")
    return (
        f"```python\nfrom transformers import {cls}, AutoTokenizer\n\n"
        f"model = {cls}.from_pretrained(FOLDER{trust})\n"
        "tokenizer = AutoTokenizer.from_pretrained(FOLDER)\n```"
    )
