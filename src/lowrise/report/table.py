"""Results as a short table, for the terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from lowrise.errors import printable
from lowrise.report import numbers
from lowrise.results import Results


def rows(results: Results) -> list[tuple[str, str, str]]:
    """(what, dense, compressed) of everything that was measured; dense is empty where only one model was."""
    found = []
    for number in numbers.NUMBERS:
        view = number.terminal
        if view is not None:
            for reading in number.read(results):
                after, kept = view.text(reading.value), view.kept_text(reading)
                shown = f"{after} ({kept})" if after and kept else after or kept
                found.append((view.name(reading, results.dtype), view.text(reading.dense), shown))
    return found


def terminal_table(results: Results) -> Table:
    table = Table("", "dense", "compressed", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows(results):
        table.add_row(*map(Text, map(printable, row)))  # names of files are no markup
    table.add_section()
    table.add_row("seconds", "", f"{results.seconds['total']:,.0f}")
    return table
