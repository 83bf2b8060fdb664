"""SLEB's criterion: one layer after the other, always the one whose removal raises the loss least.

https://arxiv.org/abs/2402.09025
"""

from __future__ import annotations

from typing import Any

from lowrise.calibration import Windows
from lowrise.model.decoder import Decoder
from lowrise.observe.activation_store import ActivationStore
from lowrise.progress import Reporter
from lowrise.restriction import AllowedCuts
from lowrise.select.choice import Choice, choice_of_rounds, lowest, none_allowed, round_of
from lowrise.select.journal import Journal
from lowrise.select.selection import Selection
from lowrise.select.trials import Trials
from lowrise.work import Work


def choose(selection: Selection) -> Choice:
    given = (selection.decoder, selection.windows, selection.count, selection.progress, selection.work)
    return choose_greedily(*given, selection.cuts)


def choose_greedily(
    decoder: Decoder,
    windows: Windows,
    k: int,
    progress: Reporter,
    work: Work | None = None,
    cuts: AllowedCuts | None = None,
) -> Choice:
    """k layers, each chosen on the model that the ones before left. Changes nothing. work: keeps every round. cuts:
    only layers are tried with which an allowed cut can still be reached. Raises RecipeError where there is none.

    Losses are means over all positions, natural log. Costs, at most, half the layers and the head for each of the
    L - r trials of round r: about k·L/2 passes over the tokens. Hence the preset's few windows: all trials see the same
    tokens, so their differences are sharper than each loss is.
    """
    rounds: list[dict[str, Any]] = []
    journal, cuts = Journal(work), cuts or AllowedCuts(len(decoder))
    number = sum(len(decoder) - done for done in range(k))
    with ActivationStore(decoder.store.folder) as store, progress.bar("searching", number) as bar:
        trials = Trials(decoder, windows, store)
        while True:
            note = f"loss {rounds[-1]['loss']:.3f} without {len(rounds)}" if rounds else ""
            may_go = cuts.removable(k, [one["removed"] for one in rounds])
            if not may_go:
                raise none_allowed(cuts, k)
            measured, known = journal.step(
                len(may_go),
                lambda note=note, may_go=may_go: [*trials.losses(bar, note, may_go).items()],  # type: ignore[misc]
            )
            if known:
                bar.advance(0, "kept from before", steps=len(measured))
            if len(may_go) < len(trials.layers):
                bar.advance(0, note, steps=len(trials.layers) - len(may_go))
            losses: dict[int, float] = dict(measured)
            (gone,) = lowest(losses, 1, losses)
            rounds.append(round_of(gone, losses, len(decoder)))
            if len(rounds) == k:
                break
            trials.remove(gone)
    return choice_of_rounds("greedy-perplexity", trials.dense_loss, rounds)
