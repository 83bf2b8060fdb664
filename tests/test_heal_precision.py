"""The number format that healing computes in: found by the device, said by the launcher or the recipe, recorded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import AutocastKwargs, DistributedType

import lowrise
import tiny
from faults import SAID, short_of_memory
from lowrise.errors import ModelError
from lowrise.heal.objective import NEXT_TOKEN, StudentLoss
from lowrise.heal.precision import is_said, usual_precision
from lowrise.heal.processes import computed_in
from lowrise.heal.teacher import Resident, Stored
from lowrise.heal.trial import check_trainable, settle_precision
from lowrise.model.decoder import Decoder
from lowrise.progress import Reporter
from lowrise.results import Healing
from refusals import Main
from tiny_families import tiny_model


@pytest.mark.parametrize(
    ("said", "amx", "device", "expected"),
    [
        (None, True, "cpu", "bf16"),
        (None, False, "cpu", "no"),
        ("no", True, "cpu", "no"),
        ("bf16", False, "cpu", "bf16"),
        ("fp16", False, "cpu", "no"),
        ("fp8", True, "cpu", "bf16"),
        (None, False, "cuda", "bf16"),
        ("no", False, "cuda", "bf16"),
        ("fp16", False, "cuda", "fp16"),
    ],
)
def test_what_is_usual(
    monkeypatch: pytest.MonkeyPatch, said: str | None, amx: bool, device: str, expected: str
) -> None:
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION")
    if said is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", said)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx)
    assert usual_precision(torch.device(device)) == expected


@pytest.mark.parametrize(
    ("asked", "launched", "said"),
    [("auto", None, False), ("auto", "no", False), ("auto", "bf16", True), ("bf16", None, True), ("no", None, True)],
)
def test_who_says_it(monkeypatch: pytest.MonkeyPatch, asked: Any, launched: str | None, said: bool) -> None:
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION")
    if launched is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    assert is_said(asked) is said


def test_bfloat16_heals_as_float32_does_but_for_rounding(tiny_folder: Path, text_file: Path, tmp_path: Path) -> None:
    """In processes of their own: accelerate has one number format in a process."""
    shallow = tiny.save(tmp_path / "shallow", num_hidden_layers=4)
    (tmp_path / "guard.txt").write_text(tiny.text(600, seed=5))
    found = {}
    for precision in ("no", "bf16"):
        out = tmp_path / precision
        command: list[object] = [sys.executable, "-m", "lowrise", "heal", shallow, "--dense", tiny_folder]
        command += ["--text", text_file, "--guard", tmp_path / "guard.txt", "--tokens", 700, "--length", 32, "--quiet"]
        command += ["--learning-rate", 0.003, "--device", "cpu", "--out", out]
        env = {**os.environ, "ACCELERATE_MIXED_PRECISION": precision}
        subprocess.run([*map(str, command)], check=True, timeout=280, env=env)
        found[precision] = Healing.model_validate(json.loads((out / "lowrise/results.json").read_text())["healing"])
    exact, rounded = found["no"], found["bf16"]
    assert (exact.precision, rounded.precision) == ("no", "bf16")
    one, other = ([loss for _, loss in healing.train] for healing in (exact, rounded))
    assert one != other
    assert other == pytest.approx(one, rel=0.02)


class Computing:
    """What is asked of an accelerator, whose format is one for a whole process."""

    def __init__(self, mixed_precision: str, distributed_type: DistributedType = DistributedType.NO) -> None:
        self.mixed_precision, self.distributed_type = mixed_precision, distributed_type
        self.autocast_handler: AutocastKwargs | None = None

    def autocast(self) -> torch.autocast:
        ended = self.autocast_handler is not None and not self.autocast_handler.enabled
        return torch.autocast("cpu", torch.bfloat16, enabled=self.mixed_precision == "bf16" and not ended)


def decoder_of(kind: str) -> Decoder:
    return lowrise.wrap(tiny_model(kind), tiny.tokenizer()).opened.decoder


@pytest.mark.parametrize(
    ("kind", "precision", "says"),
    [
        ("xmod", "bf16", r"trained in bfloat16, found .*dtype.*precision: \"no\""),
        ("xmod", "no", None),
        ("prophetnet", "no", "trained in float32.*cannot be healed"),
        ("llama", "bf16", None),
    ],
)
def test_what_cannot_be_trained_is_one_line_before_it_begins(kind: str, precision: str, says: str | None) -> None:
    student = StudentLoss(decoder_of(kind), NEXT_TOKEN)
    computing: Any = Computing(precision)
    if says is None:
        check_trainable(student, None, tiny.ids(), computing)
        return
    with pytest.raises(ModelError, match=says) as raised:
        check_trainable(student, None, tiny.ids(), computing)
    assert len(str(raised.value).splitlines()) == 1


def test_a_dense_model_that_cannot_be_asked_is_named() -> None:
    computing: Any = Computing("bf16")
    student = StudentLoss(decoder_of("llama"), NEXT_TOKEN)
    teacher = Resident(decoder_of("xmod"), 1.0, computing.autocast)
    with pytest.raises(ModelError, match=r"asked in bfloat16, found .*dtype.*precision: \"no\""):
        check_trainable(student, teacher, tiny.ids(), computing)
    teacher = Resident(decoder_of("prophetnet"), 1.0)
    with pytest.raises(ModelError, match=r"asked in float32.*cannot be learned from"):
        check_trainable(student, teacher, tiny.ids(), Computing("no"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("automatic", "distributed", "kind", "says"),
    [
        (True, DistributedType.NO, "xmod", None),
        (False, DistributedType.NO, "xmod", "trained in bfloat16"),
        (True, DistributedType.FSDP, "xmod", "trained in bfloat16"),
        (True, DistributedType.NO, "prophetnet", "trained in float32"),
    ],
)
def test_what_is_usual_gives_way_to_float32_and_what_was_said_does_not(
    automatic: bool, distributed: DistributedType, kind: str, says: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    computing: Any = Computing("bf16", distributed)
    decoder = decoder_of(kind)
    student, teacher = StudentLoss(decoder, NEXT_TOKEN), Resident(decoder, 1.0, computing.autocast)
    given = (student, teacher, tiny.ids(), computing, Reporter())
    if says is not None:
        with pytest.raises(ModelError, match=says):
            settle_precision(*given, automatic=automatic)
        return
    settle_precision(*given, automatic=automatic)
    assert computed_in(computing) == "no"
    (line,) = capsys.readouterr().err.splitlines()
    assert "healing computes in float32" in line
    assert "bfloat16" in line


def test_the_command_heals_in_float32_what_bfloat16_does_not_do_for(text_file: Path, tmp_path: Path) -> None:
    """In a process of its own, on a processor that is said to have AMX."""
    for name, layers in (("dense", None), ("shallow", 2)):
        made = tiny_model("xmod")
        if layers is not None:
            made = type(made)(type(made.config)(**{**made.config.to_dict(), "num_hidden_layers": layers}))
        made.save_pretrained(tmp_path / name)
        tiny.tokenizer().save_pretrained(tmp_path / name)
    (tmp_path / "guard.txt").write_text(tiny.text(600, seed=5))
    amx = "import torch, lowrise.cli; torch.cpu._is_amx_tile_supported = lambda: True; lowrise.cli.main()"
    command: list[object] = [sys.executable, "-c", amx, "heal", tmp_path / "shallow", "--dense", tmp_path / "dense"]
    command += ["--text", text_file, "--guard", tmp_path / "guard.txt", "--tokens", 200, "--length", 32]
    command += ["--device", "cpu", "--out", tmp_path / "out"]
    env = {name: value for name, value in os.environ.items() if name != "ACCELERATE_MIXED_PRECISION"}
    done = subprocess.run([*map(str, command)], check=False, capture_output=True, text=True, timeout=280, env=env)
    assert done.returncode == 0, done.stderr
    (said,) = [line for line in done.stderr.splitlines() if "computes in float32" in line]
    assert "bfloat16" in said
    found = Healing.model_validate(json.loads((tmp_path / "out/lowrise/results.json").read_text())["healing"])
    assert found.precision == "no"


def test_memory_that_ends_in_the_trial_is_not_laid_to_the_number_format() -> None:
    student = StudentLoss(decoder_of("llama"), NEXT_TOKEN)
    computing: Any = Computing("bf16")
    with short_of_memory(student.decoder.layers, 0), pytest.raises(torch.OutOfMemoryError):
        check_trainable(student, None, tiny.ids(), computing)


def test_a_healing_that_finds_no_room_says_what_helps(
    main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError(SAID)

    monkeypatch.setattr(StudentLoss, "forward", full)
    shallow = tiny.save(tmp_path / "shallow", num_hidden_layers=4)
    how = ["--tokens", 200, "--length", 32, "--device", "cpu", "--quiet", "--out", tmp_path / "out"]
    status, out, errors = main("heal", shallow, "--dense", tiny_folder, "--text", text_file, *how)
    assert (status, out) == (1, "")
    assert errors.splitlines() == [
        f"lowrise: healing ran out of memory ({SAID}); free memory of the device, say `heal: {{checkpointing: true}}` "
        "in a recipe, or train less: --train lora"
    ]


# -- the dense model -------------------------------------------------------------------------------------------------


def test_what_is_stored_is_what_the_dense_model_in_memory_says_in_the_same_format(tmp_path: Path) -> None:
    """Layers and head in bfloat16."""
    computing: Any = Computing("bf16")
    decoder, ids = Decoder(tiny.model(seed=1)), tiny.ids(6, 24)
    teacher, counted = Resident(decoder, 1.0, computing.autocast), torch.ones(6, 24, dtype=torch.bool)
    stored = Stored(tmp_path, counted[:, 1:].sum(1), 24)
    stored.make(teacher, ids, counted, Reporter(quiet=True))
    kept = stored.targets([*range(6)], ids, counted)
    answers = teacher.targets([*range(6)], ids, counted)
    with torch.no_grad():
        said = answers.at(slice(0, len(answers.h)), answers.h.device).log_softmax(1)
    torch.testing.assert_close(kept.log_p.float(), said.gather(1, kept.ids.long()), rtol=2**-11, atol=1e-6)
    exact = Resident(decoder, 1.0).targets([*range(6)], ids, counted)
    assert not torch.equal(exact.h, answers.h.float())


def test_answers_in_another_format_are_stored_elsewhere(
    main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shallow = tiny.save(tmp_path / "shallow", num_hidden_layers=4)
    (tmp_path / "guard.txt").write_text(tiny.text(600, seed=5))
    how = ["--text", text_file, "--guard", tmp_path / "guard.txt", "--tokens", 200, "--length", 32]
    how += ["--teacher", "stored", "--device", "cpu", "--quiet", "--force", "--out", tmp_path / "out"]
    for precision, folders in (("no", 1), ("no", 1), ("bf16", 2)):
        monkeypatch.setattr("lowrise.pipeline.healing_steps.computed_in", lambda _, precision=precision: precision)
        status, _, errors = main("heal", shallow, "--dense", tiny_folder, *how)
        assert status == 0, errors
        assert len([*(cache / "targets").iterdir()]) == folders
