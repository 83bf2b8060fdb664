"""What each engine will do with a checkpoint: opens and equals, opens WRONG, refuses, or nobody knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowrise.engines.checkpoint import Checkpoint, HasDict, of_config, of_folder, without_weights
from lowrise.engines.facts import ENGINES, Engine
from lowrise.engines.rules import Fate, Finding, NeedsFile
from lowrise.errors import RecipeError, close_names
from lowrise.restriction import Restriction

_ORDER: tuple[Fate, ...] = ("refuses", "wrong", "unknown", "opens")  # the first that is found counts
_WORDS: dict[Fate, str] = {"wrong": "opens it WRONG", "refuses": "refuses it", "unknown": "unknown"}
_KNOWN_FORMATS = {"F32", "F16", "BF16"}


@dataclass(frozen=True)
class Verdict:
    """engine: its name. version: that is meant. because: why it is not read right, and limits where it is."""

    engine: str
    title: str
    version: str
    fate: Fate
    because: tuple[str, ...] = ()

    @property
    def reads_right(self) -> bool:
        return self.fate == "opens"

    @property
    def name(self) -> str:
        """`llama.cpp b10359`; the version stands in the title of some."""
        return self.title if self.version in self.title else f"{self.title}, {self.version}"

    def sentence(self) -> str:
        """`opens it WRONG: it takes …`, or `opens it, and it equals`."""
        because = "; ".join(self.because)
        if self.fate == "opens":  # what is beside it are limits
            return "opens it, and it equals" + (f" ({because})" if because else "")
        return f"{_WORDS[self.fate]}: {because}"

    def data(self) -> dict[str, Any]:
        return {"engine": self.engine, "version": self.version, "fate": self.fate, "because": [*self.because]}


def check(folder: Path | str, engines: Sequence[str] = ()) -> list[Verdict]:
    """What each of `engines` will do with a model's folder; all that are known, where none is named. Nothing is run.

    Raises ModelError for what is not the folder of a model, RecipeError for an engine of which nothing is known.

    >>> [verdict.fate for verdict in lowrise.check("org/name", ["llama.cpp", "mlx"])]
    ['opens', 'opens']
    """
    for name in engines:
        if name not in ENGINES:
            raise RecipeError("engines", f"some of {', '.join(ENGINES)}", repr(name), close_names(name, ENGINES))
    checkpoint = of_folder(Path(folder))
    return [judge(ENGINES[name], checkpoint) for name in engines or ENGINES]


def judge(engine: Engine, checkpoint: Checkpoint) -> Verdict:
    findings = _findings(engine, checkpoint)
    found = {finding.fate for finding in findings}
    fate: Fate = next((fate for fate in _ORDER if fate in found), "opens")
    because = dict.fromkeys(finding.because for finding in findings if finding.fate == fate)
    return Verdict(engine.name, engine.title, engine.version, fate, tuple(because))


def _findings(engine: Engine, checkpoint: Checkpoint) -> list[Finding]:
    if checkpoint.own_code:
        if not engine.opens_own_code:
            return [Finding("refuses", "the checkpoint brings its own modelling file, which it does not run")]
        if engine.reference:
            return [Finding("opens", "with trust_remote_code=True")]
        return [Finding("unknown", "the checkpoint brings its own modelling file")]
    if engine.families is not None and checkpoint.family not in engine.families:
        return [Finding("refuses", f"it knows no model_type {checkpoint.family}")]
    if engine.reference:
        return []
    if engine.architectures is not None and checkpoint.architecture not in engine.architectures:
        return [Finding("refuses", f"its converter knows no architecture {checkpoint.architecture}")]
    facts, read = engine.reading(checkpoint)
    if not facts:
        return [Finding("unknown", f"nothing is known of the family {_family(checkpoint)} in it")]
    if checkpoint.quantized or not checkpoint.formats <= _KNOWN_FORMATS:
        return [Finding("unknown", "nothing is known of weights in such a number format in it")]
    rules = [*(fact.rule for fact in facts), *(rule for rule, _, _ in engine.always)]
    return [finding for rule in rules if (finding := rule.judge(read)) is not None]


def _family(checkpoint: Checkpoint) -> str:
    return checkpoint.family if checkpoint.text is None else f"{checkpoint.family} around {checkpoint.text}"


def restrictions(config: Mapping[str, Any] | HasDict, engines: Sequence[str]) -> list[Restriction]:
    """Which cuts of a model these engines read right. config: of the model before the cut.

    Raises RecipeError for an engine that refuses the whole model, and for one of which nothing is known there.
    """
    model = of_config(config)
    found: list[Restriction] = []
    for name in engines:
        engine = ENGINES[name]
        if engine.reference:
            continue
        _refuse_unknown(engine, model)
        facts, read = engine.reading(model)
        parts = (fact.rule.restrict(read, engine.title) for fact in facts)
        found += [part for part in parts if part is not None]
    return found


def restricting(config: Mapping[str, Any] | HasDict) -> list[Engine]:
    """Those that read some cuts of a model wrong and others right. config: of the model before the cut."""
    found = []
    for engine in ENGINES.values():
        try:
            restricted = restrictions(config, [engine.name])
        except RecipeError:  # of which nothing is known there, or that refuses it whatever is cut
            continue
        if restricted:
            found.append(engine)
    return found


def check_files(folder: Path, engines: Sequence[str]) -> None:
    """Raises RecipeError where an engine needs a file that a dense model's folder lacks: its cuts will lack it too."""
    model = without_weights(folder)
    for name in engines:
        engine = ENGINES[name]
        facts, read = engine.reading(model)
        for fact in facts:
            if isinstance(fact.rule, NeedsFile) and fact.rule.judge(read) is not None:
                expected = f"{fact.rule.name} in {folder}: {engine.title} needs it"
                remedy = "put the file of the original model there, or leave the engine out of --for"
                raise RecipeError(f"--for {name}", expected, "none", remedy)


def _refuse_unknown(engine: Engine, model: Checkpoint) -> None:
    known, _ = engine.reading(model)
    refused = engine.families is not None and model.family not in engine.families
    named = {model.architecture} - {None}  # a config in memory may not say it
    refused |= engine.architectures is not None and not named <= engine.architectures
    if known and not refused and not model.own_code:
        return
    what = f"{model.architecture or 'a model'} ({_family(model)})"
    found = f"{what}, which it refuses" if refused else f"{what}, of which nothing is known there"
    raise RecipeError(f"--for {engine.name}", f"a model that {engine.title} reads", found, "leave it out of --for")
