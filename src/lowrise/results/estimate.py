"""What a command will take, as far as that can be said before it is begun."""

from __future__ import annotations

from pydantic import Field

from lowrise.results.record import Record


class StageEstimate(Record):
    """seconds: that it takes. memory_bytes: resident at most while it lasts, the models included. disk_bytes: that lie
    on disk while it lasts.
    """

    name: str
    seconds: float
    memory_bytes: int
    disk_bytes: int


class Estimate(Record):
    """An estimate, no promise: its goal is 30%.

    what: is done, in words. layers, layers_after: of the dense model and of what is made. tokens: of the calibration,
    or that are trained on. seconds, memory_bytes, disk_bytes: in all, at most, at most; kept_bytes: of the disk's what
    stays. machine: whose rates these are. assumed: what was not known, a sentence each.
    """

    command: str
    model: str
    what: str
    layers: int
    layers_after: int
    tokens: int
    seconds: float
    memory_bytes: int
    disk_bytes: int
    kept_bytes: int
    stages: list[StageEstimate]
    machine: str
    assumed: list[str] = Field(default_factory=list)

    def by_stage(self) -> dict[str, float]:
        """Seconds by the name of a stage, as `seconds` of results.json has them; of one that comes twice, the sum."""
        found: dict[str, float] = {}
        for stage in self.stages:
            found[stage.name] = found.get(stage.name, 0.0) + stage.seconds
        return found
