"""README.md of the output folder: the model card, with the hub's metadata header."""

from __future__ import annotations

from typing import Any

import yaml

from lowrise.plan import Plan
from lowrise.recipe import presets
from lowrise.report.table import markdown_table


def model_card(plan: Plan, results: dict[str, Any], warnings: list[str]) -> str:
    """The card's text: what was done to which model, what it cost, how to open it."""
    header: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["lowrise", "depth-pruning", plan.preset],
    }
    if plan.model.revision is not None:  # a hub id; a path of this machine would mean nothing to a reader
        header["base_model"] = plan.model.source
    known = presets().get(plan.preset)
    name = plan.model.source.rstrip("/").rpartition("/")[2]
    edits = "\n".join(f"- {describe(edit.model_dump())}" for edit in plan.edits) or "- nothing was changed"
    trust = "" if plan.loads_plainly else ", trust_remote_code=True"
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {name}, {plan.model.layers} → {plan.layers_after} layers",
        f"Made by lowrise with the preset `{plan.preset}`{f' ({known.paper})' if known else ''}.",
        edits,
        markdown_table(results),
        f"```python\nfrom transformers import AutoModelForCausalLM\n\n"
        f"model = AutoModelForCausalLM.from_pretrained(FOLDER{trust})\n```",
    ]
    if not plan.loads_plainly:
        parts.append("This checkpoint needs the modelling file in this folder: `trust_remote_code=True` runs it.")
    parts += [f"**Warning:** {warning}" for warning in warnings]
    parts.append("`lowrise/` holds the recipe, the plan and all results.")
    return "\n\n".join(parts) + "\n"


def describe(edit: dict[str, Any]) -> str:
    """One edit in words, layers 0-based, the span half-open."""
    span = f"layers [{edit['start']}, {edit['stop']})"
    if edit["kind"] == "drop":
        return f"{span} dropped"
    if edit["kind"] == "merge":
        mix = " ".join(f"{weight:+.3g}·θ{edit['start'] + i}" for i, weight in enumerate(edit["weights"]) if weight)
        norms = "its norms kept" if edit["norms"] == "keep" else "norms merged too"
        return f"{span} merged into layer {edit['start']} by the rule `{edit['rule']}`: {mix}, {norms}"
    form = "" if edit["network"] == "layer" else f" in its {edit['form']} form"
    return f"{span} replaced by one trained `{edit['network']}` network{form}"
