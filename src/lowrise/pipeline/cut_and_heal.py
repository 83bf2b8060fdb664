"""A cut and its healing in one command: until it is healed, the cut model lies in a hidden folder beside the output.

Cutting changes the dense model in place and gives it up, and healing needs it beside the student. So the first half
writes a whole output, and the second one opens it as `lowrise heal` opens any shallow model. Of a command that is
stopped between the two, the same command finds the cut model.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from lowrise.errors import InputError, RecipeError
from lowrise.files import check_output
from lowrise.files.siblings import remove, siblings
from lowrise.heal.data import check_training_tokens
from lowrise.inputs import inputs_of
from lowrise.measure.cache import digest
from lowrise.model.source import OpenModel
from lowrise.pipeline.healed_output import Cut
from lowrise.pipeline.healing import check_healing, heal
from lowrise.pipeline.opening import check_one_source, check_same_tokens, open_from
from lowrise.plan import read_plan
from lowrise.progress import Reporter
from lowrise.ranks import is_alone
from lowrise.reading import sha256_or_none
from lowrise.recipe import Recipe, read_recipe
from lowrise.report import words
from lowrise.results import Results
from lowrise.settings import Heal
from lowrise.sizes import layers_to_remove, named_layers

Check = Callable[[OpenModel], None]


def cut_and_heal(
    command: Literal["run", "apply"],
    recipe: Recipe,
    out: Path,
    force: bool,
    progress: Reporter,
    fresh: bool,
    cut: Callable[[Recipe, Path, Check], Results],
) -> Results:
    """cut: writes the cut model of a recipe that heals nothing to a folder, and says what it cost; the check looks at
    the model that it opens, before anything is computed.

    Raises InputError for what healing cannot do before anything is cut.
    """
    settings, began = recipe.heal, time.monotonic()
    assert settings is not None and recipe.model is not None
    check_output(out, force, inputs_of(recipe))
    check_healing(settings, recipe.device)
    _check_recipe(recipe, settings)
    check_other_dense(recipe, settings)
    # speed is that of what is healed, and what is asked of the output too
    plain = recipe.model_copy(update={"heal": None, "speed": False, "strict": False})
    place = _place(out, command, plain)
    if fresh:
        remove(place)
    others = [str(one) for one in siblings(out.resolve(), "cut") if one != place] if out.parent.is_dir() else []
    if others:
        progress.say(f"cut models of other runs for {out} were not healed, and stay: {', '.join(others)}")
    if _is_there(place, plain):
        progress.say(f"the cut model is kept from before in {place}")
    else:
        remove(place)
        cut(plain, place, partial(check_texts, recipe, settings, out))
    taught = settings.model_copy(update={"dense": settings.dense or recipe.model})
    trusted = recipe.trust_remote_code or not recipe.loads_plainly  # the modelling file of the cut is our own
    healing = recipe.model_copy(update={"model": str(place), "heal": taught, "trust_remote_code": trusted})
    results = heal(healing, out, force, progress, fresh, Cut(recipe, command))
    assert results is not None  # of the first process, and there is no other
    remove(place)
    if progress.foretold:
        took = words.seconds(time.monotonic() - began)
        progress.say(f"cut and healed in {took}, estimated {words.seconds(progress.foretold)}")
    return results


def _check_recipe(recipe: Recipe, settings: Heal) -> None:
    """What a cut by this recipe cannot be healed for."""
    if not is_alone():
        expected, remedy = "one process", "cut first, then `accelerate launch -m lowrise heal`"
        raise RecipeError("--heal", expected, "several, started by a launcher", remedy)
    if settings.train == "network" and recipe.network == "none":
        expected, found = "a method that puts a trained network back", f"{recipe.preset}, which puts nothing back"
        raise RecipeError("heal.train: network", expected, found, "choose gaps or all")
    check_one_source(recipe)


def check_other_dense(recipe: Recipe, settings: Heal) -> None:
    """Refuse a dense model, another than the one that is cut, of another tokenizer; no weights are read."""
    if settings.dense not in (None, recipe.model):
        check_same_tokens(recipe, recipe.model_copy(update={"model": settings.dense}))


def check_texts(recipe: Recipe, settings: Heal, out: Path, opened: OpenModel) -> None:
    """Refuse what healing could not be done on: a budget, texts, conversations or a guard, by the dense model.

    opened: the model that is to be cut.
    """
    if settings.dense in (None, recipe.model):
        check_training_tokens(opened, settings, recipe)
        return
    other = open_from(recipe.model_copy(update={"model": settings.dense}), beside=out)
    left = _layers_left(recipe, opened)
    if left is not None and len(other.decoder) <= left:
        expected, found = f"a model of more layers than the {left} that are left", f"{len(other.decoder)}"
        raise RecipeError(f"heal.dense: {settings.dense}", expected, found, "name a deeper one, or leave it out")
    check_training_tokens(other, settings, recipe)
    other.decoder.release()


def _layers_left(recipe: Recipe, opened: OpenModel) -> int | None:
    """Where the recipe says how many."""
    layers = len(opened.decoder)
    if recipe.layers is not None:
        return layers - len(named_layers(recipe.layers))
    return None if recipe.remove is None else layers - layers_to_remove(recipe.remove, layers)


def _place(out: Path, command: str, recipe: Recipe) -> Path:
    key = digest([command, recipe.model_dump(), *map(sha256_or_none, filter(None, inputs_of(recipe)))])[:8]
    return out.resolve().with_name(f".{out.resolve().name}.{key}.cut")


def _is_there(place: Path, recipe: Recipe) -> bool:
    """Whether the folder holds the whole output of the recipe, fitted on the texts as they are now."""
    side = place / "lowrise"
    try:
        said = read_recipe(side / "recipe.yaml")
        sources = read_plan(side / "plan.json").calibration.sources
    except InputError:
        return False
    return said == recipe.model_dump() and all(sha256_or_none(one.path) == one.sha256 for one in sources)
