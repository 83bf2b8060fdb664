"""What every output folder says of itself, beside the weights: plan, recipe and results."""

from __future__ import annotations

from pathlib import Path

import yaml

from lowrise.plan import Plan
from lowrise.recipe import Recipe
from lowrise.results import Results


def write_records(folder: Path, plan: Plan | None, recipe: Recipe, results: Results) -> Path:
    """Returns the folder `lowrise` in it, made for them. plan: None where it is not known how the model was cut."""
    side = folder / "lowrise"
    side.mkdir()
    if plan is not None:
        (side / "plan.json").write_text(plan.to_json(), encoding="utf-8")
    (side / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(), sort_keys=False), encoding="utf-8")
    (side / "results.json").write_text(results.to_json() + "\n", encoding="utf-8")
    return side
