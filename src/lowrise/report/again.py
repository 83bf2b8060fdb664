"""The command on a page that makes its folder again."""

from __future__ import annotations

import shlex

from lowrise.results import Results


def again(results: Results, command: str, record: str, given: str = "") -> str:
    """To be run where the folder was made, which is not recorded: pages are shown to others, and so would it be.

    command: up to the file `record` of the folder's records. given: what follows it.
    """
    folder = results.model or "shallower"
    return (
        f"lowrise {command} {shlex.quote(f'{folder}/lowrise/{record}')}{given} --out {shlex.quote(f'{folder}-again')}"
    )
