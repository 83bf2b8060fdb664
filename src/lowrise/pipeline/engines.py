"""What serving engines will do with the folder that was written."""

from __future__ import annotations

from pathlib import Path

from lowrise.engines import check
from lowrise.pipeline.context import Run
from lowrise.results import EngineVerdict


def engine_verdicts(run: Run, folder: Path) -> list[EngineVerdict]:
    """Of all engines. An engine that the recipe names and that does not read the folder right is warned of."""
    verdicts = check(folder)
    for verdict in verdicts:
        if verdict.engine in run.recipe.for_engines and not verdict.reads_right:
            run.progress.warn(f"--for {verdict.engine}: {verdict.name} {verdict.sentence()}")
    return [EngineVerdict(**verdict.data()) for verdict in verdicts]
