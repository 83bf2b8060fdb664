"""Results as a short table, for the terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from lowrise.errors import printable
from lowrise.report import words
from lowrise.report.tasks import task_rows
from lowrise.results import Rate, Results, Speed, Spread


def rows(results: Results) -> list[tuple[str, str, str]]:
    """(what, dense, compressed) of everything that was measured; dense is empty where only one model was."""
    dense = results.dense
    kept = f" ({results.retained.parameters:.1%})" if results.retained is not None else ""
    both = []
    for what, key, shown, share in (
        ("layers", "layers", words.count, ""),
        ("parameters", "parameters", words.count, kept),
        ("of them embeddings", "parameters_embeddings", words.count, ""),
        (f"weights ({results.dtype})", "bytes", words.megabytes, ""),
    ):
        before = shown(getattr(dense, key)) if dense is not None else ""
        both.append((what, before, shown(getattr(results, key)) + share))
    for name, value in results.perplexity.items():
        old = dense.perplexity.get(name) if dense is not None else None
        ratio = results.perplexity_ratio.get(name)
        after = f"{value.value:,.2f}" + (f" (×{ratio:.2f})" if ratio is not None else "")
        both.append((f"perplexity, {name}", f"{old.value:,.2f}" if old is not None else "", after))
    return both + task_rows(results) + (_speed_rows(results.speed) if results.speed is not None else [])


def _speed_rows(speed: Speed) -> list[tuple[str, str, str]]:
    """Medians, ± half of what lies between the quartiles; the ratio and the ideal one."""
    dense, compressed = speed.dense, speed.compressed
    found = []
    for part in ("prefill", "decode"):
        rates: dict[str, Rate] = getattr(compressed, part)
        for batch, rate in rates.items():
            before, after = "", _rate(rate)
            if dense is not None:
                before = _rate(getattr(dense, part)[batch])
                ratio, ideal = speed.ratio[part][batch], speed.ideal[part][batch]
                after += f" (×{ratio.median:.2f}{_spread(ratio)}, ideal ×{ideal.ratio:.2f})"
            found.append((f"{part}, tokens/s, batch {batch}", before, after))
    for what, key, shown in (
        ("first token, ms", "first_token_seconds", lambda seconds: f"{seconds.median * 1000:,.1f}"),
        ("keys and values a token", "kv_bytes_per_token", lambda value: f"{value:,} B"),
        ("memory while generating", "peak_bytes", words.megabytes),
    ):
        before = shown(getattr(dense, key)) if dense is not None else ""
        found.append((what, before, shown(getattr(compressed, key))))
    return found


def _rate(rate: Rate) -> str:
    return f"{rate.value:,.0f}{_spread(rate)}"


def _spread(values: Spread | Rate) -> str:
    if values.low is None or values.high is None:
        return ""
    return f" ±{(values.high - values.low) / 2 / values.value:.0%}"


def terminal_table(results: Results) -> Table:
    table = Table("", "dense", "compressed", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows(results):
        table.add_row(*map(Text, map(printable, row)))  # names of files are no markup
    table.add_section()
    table.add_row("seconds", "", f"{results.seconds['total']:,.0f}")
    return table
