"""What plans say of where they come from: the model, the calibration tokens, what restricted the choice. No torch."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lowrise.settings import Training

MOST_LAYERS = 10**6


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ModelRecord(_Strict):
    """The model a plan is for. `sha256` is over the weight files (for a hub id, of that revision)."""

    source: str
    revision: str | None = None
    family: str
    layers: int = Field(gt=0, le=MOST_LAYERS)
    sha256: str


class TextRecord(_Strict):
    """A text file as it was read: where, and the hash of its bytes."""

    path: str
    sha256: str


class CalibrationRecord(_Strict):
    """The tokens a plan was made from. `sha256` is over the packed token windows, shape and order included.

    source: in words. sources: the text files. written: the share of windows that the model wrote itself. samples: rows
    that there are, which is fewer than asked for where a text fills no more. bos: whether each row begins with what the
    tokenizer puts in front of a text. held_out: the share of the windows, the last ones, that nothing is fitted on.
    """

    source: str
    sources: list[TextRecord] = []
    dataset: str | None = None
    written: float = Field(0.0, ge=0, le=1)
    tokens: int = Field(gt=0)
    sha256: str
    seed: int = Field(ge=0, lt=2**63)
    samples: int = Field(gt=0, le=10**7)
    length: int = Field(gt=1, le=2**30)
    bos: bool = False
    held_out: float = Field(Training.model_fields["validation"].default, gt=0, lt=1)

    @model_validator(mode="after")
    def _tokens_are_of_the_samples(self) -> Self:
        """Of sentences `length` says nothing: it is that of the windows that perplexity is measured on."""
        if self.tokens < self.samples:
            raise ValueError(f"{self.tokens} tokens are not in {self.samples} samples")
        return self


class RestrictionRecord(_Strict):
    """What of the model, or of an engine, restricted the cuts that could be chosen, and what that cost.

    reasons: sentences. score: what the criterion compared, where it knows what the restriction cost; chosen: of the cut
    that was chosen; unrestricted: of the best one that there would have been; spans: of that one, [start, stop).
    """

    reasons: list[str] = Field(min_length=1)
    score: str | None = None
    chosen: float | None = None
    unrestricted: float | None = None
    spans: list[tuple[int, int]] = []

    def sentences(self) -> list[str]:
        """For people, without the full stop: the reasons, and the cost where it is known."""
        said = [f"cuts are restricted: {reason}" for reason in self.reasons]
        if self.score is None or self.chosen is None or self.unrestricted is None:
            return said
        spans = ", ".join(f"[{start}, {stop})" for start, stop in self.spans)
        if self.chosen == self.unrestricted:
            return [*said, f"that cost nothing: layers {spans} are the best without a restriction too"]
        costs = (
            f"the {self.score} of what is chosen is {self.chosen:.4g}, and {self.unrestricted:.4g} of layers {spans}"
        )
        return [*said, f"{costs}, the best without a restriction"]
