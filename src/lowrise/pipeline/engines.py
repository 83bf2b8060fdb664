"""What serving engines will do with the folder that was written."""

from __future__ import annotations

from pathlib import Path

from lowrise.engines import check
from lowrise.errors import ModelError
from lowrise.pipeline.context import Run
from lowrise.results import EngineVerdict


def engine_verdicts(run: Run, folder: Path) -> list[EngineVerdict]:
    """Of all engines. An engine that the recipe names and that does not read the folder right is warned of.

    Of a config that nothing is known how to read there are none: that is no reason to lose what was made.
    """
    try:
        verdicts = check(folder)
    except ModelError as error:
        if run.recipe.for_engines:
            run.progress.warn(f"--for {','.join(run.recipe.for_engines)}: unknown, {error}")
        return []
    for verdict in verdicts:
        if verdict.engine in run.recipe.for_engines and not verdict.reads_right:
            run.progress.warn(f"--for {verdict.engine}: {verdict.name} {verdict.sentence()}")
    return [EngineVerdict(**verdict.data()) for verdict in verdicts]
