"""Which model families work: every causal type of the installed transformers, tiny and random, cut by three presets.

python scripts/families.py                 write docs/families.md
python scripts/families.py TYPE ...        only try these, and say what came of it

Two of eight layers go by `streamline-none` and `laco-mean`; what is left of another two is repaired by `refit`, without
its search. The first result is saved and proven.
Where the settings of a type can express some cuts only, the search keeps to these.
A second model of each type, with every switch of its class the other way, is cut by `streamline-none` and proven.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
import transformers  # noqa: E402

import lowrise  # noqa: E402
import tiny  # noqa: E402
from lowrise.api.progress import LowriseWarning  # noqa: E402
from lowrise.errors import InputError, LowriseError, ProofError  # noqa: E402
from lowrise.restriction import AllowedCuts  # noqa: E402
from tiny_families import NotBuiltError, causal_types, switches_of, tiny_model  # noqa: E402

PAGE = ROOT / "docs" / "families.md"
PRESETS = ("streamline-none", "refit", "laco-mean")
SWITCHED = "switched"  # beside the presets: `streamline-none` of the model with every switch the other way
COLUMNS = (*PRESETS, SWITCHED)
UNTRIED = "not tried"
GONE = 2
_FEW_WORDS = 7  # of what was found: fewer say little without what was expected
_SECONDS = 600  # of one type: beyond that something hangs
_SEARCH: dict[str, Any] = {"merge_search": {"combine": 3}, "samples": 4, "length": 16}


@dataclass
class Found:
    """What came of a type. states: by column, `works`, `restricted`, `refused`, `traceback`; none if it is not built.

    reasons: why cuts are restricted, why a column is refused, by its name, or why there is no tiny model, under "".
    """

    kind: str
    states: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    switches: list[str] = field(default_factory=list)

    @property
    def row(self) -> str:
        return f"| `{self.kind}` | " + " | ".join(self.states.get(column, UNTRIED) for column in COLUMNS) + " |"


def scan(kind: str, folder: Path, columns: Sequence[str] = COLUMNS) -> Found:
    """Try the presets on a tiny model of a type, and the first with its switches. folder: for what is written."""
    found, known = Found(kind), None
    for column in columns:
        begun = time.process_time()
        try:
            with _time_limit():
                switched = column == SWITCHED
                found.switches = switches_of(kind) if switched else []
                model = lowrise.wrap(tiny_model(kind, switches=found.switches), tiny.tokenizer())
                decoder = model.opened.decoder
                if known is not None and not switched:  # tried with the first preset
                    vars(decoder)["restrictions"], decoder.rows = known
                restrictions = decoder.restrictions
                if not switched:
                    known = restrictions, decoder.rows
                _cut(model, PRESETS[0] if switched else column, folder / f"{kind}-{column}")
            found.states[column] = "restricted" if restrictions else "works"
            if restrictions and not switched:
                found.reasons["restricted"] = "; ".join(one.reason for one in restrictions)
        except NotBuiltError as error:
            found.reasons[""] = str(error)
            return found
        except LowriseError as error:
            found.states[column] = "refused"
            found.reasons[column] = _difference(error)
        except Exception as error:  # noqa: BLE001 - what must not be
            where = traceback.extract_tb(error.__traceback__)[-1]
            found.states[column] = "traceback"
            found.reasons[column] = f"{type(error).__name__}: {error} ({Path(where.filename).name}, {where.lineno})"
        found.seconds[column] = time.process_time() - begun
    return found


def _difference(error: LowriseError) -> str:
    """What was found, and where that says little alone what was expected."""
    if not isinstance(error, InputError):
        return str(error)
    few = len(error.found.split()) < _FEW_WORDS
    return f"{error.found}, where {error.expected} is expected" if few else error.found


def _cut(model: lowrise.Model, preset: str, out: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LowriseWarning)  # random models may well collapse
        _made(model, preset, out)
    with torch.no_grad():
        logits = model.hf_model(input_ids=tiny.ids(), use_cache=False).logits
    if not torch.isfinite(logits).all():
        raise ProofError("logits that are not finite")


def _made(model: lowrise.Model, preset: str, out: Path) -> None:
    windows = lowrise.tokens(tiny.ids(rows=6, tokens=16))
    if preset == "laco-mean":
        text = out.with_suffix(".txt")
        text.write_text(tiny.text(400), encoding="utf-8")
        lowrise.apply(model, lowrise.plan(model, preset=preset, remove=GONE, text=[text], **_SEARCH))
    elif preset == "refit":
        decoder = model.opened.decoder
        scores = [abs(layer - len(decoder) / 2) for layer in range(len(decoder))]  # the middle is as good as any
        gone = AllowedCuts(len(decoder), decoder.restrictions).least(scores, GONE)
        plan = lowrise.plan(model, windows, layers=gone, repair="refit")
        lowrise.apply(model, plan, windows)
    else:
        lowrise.apply(model, lowrise.plan(model, windows, preset=preset, remove=GONE))
        model.save(out)


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {_SECONDS} seconds")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


# -- the page ---------------------------------------------------------------------------------------------------------


def page(all_found: Sequence[Found]) -> str:
    built = [found for found in all_found if found.states]
    some = [found for found in built if {"works", "restricted"} & set(found.states.values())]
    restricted = [found for found in some if "restricted" in found.reasons]
    counts = {column: sum(found.states.get(column) in ("works", "restricted") for found in built) for column in COLUMNS}
    untried = any(len(found.states) < len(COLUMNS) for found in built)
    lines = [
        "# Families",
        "",
        "Written by `python scripts/families.py`; a slow test compares. Every type that `AutoModelForCausalLM` of",
        f"transformers {transformers.__version__} opens, as a tiny random model of eight layers, two of which go.",
        "What works by the first preset was saved, read back by stock transformers and proven: the same logits, cached",
        "and uncached generation alike. `refit` is the repair, of the layers that are left when two in the middle go.",
        f"`{SWITCHED}` is the first preset again, of a model with every switch of the type's config the other way that",
        "it can be built with: tied embeddings, biases, norms and residuals in another order.",
        "",
        f"Of {len(all_found)} types {len(built)} can be built so, and {len(some)} of them work"
        f" ({len(restricted)} with restricted cuts): {', '.join(f'{counts[one]} by `{one}`' for one in PRESETS)},"
        f" {counts[SWITCHED]} {SWITCHED}.",
        *(["", f"`{UNTRIED}`: left out of the run that wrote this page."] if untried else []),
        "",
        "| type | " + " | ".join(f"`{column}`" for column in COLUMNS) + " |",
        "|---" * (1 + len(COLUMNS)) + "|",
        *(found.row for found in built),
        "",
        "## Restricted cuts",
        "",
        "The search takes only cuts that the type's settings can express.",
        "",
        *(f"- `{found.kind}`: {found.reasons['restricted']}" for found in restricted),
        "",
        "## Refused",
        "",
        *(line for found in built for line in _refusals(found)),
        "",
        "## Not built",
        "",
        *(f"- `{found.kind}`: {found.reasons['']}" for found in all_found if not found.states),
    ]
    return "\n".join(lines) + "\n"


def _refusals(found: Found) -> list[str]:
    """A line for each reason, with the columns that it is of; all of them, when no preset works."""
    columns: dict[str, list[str]] = {}
    for column in COLUMNS:
        if found.states.get(column) in ("refused", "traceback"):
            columns.setdefault(found.reasons[column], []).append(column)
    return [
        f"- `{found.kind}`, {'all' if set(PRESETS) <= set(names) else ', '.join(names)}: {reason}"
        for reason, names in columns.items()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", metavar="TYPE")
    parser.add_argument("--columns", default=",".join(COLUMNS), help="only try these")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    all_found = []
    with tempfile.TemporaryDirectory() as name:
        for kind in asked.types or causal_types():
            found = scan(kind, Path(name), asked.columns.split(","))
            all_found.append(found)
            states = ", ".join(found.states.values()) or "not built"
            seconds = ", ".join(f"{one:.1f} s" for one in found.seconds.values())
            print(f"{kind}: {states} ({seconds}) {found.reasons or ''} {' '.join(found.switches)}", flush=True)
    if not asked.types:
        PAGE.write_text(page(all_found), encoding="utf-8")
    return int(any("traceback" in found.states.values() for found in all_found))


if __name__ == "__main__":
    raise SystemExit(main())
