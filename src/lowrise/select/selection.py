"""What a criterion is given: the model, how many layers are to go, and what it may look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from lowrise.calibration import Windows
from lowrise.calibration.sentences import Sentences
from lowrise.model.decoder import Decoder
from lowrise.observe.stream import Observation, keep_observation, kept_observation, observe
from lowrise.plan import in_a_layer
from lowrise.progress import Reporter
from lowrise.recipe import Recipe
from lowrise.restriction import AllowedCuts, Restriction
from lowrise.work import Work


@dataclass
class Selection:
    """k: layers to take out, one more where a network comes in their place; None: the criterion says how many.

    recipe: settings. tokens: sentences for a criterion that looks at those, none for one that looks at nothing, windows
    for any other. special: ids of the tokenizer's special tokens. work: where what is found can be kept, if it is to
    be. restrictions: of settings and engines, which the choice must satisfy. seen: what was observed of the layers,
    once something has asked for it.
    """

    decoder: Decoder
    k: int | None
    recipe: Recipe
    tokens: Windows | Sentences | None
    special: list[int]
    progress: Reporter
    work: Work = field(default_factory=Work)
    restrictions: Sequence[Restriction] = ()
    seen: Observation | None = field(default=None, init=False)

    @property
    def layers(self) -> int:
        """Of the model."""
        return len(self.decoder)

    @property
    def count(self) -> int:
        """k, of a criterion that does not decide it."""
        assert self.k is not None
        return self.k

    @property
    def left(self) -> int:
        """Of a span's first layers, so many stay: one where a network stands in a layer."""
        network, form = self.recipe.network, self.recipe.form
        return int(network != "none" and in_a_layer(network, form))

    @cached_property
    def cuts(self) -> AllowedCuts:
        """Of which the choice must be one."""
        return AllowedCuts(self.layers, self.restrictions)

    @property
    def windows(self) -> Windows:
        assert isinstance(self.tokens, Windows)
        return self.tokens

    @property
    def sentences(self) -> Sentences:
        assert isinstance(self.tokens, Sentences)
        return self.tokens

    @cached_property
    def observation(self) -> Observation:
        """States of all layers, compared in one pass over the windows."""
        self.seen = kept_observation(self.work, self.layers)
        if self.seen is None:
            self.seen = observe(self.decoder, self.windows, self.progress)
            keep_observation(self.work, self.seen)
        return self.seen

    @cached_property
    def split(self) -> tuple[Windows, Windows]:
        """(fitted, held out): windows for a criterion that fits something, with special tokens in them."""
        return self.windows.with_special_tokens(self.special).split(self.recipe.training.validation)
