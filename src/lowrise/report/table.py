"""Results as a short table, for the terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table

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
    both.append((f"weights ({results['dtype']})", _bytes(dense.get("bytes")), _bytes(results["bytes"])))
    for name, value in results.get("perplexity", {}).items():
        before = dense.get("perplexity", {}).get(name)
        ratio = results.get("retained", {}).get("perplexity_ratio", {}).get(name)
        after = f"{value['value']:,.2f}" + (f" (×{ratio:.2f})" if ratio is not None else "")
        both.append((f"perplexity, {name}", f"{before['value']:,.2f}" if before else "", after))
    both += task_rows(results)
    return both


def terminal_table(results: dict[str, Any]) -> Table:
    table = Table("", "dense", "compressed", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows(results):
        table.add_row(*row)
    table.add_section()
    table.add_row("seconds", "", f"{results['seconds']['total']:,.0f}")
    return table


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _bytes(value: int | None) -> str:
    return "" if value is None else f"{value / 1e6:,.0f} MB"
