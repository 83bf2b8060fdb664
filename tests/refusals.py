"""What the bad-input tests share: what a refusal looks like, and spoiling a checkpoint."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Main = Callable[..., tuple[int, str, str]]
Refused = Callable[..., str]
MakeModel = Callable[[Path], Path]

PLAIN = ["--preset", "streamline-none", "--remove", 2, "--length", 32, "--samples", 8, "--device", "cpu", "--quiet"]


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder with its bytes; None for a folder."""
    found = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes() for path in found}


def without_work(found: dict[str, bytes | None]) -> tuple[dict[str, bytes | None], bool]:
    """Of `contents` what is no work folder of a run, in one, or above one; and whether there is one."""
    work = {name for name in found if re.search(r"(^|/)\.[a-z.]+\.[0-9a-f]{8}\.work(/|$)", name)}
    work |= {name for name in found if any(one.startswith(f"{name}/") for one in work)}
    return {name: content for name, content in found.items() if name not in work}, bool(work)


def assert_one_line(status: int, out: str, err: str, fragments: tuple[object, ...]) -> str:
    assert "Traceback" not in err
    assert status == 2, err
    assert out == ""
    assert len(err.splitlines()) == 1, err
    assert err.startswith("lowrise: ")
    for fragment in fragments:
        assert str(fragment) in err
    return err


def mark(folder: Path) -> None:
    """As if `lowrise run` had written this folder: --force may replace it."""
    (folder / "lowrise").mkdir()
    (folder / "lowrise" / "plan.json").write_text('{"format": 1}', encoding="utf-8")


def copied(folder: Path, source: Path) -> Path:
    return Path(shutil.copytree(source, folder))


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) | changes
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}), encoding="utf-8")
