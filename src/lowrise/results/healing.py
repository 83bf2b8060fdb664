"""What healing did: a part of results.json."""

from __future__ import annotations

from pydantic import Field

from lowrise.methods import load
from lowrise.results.perplexity import Perplexity
from lowrise.results.record import Record
from lowrise.settings import Objective, TeacherPlace, Trained


class Healing(Record):
    """objective: with `mix` its share of kl. parameters: that were trained. rank: of lora. steps, tokens: done.

    train: (tokens trained on, loss of the objective) of every step. held_out: (tokens, next-token loss) by text, the
    first at the start, `guard` among them. kept: tokens after which the weights were as they are kept, 0 for the start.
    before, after: perplexity of the start and of what was kept, by text. stopped: why it ended early.
    """

    objective: Objective
    mix: float | None = None
    temperature: float
    trained: Trained
    rank: int | None = None
    parameters: int
    teacher: TeacherPlace | None
    teacher_bytes: int | None = None
    tokens: int
    steps: int
    batch_tokens: int
    length: int
    learning_rate: float
    precision: str
    processes: int
    seconds: float
    tokens_per_second: float
    train: list[tuple[int, float]]
    held_out: dict[str, list[tuple[int, float]]] = Field(min_length=1)
    guard: str
    kept: int
    before: dict[str, Perplexity]
    after: dict[str, Perplexity]
    stopped: str | None = None

    def _repr_html_(self) -> str:
        """For a notebook."""
        return str(load("lowrise.report.notebook:healing_html")(self))
