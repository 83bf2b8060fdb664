"""Healing in memory, on tiny models: what trains, what is kept, and what the teacher on disk says."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

import tiny
from lowrise.calibration import Windows
from lowrise.errors import OutputError, RecipeError
from lowrise.heal import defaults
from lowrise.heal.guarding import Guarding
from lowrise.heal.objective import Goal, StudentLoss
from lowrise.heal.standing import Standing
from lowrise.heal.teacher import Resident, Stored
from lowrise.heal.tokens import TrainingTokens
from lowrise.heal.trainable import gaps, prepare, samples, weight_scale
from lowrise.heal.training import TrainingPlan, all_but, train
from lowrise.model.decoder import Decoder
from lowrise.plan import CalibrationRecord, Drop, Edit, Merge, ModelRecord, Plan, Replace
from lowrise.progress import Reporter
from lowrise.settings import Heal
from lowrise.work import Work

QUIET = Reporter(quiet=True)


def tokens(windows: int = 12, length: int = 24) -> TrainingTokens:
    ids = tiny.ids(windows, length).int()
    held_out = {"own": Windows(ids[:2].long(), "own", 0)}  # seen in training: it gets better by all means
    guard = ("guard", Windows(tiny.ids(2, length, seed=9), "guard", 0))
    return TrainingTokens(ids, None, 0, torch.zeros(windows, dtype=torch.int32), ("own",), held_out, guard)


def plan_of(steps: int = 6, rate: float = 1e-3, batch: int = 2) -> TrainingPlan:
    schedule, rates = defaults.schedule_of(steps * batch, batch, rate)
    return TrainingPlan(schedule, rates, micro=24, points=frozenset(range(1, steps + 1)), evaluated=48)


def healed(
    student: Any,
    made: TrainingTokens,
    plan: TrainingPlan,
    goal: Goal | None = None,
    work: Work | None = None,
    scaled: bool = False,
) -> Standing:
    """scaled: the loss, as it is in float16, by a scale that doubles every other step."""
    goal = goal or Goal(0.0)
    teacher = None if goal.kl == 0 else Resident(Decoder(tiny.model(seed=1)), goal.temperature)
    loss = StudentLoss(Decoder(student), goal)
    accelerator = Accelerator(cpu=True)
    if scaled:
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)
    return train(loss, teacher, made, plan, accelerator, QUIET, work or Work())


def cut_plan(*edits: Edit) -> Plan:
    left = tiny.LAYERS - sum(edit.stop - edit.start - edit.put_back for edit in edits)
    return Plan(
        model=ModelRecord(source="m", family="llama", layers=tiny.LAYERS, sha256="0"),
        preset="given", edits=[*edits], layers_after=left, parameters_before=1, parameters_after=1, scores={},
        calibration=CalibrationRecord(source="t", tokens=8, sha256="0", seed=0, samples=1, length=8),
    )  # fmt: skip


def test_the_loop_is_a_plain_loop() -> None:
    """AdamW, clip and rates as documented: step by step the same losses, and the same weights at the end."""
    made, plan = tokens(), plan_of()
    student, plain = tiny.model(), tiny.model()
    done = healed(student, made, plan)
    optimiser = torch.optim.AdamW(plain.parameters(), lr=1.0, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(6):
        for group in optimiser.param_groups:
            group["lr"] = plan.schedule.rate(step, plan.rates)
        ids = made.ids[2 * step : 2 * step + 2].long()
        loss = plain(input_ids=ids, labels=ids).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimiser.step()
        assert done.losses[step] == (48 * (step + 1), pytest.approx(loss.item(), rel=1e-4))
    for own, other in zip(student.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-4)


def test_kl_brings_the_student_to_the_dense_model() -> None:
    made = tokens(2)
    made = dataclasses.replace(made, ids=made.ids.repeat(6, 1))
    done = healed(tiny.model(), made, plan_of(rate=3e-3), Goal(1.0))
    assert done.losses[-1][1] < 0.8 * done.losses[0][1]


EXPECTED: dict[str, Callable[[str], bool]] = {
    "all": lambda _: True,
    "lora": lambda name: "_proj" in name,
    "network": lambda name: ".layers.1." in name,
    "gaps": lambda name: ".layers.0." in name or ".layers.1." in name or ".layers.2." in name,
    "tail": lambda name: "lm_head" in name or any(f".layers.{layer}." in name for layer in (1, 2, 3)),
}


@pytest.mark.parametrize("how", list(EXPECTED))
def test_what_trains_is_what_changes(how: Any) -> None:
    """Of six layers, [1, 4) became one trained layer."""
    plan = cut_plan(Replace(start=1, stop=4, network="layer"))
    student = tiny.model()
    decoder = Decoder(student)
    decoder.drop(2, 4)
    before = {name: value.detach().clone() for name, value in student.named_parameters()}
    merge = prepare(decoder, how, Heal(), 0, plan, [])
    loss = StudentLoss(decoder, Goal(0.0))
    train(loss, None, tokens(), plan_of(rate=1e-2), Accelerator(cpu=True), QUIET, Work())
    merge()
    after = dict(student.named_parameters())
    assert before.keys() == after.keys()  # nothing of an adapter is left
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if EXPECTED[how](name)}


def test_merged_adapters_give_what_they_gave_beside_the_model() -> None:
    student = tiny.model()
    decoder = Decoder(student)
    merge = prepare(decoder, "lora", Heal(rank=4, alpha=8), 0, None, [])
    done = train(
        StudentLoss(decoder, Goal(0.0)), None, tokens(), plan_of(rate=1e-2), Accelerator(cpu=True), QUIET, Work()
    )
    ids = tiny.ids()
    with torch.no_grad():
        beside = student(ids).logits
        merge()
        merged = student(ids).logits
    assert done.step == 6
    assert type(student.model.layers[0].self_attn.q_proj) is torch.nn.Linear
    torch.testing.assert_close(beside, merged, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        ([Drop(start=2, stop=4)], [1, 2]),
        ([Drop(start=0, stop=1)], [0]),
        ([Drop(start=5, stop=6)], [4]),
        ([Drop(start=1, stop=2), Drop(start=4, stop=5)], [0, 1, 2, 3]),
        ([Merge(start=2, stop=4)], [1, 2, 3]),
        ([Replace(start=3, stop=6, network="layer")], [2, 3]),
    ],
)
def test_gaps_are_where_the_plan_says(edits: list[Edit], expected: list[int]) -> None:
    plan = cut_plan(*edits)
    decoder = Decoder(tiny.model())
    for edit in reversed(edits):
        decoder.drop(edit.start + edit.put_back, edit.stop)
    assert gaps(decoder, plan, []) == expected


def test_gaps_are_found_by_weights_where_there_is_no_plan() -> None:
    dense, student = Decoder(tiny.model()), Decoder(tiny.model())
    student.drop(2, 4)
    student.layers[1].mlp.down_proj.weight.data.mul_(2)  # type: ignore[union-attr]  # repaired by whoever cut it
    student.model.to(torch.bfloat16)
    assert gaps(student, None, samples(dense)) == [1, 2]
    with pytest.raises(RecipeError, match=r"--train gaps.*do not tell"):
        gaps(Decoder(tiny.model(seed=3)), None, samples(dense))


def test_network_needs_a_plan_that_puts_one_back() -> None:
    decoder = Decoder(tiny.model())
    with pytest.raises(RecipeError, match=r"no lowrise/plan.json"):
        prepare(decoder, "network", Heal(), 0, None, [])
    with pytest.raises(RecipeError, match="puts nothing back"):
        prepare(decoder, "network", Heal(), 0, cut_plan(Drop(start=1, stop=2)), [])


def test_the_best_held_out_loss_is_kept_but_never_one_that_is_worse_on_the_guard() -> None:
    guarding = Guarding("guard")
    kept = [
        guarding.add(tokens, {"a": a, "b": b, "guard": guard})
        for tokens, a, b, guard in [
            (0, 3.0, 3.0, 2.0),
            (10, 2.5, 2.9, 2.0),  # better, and the guard not worse
            (20, 2.0, 2.0, 2.1),  # the guard worse
            (30, 2.2, 2.6, 1.9),
            (40, 2.3, 2.6, 1.8),  # not as good as the one before
            (50, math.nan, 2.0, 1.0),
        ]
    ]
    assert kept == [False, True, False, True, False, False]
    assert (guarding.best, guarding.best_tokens) == (3, 30)


def test_the_start_is_kept_where_the_guard_gets_worse() -> None:
    """Text of tokens that training makes ever less likely."""
    made = tokens()
    ids = torch.where(made.ids % 2 == 0, made.ids, made.ids - 1)
    guard = ("guard", Windows(ids[:2].long() + 1, "guard", 0))
    made = TrainingTokens(ids, None, 0, made.source, made.names, {"own": Windows(ids[:2].long(), "own", 0)}, guard)
    done = healed(tiny.model(), made, plan_of(rate=1e-2))
    own = done.guarding.points["own"]
    assert own[-1][1] < own[0][1]
    assert done.best == {}
    assert done.guarding.best_tokens == 0
    assert done.guarding.worse()


def test_the_weights_of_the_best_point_are_kept_not_the_last() -> None:
    made = tokens()
    student = tiny.model()
    plan = plan_of(rate=3e-3)
    made = dataclasses.replace(made, guard=("own, again", made.held_out["own"]))
    done = healed(student, made, plan)
    best = min(range(7), key=lambda number: done.guarding.points["own"][number][1])
    assert best > 0
    again = tiny.model()
    short = TrainingPlan(plan.schedule, plan.rates, plan.micro, frozenset([best]), plan.evaluated)
    second = healed(again, made, short)
    assert second.best.keys() == done.best.keys()
    assert all(torch.equal(second.best[name], value) for name, value in done.best.items())


def test_a_loss_that_is_no_number_ends_it_and_the_best_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    student = tiny.model()
    forward, calls = StudentLoss.forward, []

    def breaks(self: StudentLoss, *given: Any) -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        loss = forward(self, *given)
        return loss * math.nan if sum(calls) > 2 * 4 else loss  # two windows a step, each by itself

    monkeypatch.setattr(StudentLoss, "forward", breaks)
    reporter = Reporter(quiet=True)
    loss = StudentLoss(Decoder(student), Goal(0.0))
    done = train(loss, None, tokens(), plan_of(), Accelerator(cpu=True), reporter, Work())
    assert done.step == 4
    assert done.stopped is not None
    assert "step 5 of 6: its loss is no number" in done.stopped
    assert reporter.warnings == [done.stopped]
    assert all(value.isfinite().all() for value in student.parameters())


def test_what_is_stored_is_what_the_model_says_to_float16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowrise.heal.teacher._SHARD_TOKENS", 72)  # three windows a file
    made, dense = tokens(8), Resident(Decoder(tiny.model(seed=1)), 1.0)
    counted = all_but(0, made.ids)
    counted[3, :10] = False
    stored = Stored(tmp_path / "targets", counted[:, 1:].sum(1), 24)
    stored.make(dense, made.ids, counted, QUIET)
    assert [file.name for file in sorted(stored.folder.iterdir())] == [f"targets-{n:05}.safetensors" for n in range(3)]
    rows = [3, 7, 0]
    kept = stored.targets(rows, made.ids[rows], counted[rows])
    asked = dense.likeliest(made.ids[rows], counted[rows])
    assert torch.equal(kept.ids, asked.ids)
    for own, other in ((kept.log_p, asked.log_p), (kept.rest, asked.rest)):
        assert own.dtype is torch.float16
        torch.testing.assert_close(own.float(), other, rtol=2**-11, atol=1e-7)
    size = sum(file.stat().st_size for file in stored.folder.iterdir())
    assert stored.bytes < size < stored.bytes + 2000

    student, loss = tiny.model(), None
    for targets in (kept, asked):
        value = StudentLoss(Decoder(student), Goal(1.0))(made.ids[rows], counted[rows], targets)
        assert loss is None or float(value.detach()) == pytest.approx(loss, rel=1e-2)
        loss = float(value.detach())


def test_storing_goes_on_where_it_stopped_and_a_full_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lowrise.heal.teacher._SHARD_TOKENS", 48)
    made, dense = tokens(6), Resident(Decoder(tiny.model(seed=1)), 1.0)
    counted = all_but(0, made.ids)
    stored = Stored(tmp_path, counted[:, 1:].sum(1), 24)
    stored.make(dense, made.ids, counted, QUIET)
    whole = [stored.file(number).read_bytes() for number in range(3)]
    stored.file(1).unlink()
    assert stored.missing() == [1]
    stored.make(dense, made.ids, counted, QUIET)
    assert [stored.file(number).read_bytes() for number in range(3)] == whole
    stored.file(2).write_bytes(b"not tensors")
    with pytest.raises(OutputError, match="remove the file"):
        stored.targets([5], made.ids[5:], counted[5:])
    stored.file(1).unlink()
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(OutputError, match="room for what the dense model says"):
        stored.make(dense, made.ids, counted, QUIET)


def test_files_that_are_not_whole_are_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut short, overwritten, and of other positions than those that count."""
    monkeypatch.setattr("lowrise.heal.teacher._SHARD_TOKENS", 48)
    made, dense = tokens(7), Resident(Decoder(tiny.model(seed=1)), 1.0)
    counted = all_but(0, made.ids)
    stored = Stored(tmp_path, counted[:, 1:].sum(1), 24)
    stored.make(dense, made.ids, counted, QUIET)
    whole = [stored.file(number).read_bytes() for number in range(4)]
    stored.file(0).write_bytes(whole[0][:-1])
    stored.file(1).write_bytes(b"x" * len(whole[1]))
    stored.file(2).write_bytes(whole[3])  # of one window
    assert stored.missing() == [0, 1, 2]
    stored.make(dense, made.ids, counted, QUIET)
    assert [stored.file(number).read_bytes() for number in range(4)] == whole
    assert stored.missing() == []


@pytest.mark.parametrize(("records", "scaled"), [(1, False), (3, False), (6, False), (3, True)])
def test_a_training_that_was_killed_goes_on_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: int, scaled: bool
) -> None:
    monkeypatch.setattr("lowrise.heal.state.SHARE", float("inf"))  # every step is kept
    made, plan, goal = tokens(), plan_of(), Goal(0.5)
    whole = tiny.model()
    expected = healed(whole, made, plan, goal, scaled=scaled)

    class KilledError(BaseException):
        pass

    keep, left = Work.keep, [records]

    def killing(work: Work, *given: Any, **how: Any) -> None:
        keep(work, *given, **how)
        left[0] -= 1
        if not left[0]:
            raise KilledError

    monkeypatch.setattr(Work, "keep", killing)
    with pytest.raises(KilledError):
        healed(tiny.model(), made, plan, goal, Work(tmp_path / "out", "01234567"), scaled)
    student = tiny.model(seed=7)  # whose weights are those that were kept, once it goes on
    found = healed(student, made, plan, goal, Work(tmp_path / "out", "01234567"), scaled)
    assert found.losses == expected.losses
    assert found.guarding == expected.guarding
    assert found.best.keys() == expected.best.keys()
    assert all(torch.equal(found.best[name], value) for name, value in expected.best.items())
    assert all(torch.equal(one, other) for one, other in zip(student.parameters(), whole.parameters(), strict=True))


def test_the_scale_of_a_model_is_that_of_its_matrices() -> None:
    model = tiny.model()
    matrices = [one for one in model.model.layers.parameters() if one.dim() > 1]
    with torch.no_grad():
        for number, one in enumerate(matrices):
            one.normal_().mul_((number + 1) / one.square().mean().sqrt())
        model.model.layers[0].input_layernorm.weight.fill_(1000)
    assert weight_scale(Decoder(model)) == pytest.approx((len(matrices) + 1) / 2)


def test_defaults_follow_budget_and_size() -> None:
    assert defaults.batch_windows(Heal(tokens="100k"), 256, 400) * 256 == 1024
    assert defaults.batch_windows(Heal(tokens="50M"), 1024, 50_000) * 1024 == 65536
    assert defaults.learning_rate(Heal(), "all", 0.2) == pytest.approx(2e-4)
    assert defaults.learning_rate(Heal(), "lora", 0.02) == pytest.approx(1e-4)
    assert defaults.learning_rate(Heal(learning_rate=0.01), "lora", 0.2) == 0.01
    assert (defaults.trained(Heal(), 10**9), defaults.trained(Heal(), 3 * 10**9)) == ("all", "lora")
    assert (Heal(tokens="100k").window, Heal(tokens="2M").window, Heal(length=99).window) == (256, 512, 99)
