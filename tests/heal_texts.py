"""What the tests of healing train on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny
from lowrise.heal.data import training_tokens
from lowrise.heal.tokens import TrainingTokens
from lowrise.model.decoder import Decoder
from lowrise.model.source import OpenModel
from lowrise.progress import Reporter
from lowrise.recipe import Recipe
from lowrise.settings import Heal

CHAT = (
    "{% for m in messages %}{{ '<s>' + m['role'] + '\n' + m['content'] + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)


def made(opened: OpenModel, heal: dict[str, Any] | None = None, **recipe: Any) -> TrainingTokens:
    settings = Heal.model_validate({"tokens": "2k", "length": 32, **(heal or {})})
    return training_tokens(opened, settings, Recipe(model="x", **recipe), Reporter(quiet=True))


def write(file: Path, words: int, seed: int) -> str:
    file.write_text(tiny.text(words, seed), encoding="utf-8")
    return str(file)


def chatting(opened: OpenModel, template: str | None) -> OpenModel:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = template
    return OpenModel(Decoder(opened.model), tokenizer, opened.record, opened.save_dtype, 0, None)


def talk(seed: int, words: int) -> list[dict[str, str]]:
    question, answer = (tiny.text(words, 2 * seed + one) for one in (0, 1))
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def chat_file(file: Path, conversations: list[list[dict[str, str]]]) -> str:
    file.write_text("".join(json.dumps({"messages": one}) + "\n" for one in conversations), encoding="utf-8")
    return str(file)
