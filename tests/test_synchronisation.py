"""Nothing waits for an accelerator at every token that is written: what asks for numbers on the CPU is counted."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

import tiny
from lowrise.calibration.written import write_windows
from lowrise.model.decoder import Decoder
from lowrise.progress import Reporter

WAITS = ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__int__", "__float__", "__index__")


def waits(monkeypatch: pytest.MonkeyPatch, run: Callable[[], object]) -> Counter[str]:
    """Calls that lowrise's own code makes while `run` runs."""
    found: Counter[str] = Counter()
    with monkeypatch.context() as patch:
        for name in WAITS:
            plain = getattr(torch.Tensor, name)

            def counted(*args: Any, _name: str = name, _plain: Any = plain, **kwargs: Any) -> Any:
                if "/lowrise/" in sys._getframe(1).f_code.co_filename:
                    found[_name] += 1
                return _plain(*args, **kwargs)

            patch.setattr(torch.Tensor, name, counted)
        run()
    return found


@pytest.mark.parametrize("prefix", [(), (0,)])
def test_own_text_is_written_without_waiting_for_tokens(
    monkeypatch: pytest.MonkeyPatch, prefix: tuple[int, ...]
) -> None:
    decoder, tokenizer, quiet = Decoder(tiny.model()), tiny.tokenizer(), Reporter(quiet=True)

    def count(length: int) -> Counter[str]:
        return waits(
            monkeypatch,
            lambda: write_windows(
                decoder, tokenizer, samples=4, length=length, seed=0, progress=quiet, prefix=prefix
            ),
        )  # fmt: skip

    assert count(8) == count(64)
