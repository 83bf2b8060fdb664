"""Results as a short table, for the terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from lowrise.errors import printable
from lowrise.report import words
from lowrise.report.tasks import task_rows


def rows(results: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(what, dense, compressed) of everything that was measured; dense is empty where only one model was."""
    dense = results.get("dense", {})
    both = [("layers", _number(dense.get("layers")), _number(results["layers"]))]
    kept = results.get("retained", {}).get("parameters")
    share = f"{results['parameters']:,}" + (f" ({kept:.1%})" if kept is not None else "")
    both.append(("parameters", _number(dense.get("parameters")), share))
    both.append(
        ("of them embeddings", _number(dense.get("parameters_embeddings")), _number(results["parameters_embeddings"]))
    )
    before = words.megabytes(dense["bytes"]) if "bytes" in dense else ""
    both.append((f"weights ({results['dtype']})", before, words.megabytes(results["bytes"])))
    for name, value in results.get("perplexity", {}).items():
        before = dense.get("perplexity", {}).get(name)
        ratio = results.get("retained", {}).get("perplexity_ratio", {}).get(name)
        after = f"{value['value']:,.2f}" + (f" (×{ratio:.2f})" if ratio is not None else "")
        both.append((f"perplexity, {name}", f"{before['value']:,.2f}" if before else "", after))
    return both + task_rows(results) + _speed_rows(results.get("speed", {}))


def _speed_rows(speed: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Medians, ± half of what lies between the quartiles; the ratio and the ideal one."""
    if not speed:
        return []
    dense, compressed = speed.get("dense"), speed["compressed"]
    found = []
    for part in ("prefill", "decode"):
        for batch, rate in compressed[part].items():
            after = _rate(rate)
            if dense is not None:
                ratio, ideal = speed["ratio"][part][batch], speed["ideal"][part][batch]
                after += f" (×{ratio['median']:.2f}{_spread(ratio, 'median')}, ideal ×{ideal['ratio']:.2f})"
            found.append((f"{part}, tokens/s, batch {batch}", _rate(dense[part][batch]) if dense else "", after))
    for what, key, shown in (
        ("first token, ms", "first_token_seconds", lambda seconds: f"{seconds['median'] * 1000:,.1f}"),
        ("keys and values a token", "kv_bytes_per_token", lambda value: f"{value:,} B"),
        ("memory while generating", "peak_bytes", words.megabytes),
    ):
        found.append((what, shown(dense[key]) if dense else "", shown(compressed[key])))
    return found


def _rate(rate: dict[str, float]) -> str:
    return f"{rate['tokens_per_second']:,.0f}{_spread(rate, 'tokens_per_second')}"


def _spread(values: dict[str, float], middle: str) -> str:
    return f" ±{(values['high'] - values['low']) / 2 / values[middle]:.0%}"


def terminal_table(results: dict[str, Any]) -> Table:
    table = Table("", "dense", "compressed", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows(results):
        table.add_row(*map(Text, map(printable, row)))  # names of files are no markup
    table.add_section()
    table.add_row("seconds", "", f"{results['seconds']['total']:,.0f}")
    return table


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
