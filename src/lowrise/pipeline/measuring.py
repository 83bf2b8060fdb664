"""What a model does and weighs, dense and compressed side by side."""

from __future__ import annotations

from typing import Any

from lowrise.calibration import Windows
from lowrise.measure.perplexity import perplexity
from lowrise.measure.size import size
from lowrise.measure.speed import speed
from lowrise.measure.system import peak_memory, versions
from lowrise.model.decoder import Decoder
from lowrise.model.source import OpenModel
from lowrise.pipeline.clock import Clock
from lowrise.progress import Reporter


def measure_model(
    decoder: Decoder,
    opened: OpenModel,
    texts: dict[str, Windows],
    limit: int | None,
    report: Reporter,
    clock: Clock,
) -> dict[str, Any]:
    with clock.stage("measure"):
        values = {name: perplexity(decoder, windows, limit, report) for name, windows in texts.items()}
    return {**size(decoder, opened.save_dtype), "perplexity": values}


def make_results(name: str, after: dict[str, Any], dense: dict[str, Any] | None, clock: Clock) -> dict[str, Any]:
    results: dict[str, Any] = {"model": name, **after}
    if dense is not None:
        ratios = {
            text: value["value"] / dense["perplexity"][text]["value"] for text, value in after["perplexity"].items()
        }
        results["dense"] = dense
        results["retained"] = {
            "layers": after["layers"] / dense["layers"],
            "parameters": after["parameters"] / dense["parameters"],
            "perplexity_ratio": ratios,
        }
    return {**results, "memory": peak_memory(), "versions": versions(), "seconds": clock.total()}


def add_speed(
    results: dict[str, Any], compressed: Decoder, dense: Decoder | None, report: Reporter, clock: Clock
) -> None:
    """Last of all, so that `memory` says what the rest took, before both models were held for this."""
    with clock.stage("speed"):
        results["speed"] = speed(compressed, dense, report)
    results["seconds"] = clock.total()
