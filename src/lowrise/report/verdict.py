"""What a reader must know before anything else: the loud lines at the top of page and card."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lowrise.plan import Replace
from lowrise.quality import COLLAPSED_RATIO, HELD_OUT, collapsed_on, own_text, remedy
from lowrise.report import words
from lowrise.report.engines import misread_because, misread_by
from lowrise.report.folder import Contents
from lowrise.report.scores import covered
from lowrise.results import Results

# What `run` calls a text that it measured on for want of another; it comes from the calibration itself.
_OWN_TEXTS = (HELD_OUT, "calibration sentences")


@dataclass(frozen=True)
class Notice:
    """level: `collapse` (do not use it), `warning` (it may not be what you want) or `note` (good to know)."""

    level: Literal["collapse", "warning", "note"]
    headline: str
    text: str


def notices(contents: Contents) -> list[Notice]:
    """The loudest first."""
    healed = contents.results.healing is not None
    collapse = collapse_notice(contents.results.perplexity_ratio, contents.plan.scores, healed=healed)
    found = [*([] if collapse is None else [collapse]), *_guessing(contents)]
    found += [Notice("warning", "Warning", _sentence(warning)) for warning in contents.results.warnings]
    if not contents.plan.loads_plainly:
        networks = [edit for edit in contents.plan.edits if isinstance(edit, Replace) and not edit.in_a_layer]
        rest = (
            "The portable form of the same preset does without."
            if networks
            else ("`lowrise presets` lists presets whose output loads plainly.")
        )
        text = f"This checkpoint brings its own modelling file: open it with trust_remote_code=True. {rest}"
        found.append(Notice("note", "Does not load plainly", text))
    if contents.plan.restriction is not None:
        said = " ".join(map(_sentence, contents.plan.restriction.sentences()))
        found.append(Notice("note", "Not every cut could be chosen", said))
    return [*found, *misread_notices(contents.results), *_thin_evidence(contents)]


def misread_notices(results: Results) -> list[Notice]:
    """Of serving engines that open the checkpoint without a word, as another model."""
    names = misread_by(results)
    if not names:
        return []
    text = " ".join(misread_because(results)) + " With --for the search takes only cuts that they read right."
    return [Notice("warning", f"Misread by {words.listed(names)}", text)]


def collapse_notice(ratios: Mapping[str, float], scores: Mapping[str, Any], *, healed: bool) -> Notice | None:
    """What to say of a model that has collapsed (`lowrise.quality`), on the terminal as on page and card.

    healed: whether it was healed, so that other things help.
    """
    found = collapsed_on(ratios, scores, healed=healed)
    if found is None:
        return None
    name, ratio = found
    shown = "" if name in ratios else _not_in_tables(scores)
    text = (
        f"Perplexity is {words.ratio(ratio)} the dense model's on {name}{shown}. From "
        f"×{COLLAPSED_RATIO:g} on lowrise calls a result collapsed: what it writes is no longer what the dense model "
        f"would write. {words.capitalize_first(remedy(healed))}."
    )
    return Notice("collapse", "The model has collapsed", text)


def _not_in_tables(scores: Mapping[str, Any]) -> str:
    """Perplexities of the calibration's own text, which no table shows where other texts were measured on."""
    noted = own_text(scores)
    before, after = (None, None) if noted is None else (noted[1].get(key) for key in ("dense", "after"))
    if not isinstance(before, int | float) or not isinstance(after, int | float):
        return ""
    perplexities = " → ".join(words.decimal(math.exp(min(loss, 700.0))) for loss in (before, after))
    return f", {perplexities}, which the plan notes and the tables leave out"


def _guessing(contents: Contents) -> list[Notice]:
    mean = contents.results.tasks_mean
    if mean.above_chance_low is None or mean.above_chance_low > 0:
        return []
    tasks = covered(contents, "above_chance")
    text = f"Over {tasks} together its answers cannot be told from chance: the interval of what is kept reaches 0."
    return [Notice("collapse", "No better than guessing", text)]


def _thin_evidence(contents: Contents) -> list[Notice]:
    names = list(contents.results.perplexity)
    if not names and not contents.results.tasks:
        text = "No text was given with --eval-text; lowrise measure says what the cut cost."
        return [Notice("warning", "Nothing was measured", text)]
    if names and all(name in _OWN_TEXTS for name in names) and not contents.results.tasks:
        text = (
            "Perplexity is always best on text of the calibration's own kind. Give --eval-text a text that the "
            "calibration never saw."
        )
        return [Notice("note", "Measured on the calibration's own text", text)]
    return []


def _sentence(text: str) -> str:
    text = words.capitalize_first(text)
    return text if text.endswith((".", "!", "?")) else f"{text}."
