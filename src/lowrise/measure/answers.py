"""What a model answered to a task, sample by sample: all that stability and intervals need of it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from lowrise.results import TaskScores


class Answer(BaseModel):
    """One sample.

    scores: by metric, before averaging. options: (log-likelihood, tokens) of each, in the task's order, natural log;
    empty unless the task is multiple choice. `tokens` counts what lm-eval scored: the ids of context and option
    tokenised together, less as many as the context alone has (spaces at the context's end belong to the option).
    """

    model_config = ConfigDict(extra="forbid")

    scores: dict[str, float]
    options: list[tuple[float, int]] = []
    subject: str | None = None

    @property
    def chosen(self) -> int:
        """The option of the highest log-likelihood, the first of equals, as lm-eval's `acc` chooses."""
        values = [value for value, _ in self.options]
        return values.index(max(values))


class TaskAnswers(BaseModel):
    """One task, one model.

    metrics: as lm-eval gives them, `acc,none` and `acc_stderr,none`, None where it gives none. better: whether a
    higher value is better, by metric.
    """

    model_config = ConfigDict(extra="forbid")

    kind: str
    metrics: dict[str, float | None]
    better: dict[str, bool]
    n: int
    fewshot: int
    answers: list[Answer]

    @property
    def chance(self) -> float | None:
        """Accuracy of guessing: the mean over samples of one over the number of options. None: not multiple choice."""
        if not self.answers or not all(answer.options for answer in self.answers):
            return None
        return sum(1 / len(answer.options) for answer in self.answers) / self.n

    def summary(self) -> TaskScores:
        """The task's row in results.json."""
        counts = {"n": self.n, **_named("chance", self.chance), "fewshot": self.fewshot}
        return TaskScores.model_validate({**plain_metrics(self.metrics), **counts})


def plain_metrics(metrics: dict[str, float | None]) -> dict[str, float | None]:
    """`acc,none` → `acc`; metrics of a second filter keep its name, as `exact_match,flexible-extract`."""
    filters = list(dict.fromkeys(key.partition(",")[2] for key in metrics))
    return {key.partition(",")[0] if key.endswith(f",{filters[0]}") else key: value for key, value in metrics.items()}


def _named(name: str, value: float | None) -> dict[str, float]:
    return {} if value is None else {name: value}
