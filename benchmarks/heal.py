"""Steps of healing, with the dense model in memory and stored, against a plain loop: tokens a second and peak memory.

    python benchmarks/heal.py [--model M] [--text FILE] [--start 12] [--stop 20] [--windows 4] [--length 256]
                              [--steps 2] [--rounds 3] [--precision auto|no|bf16]

The student is the model without layers [start, stop). The plain loop is the same model, loss, AdamW and number format,
with whole logits of both models in memory. Times are CPU seconds of the process, medians over rounds in which the ways
take turns in one process; peak memory is that of a process of its own, models and libraries included. A stored teacher
is written beforehand, which neither counts; its loss is over 64 tokens and the rest, so it is less than the others'.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import demo_text, open_demo, parser, table

from lowrise.calibration.text import tokenise
from lowrise.calibration.tokens import Windows, pack, sample
from lowrise.heal import training
from lowrise.heal.guarding import Guarding
from lowrise.heal.objective import Goal, StudentLoss
from lowrise.heal.processes import start
from lowrise.heal.schedule import Schedule
from lowrise.heal.standing import Standing
from lowrise.heal.teacher import Resident, Stored, Teacher
from lowrise.heal.tokens import TrainingTokens
from lowrise.measure.system import peak_memory
from lowrise.model.source import open_model
from lowrise.progress import Reporter
from lowrise.settings import Heal, Training

RATE, CLIP = 1e-5, 1.0
WAYS = ("resident", "stored", "plain")


class Setting:
    """The student, one optimiser for all ways, and the ways as functions of the step's number."""

    def __init__(self, asked: Any, ways: tuple[str, ...]) -> None:
        place = Path(asked.place)
        self.student = open_model(str(place / "student"), device="cpu")
        self.dense = open_demo(asked.model) if {*ways} - {"stored"} else None
        self.tokens = tokens_of(asked, self.student.tokenizer)
        self.batch = asked.windows
        self.accelerator = start(Heal(precision=asked.precision), "cpu")
        self.model = self.student.model.float()
        adam = torch.optim.AdamW(self.model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        loss = StudentLoss(self.student.decoder, Goal(kl=1.0))
        self.module, self.optimiser = self.accelerator.prepare(loss, adam)
        self.adam = adam
        self.ways: dict[str, Callable[[int], float]] = {}
        for way in ways:
            if way == "plain":
                self.ways[way] = self.plain
            elif way == "stored":
                self.ways[way] = self.engine(stored(place, self.tokens))
            else:
                assert self.dense is not None
                self.ways[way] = self.engine(Resident(self.dense.decoder, 1.0, self.accelerator.autocast))

    def engine(self, teacher: Teacher) -> Callable[[int], float]:
        """A step as `lowrise heal` makes it; returns its loss."""
        steps = -(-len(self.tokens.ids) // self.batch)
        rates = Training(learning_rate=RATE, min_learning_rate=RATE)
        plan = training.TrainingPlan(
            Schedule(steps, self.batch, 1, 0), rates, self.student.decoder.batch_tokens, frozenset(), 1
        )
        decoder = self.student.decoder
        run = training._Run(self.module, teacher, self.tokens, plan, self.accelerator, decoder.batching)
        quiet = Reporter(quiet=True)

        def step(number: int) -> float:
            done = Standing(Guarding(""), step=number)
            with quiet.bar("", 1) as bar:
                training._step(run, done, self.optimiser, training._Clock(0, steps, quiet), bar)
            return done.losses[-1][1]

        return step

    def plain(self, number: int) -> float:
        """As anyone would write it, with whole logits of both."""
        assert self.dense is not None
        ids = self.tokens.ids[number * self.batch : (number + 1) * self.batch].long()
        with self.accelerator.autocast():
            with torch.no_grad():
                log_p = self.dense.model(input_ids=ids, use_cache=False).logits[:, :-1].float().log_softmax(-1)
            log_q = self.model(input_ids=ids, use_cache=False).logits[:, :-1].float().log_softmax(-1)
            loss = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
        self.adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.adam.step()
        return float(loss.detach())


def tokens_of(asked: Any, tokenizer: Any) -> TrainingTokens:
    """As many windows as the steps of one round."""
    stream = tokenise(tokenizer, demo_text(asked.text), "text")
    ids = sample(pack([stream], asked.length), asked.windows * asked.steps, 0)
    windows = Windows(ids, "text", 0)
    sources = torch.zeros(len(ids), dtype=torch.long)
    return TrainingTokens(ids.int(), None, 0, sources, ("text",), {"text": windows}, ("guard", windows))


def stored(place: Path, tokens: TrainingTokens) -> Stored:
    counted = training.all_but(0, tokens.ids)
    return Stored(place / "targets", counted[:, 1:].sum(1), tokens.ids.shape[1])


def prepare(asked: Any) -> dict[str, Any]:
    """The student as a folder, and what the dense model says of the tokens."""
    opened, place = open_demo(asked.model), Path(asked.place)
    tokens = tokens_of(asked, opened.tokenizer)
    teacher = stored(place, tokens)
    computing = start(Heal(precision=asked.precision), "cpu")
    dense = Resident(opened.decoder, 1.0, computing.autocast)
    teacher.make(dense, tokens.ids, training.all_but(0, tokens.ids), Reporter(quiet=True))
    opened.decoder.drop(asked.start, asked.stop)
    opened.model.save_pretrained(place / "student")
    opened.tokenizer.save_pretrained(place / "student")
    return {"bytes": teacher.bytes, "precision": computing.mixed_precision.replace("no", "float32")}


def memory(asked: Any, way: str) -> dict[str, Any]:
    """Of two steps: with the second one's gradients Adam's moments are there. loss: of the start."""
    setting = Setting(asked, (way,))
    losses = [setting.ways[way](0) for _ in range(2)]
    return {"peak": peak_memory()["peak_resident_bytes"], "loss": losses[0]}


def times(asked: Any) -> dict[str, Any]:
    setting = Setting(asked, WAYS)
    for way in WAYS:
        setting.ways[way](0)  # warm
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(asked.rounds):
        for way in WAYS:
            began = time.process_time()
            for step in range(asked.steps):
                setting.ways[way](step)
            seconds[way].append(time.process_time() - began)
    tokens = setting.tokens.ids.numel()
    return {way: {"seconds": statistics.median(seconds[way]), "all": seconds[way], "tokens": tokens} for way in WAYS}


def main() -> None:
    options = parser(__doc__)
    sizes = {"start": 12, "stop": 20, "windows": 4, "length": 256, "steps": 2, "rounds": 3}
    for name, value in sizes.items():
        options.add_argument(f"--{name}", type=int, default=value)
    options.add_argument("--precision", choices=["auto", "no", "bf16"], default="auto")
    options.add_argument("--child", choices=["prepare", "times", *WAYS])
    options.add_argument("--place")
    asked = options.parse_args()
    if asked.child:
        ways: dict[str, Any] = {"prepare": prepare, "times": times}
        print(json.dumps(ways[asked.child](asked) if asked.child in ways else memory(asked, asked.child)))
        return
    with tempfile.TemporaryDirectory() as place:
        found = {child: run(child, place) for child in ("prepare", "times", *WAYS)}
    made = found["prepare"]
    print(
        f"{asked.windows} × {asked.length} tokens a step, [{asked.start}, {asked.stop}) gone; {made['precision']}, ",
        end="",
    )
    print(f"{torch.get_num_threads()} threads; stored teacher {made['bytes'] / 2**20:,.1f} MiB")
    rows, plain = [], found["times"]["plain"]["seconds"]
    for way in WAYS:
        own, peak = found["times"][way], found[way]["peak"]
        rates = [own["tokens"] / seconds for seconds in sorted(own["all"], reverse=True)]
        rate, spread = f"{own['tokens'] / own['seconds']:,.0f}", f"{rates[0]:,.0f} to {rates[-1]:,.0f}"
        ratios = f"{own['seconds'] / plain:.3f}", f"{peak / found['plain']['peak']:.3f}"
        rows.append([way, rate, spread, ratios[0], f"{peak / 2**20:,.0f} MiB", ratios[1], f"{found[way]['loss']:.6f}"])
    header = ["teacher", "tokens a CPU second", "of the rounds", "time / plain", "peak memory", "memory / plain"]
    print(table([*header, "loss of a first step"], rows))


def run(child: str, place: str) -> Any:
    command = [sys.executable, *sys.argv, "--child", child, "--place", place]
    return json.loads(subprocess.check_output(command).splitlines()[-1])


if __name__ == "__main__":
    main()
