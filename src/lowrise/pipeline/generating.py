"""What a model writes greedily, from the cache where it was written before, and how far that is the dense model's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lowrise.calibration import Windows
from lowrise.calibration import written as written_module
from lowrise.measure import generation as generation_module
from lowrise.measure import greedy_text
from lowrise.measure.cache import Cache, digest
from lowrise.measure.greedy_text import (
    Prompts,
    agreement,
    continuations,
    make_prompts,
    repetition,
    same_choices,
    until_difference,
)
from lowrise.measure.identity import files_sha256
from lowrise.model.decoder import Decoder
from lowrise.progress import Reporter
from lowrise.results import Generation


@dataclass(frozen=True)
class Continuations:
    """prompts: their tokens, one by one. rows: what one model wrote behind each."""

    prompts: list[list[int]]
    rows: list[list[int]]


def measure_generation(
    decoder: Decoder,
    tokenizer: Any,
    identity: dict[str, Any],
    texts: dict[str, Windows],
    dense: Continuations | None,
    cache: Cache,
    label: str,
    progress: Reporter,
) -> tuple[Generation, Continuations] | None:
    """As of `measure/greedy_text.py`; None where no prompt could be made. dense: what the dense model wrote.

    identity, label: of the model, as of `measure_model`. Compared is only what stands behind the same prompts.
    """
    prompts = make_prompts(decoder, tokenizer, texts)
    asked = prompts.ids()
    if not asked:
        return None
    code = files_sha256([str(one.__file__) for one in (greedy_text, generation_module, written_module)])
    key = {
        "what": "generation",
        "model": identity,
        "prompts": digest(asked),
        "new": [greedy_text.NEW_TOKENS, greedy_text.QUESTION_TOKENS],
        "code": code,
    }
    about = {"what": f"greedy continuations of {len(asked)} prompts", "model": label}
    rows: list[list[int]] | None = cache.read(key)
    if rows is None:
        rows = continuations(decoder, tokenizer, prompts)
        cache.write(key, rows, about)
    else:
        progress.say("greedy continuations: kept from before")
    found = Generation(
        prompts=sum(map(len, prompts.texts)),
        questions=len(prompts.questions),
        tokens=sum(map(len, rows)),
        repetition=repetition(rows),
    )
    if dense is not None and dense.prompts == asked:
        same = _same_choices(decoder, prompts, dense.rows, key, about, cache)
        found = Generation(**found.given(), agreement=agreement(same), until_difference=until_difference(same))
    return found, Continuations(asked, rows)


def _same_choices(
    decoder: Decoder,
    prompts: Prompts,
    rows: list[list[int]],
    key: dict[str, Any],
    about: dict[str, str],
    cache: Cache,
) -> list[list[bool]]:
    """rows: the dense model's. key, about: of the other model's own continuations in the cache."""
    key = {**key, "what": "greedy choices", "continuations": digest(rows)}
    same: list[list[bool]] | None = cache.read(key)
    if same is None:
        same = same_choices(decoder, prompts, rows)
        cache.write(key, same, {**about, "what": "greedy choices on the dense model's continuations"})
    return same
