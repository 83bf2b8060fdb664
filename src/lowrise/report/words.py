"""Numbers as people read them, the same in every page and card."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

TIMES, TO, MINUS = "×", "–", "\u2212"
_LINE_ENDS = re.compile(r"\n(?:[^\S\n]*\n){2,}")


def count(value: float) -> str:
    return f"{value:,.0f}"


def short_count(value: float) -> str:
    """134.5 million, 6.7 billion."""
    for size, name in ((1e9, "billion"), (1e6, "million")):
        if value >= size:
            return f"{value / size:,.1f} {name}"
    return f"{value:,.0f}"


def tasks(counted: int, asked: int) -> str:
    """What a mean is over: `4 tasks`, or `2 of 4 tasks` where the others have no value."""
    share = "" if counted == asked else f"{counted} of "
    return f"{share}{asked} task{'' if asked == 1 else 's'}"


def prompts(texts: int, questions: int) -> str:
    """`8 prompts, 4 questions`"""
    named = ((texts, "prompt"), (questions, "question"))
    return ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for count, name in named if count)


def decimal(value: float) -> str:
    """Two decimals, large numbers with separators, huge ones as powers of ten."""
    if not math.isfinite(value):
        return "∞" if value > 0 else "not a number"
    return f"{value:,.2f}" if abs(value) < 1e6 else f"{value:.2e}"


def four_digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def ratio(value: float) -> str:
    return TIMES + (decimal(value) if not 0 < abs(value) < 0.095 else f"{value:.2g}")


def percent(value: float) -> str:
    return f"{100 * value:.1f}%".replace("-", MINUS)


def bare_percent(value: float) -> str:
    """Without the sign, for the ends of an interval."""
    return percent(value).removesuffix("%")


def rate(value: float) -> str:
    """Tokens a second."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def megabytes(value: float) -> str:
    """Bytes to three digits: 538 MB, 1.34 GB."""
    for size, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= size:
            return f"{value / size:,.{0 if value >= 100 * size else 1 if value >= 10 * size else 2}f} {name}"
    return f"{value:,.0f} B"


def seconds(value: float) -> str:
    if value >= 3600:
        return f"{value / 3600:.1f} h"
    if value >= 120:
        return f"{value / 60:.1f} min"
    return f"{value:.1f} s" if value >= 0.95 else f"{1000 * value:.0f} ms"


def markdown(text: str) -> str:
    """Plain text in Markdown, on one line: nothing in it becomes mark-up, HTML or a table's edge."""
    return re.sub(r"([\\`*<>\[\]|])", r"\\\1", " ".join(text.split()))


def capitalize_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def span(start: int, stop: int) -> str:
    """Layers [start, stop) as people count them off: `layer 3`, `layers 3–5`."""
    return f"layer {start}" if stop == start + 1 else f"layers {start}{TO}{stop - 1}"


def shortened(text: str) -> str:
    """Text that a model wrote, as a page shows it: of many line ends in a row, their number."""
    return _LINE_ENDS.sub(lambda found: f"\n⏎{TIMES}{found[0].count(chr(10))}\n", text.strip())


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`; `nothing` of none."""
    return "nothing" if not names else " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


FILTERS: dict[str, Callable[..., str]] = {
    function.__name__: function
    for function in (count, short_count, decimal, ratio, percent, rate, megabytes, seconds, shortened)
}
