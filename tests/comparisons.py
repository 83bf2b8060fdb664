"""What the tests of `lowrise compare` share: its finished rows, and settings that keep it small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Arguments = list[Any]
SMALL = ["--samples", 8, "--length", 32, "--windows", 2, "--device", "cpu", "--quiet"]


def row_states(folder: Path) -> dict[str, dict[str, Any]]:
    return {file.parent.name: json.loads(file.read_text()) for file in sorted(folder.glob("rows/*/row.json"))}
