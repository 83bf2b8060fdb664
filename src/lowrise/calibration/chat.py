"""Chat data: conversations, one JSON object a line, through the tokenizer's chat template to ids and a mask of answers.

The mask is true at what the model would have to write: the assistant's answers and the special token that ends each.
A template with `{% generation %}` says itself what these are. For any other, an answer is what its rendering has more
than the rendering of all before it with the generation prompt. Where an answer is rendered otherwise once more follows
it (templates that strip earlier thinking), every answer becomes a sample of its own, behind what the model would have
read there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from lowrise import reading
from lowrise.errors import TextError, reason
from lowrise.model.tokenizing import tokenizing

_SHAPE = '{"messages": [{"role": "user", "content": "…"}, …]}'
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class Conversation:
    """Messages as the file has them, and the line they stand in."""

    where: str
    messages: list[dict[str, Any]]


@dataclass(frozen=True)
class ChatTokens:
    """One conversation, or a part of one. ids: as the template renders it. answers: of each, whether it is answered."""

    ids: list[int]
    answers: list[bool]


def read_conversations(path: str) -> list[Conversation]:
    """Of a file of JSON lines, `messages` in each. Raises TextError, with the line's number, for any other line."""
    remedy = "correct the line"
    content = reading.read_text(path, TextError, "a readable file of JSON lines", "check the path")
    found = []
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            where = f"{path}, line {number}"
            row = reading.parse_json(line, where, TextError, "a conversation as JSON", remedy)
            found.append(Conversation(where, _messages(row, where, remedy)))
    if not found:
        raise TextError(path, f"conversations, a line each as {_SHAPE}", "an empty file", "give a file with some")
    return found


def check_chat_template(tokenizer: Any, where: str) -> None:
    """Raises TextError for a tokenizer without a chat template, or without positions of its tokens in a text."""
    if not getattr(tokenizer, "chat_template", None):
        expected = "a model whose tokenizer has a chat template"
        raise TextError(where, expected, "one without", "give --text, or the model's instruction-tuned version")
    if not tokenizer.is_fast:
        expected = "a tokenizer that says where in a text its tokens stand (a fast one)"
        raise TextError(where, expected, "a slow one", "give --text")


def chat_tokens(tokenizer: Any, conversation: Conversation) -> list[ChatTokens]:
    """Nothing of a conversation without an answer; several where an answer depends on what follows (see above).

    Raises TextError for messages that the template refuses, and for a template whose answers do not begin with its
    generation prompt.
    """
    if not any(message["role"] == "assistant" for message in conversation.messages):
        return []
    if isinstance(tokenizer.chat_template, str) and _GENERATION.search(tokenizer.chat_template):
        made = [_by_generation(tokenizer, conversation)]
    else:
        made = _by_prefixes(tokenizer, conversation)
    return [one for one in made if any(one.answers)]


def rendered(tokenizer: Any, messages: list[dict[str, Any]], where: str, **how: bool) -> str:
    """The template's text. Raises TextError for messages that it refuses."""
    with _rendering(where):
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **how))


def _messages(row: Any, where: str, remedy: str) -> list[dict[str, Any]]:
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list) or not messages:
        raise TextError(where, _SHAPE, "no list of messages", remedy)
    for number, message in enumerate(messages, 1):
        told = message if isinstance(message, dict) else {}
        missing = [key for key in ("role", "content") if not isinstance(told.get(key), str)]
        if missing:
            raise TextError(where, _SHAPE, f"message {number} without text as its {missing[0]}", remedy)
    return messages


def _by_generation(tokenizer: Any, conversation: Conversation) -> ChatTokens:
    with _rendering(conversation.where):
        made = tokenizer.apply_chat_template(
            conversation.messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
    ids, answers = list(made["input_ids"]), [bool(one) for one in made["assistant_masks"]]
    special = _special(tokenizer)
    for at in range(1, len(ids)):
        if answers[at - 1] and not answers[at] and ids[at] in special and ids[at - 1] not in special:
            answers[at] = True  # a template may leave out the token that ends the answer
    return ChatTokens(ids, answers)


def _by_prefixes(tokenizer: Any, conversation: Conversation) -> list[ChatTokens]:
    messages, where = conversation.messages, conversation.where
    whole = rendered(tokenizer, messages, where)
    answered: list[tuple[int, str]] = []  # where in the text an answer begins, and the text up to its end
    for at, message in enumerate(messages):
        if message["role"] == "assistant":
            before = rendered(tokenizer, messages[:at], where, add_generation_prompt=True)
            after = rendered(tokenizer, messages[: at + 1], where)
            if not after.startswith(before):
                expected = "a chat template whose answers begin with its generation prompt"
                found = f"another rendering of answer {len(answered) + 1}"
                raise TextError(where, expected, found, "give a template with {% generation %}, or --text")
            answered.append((len(before), after))
    if all(whole.startswith(after) for _, after in answered):
        return [_marked(tokenizer, whole, [(start, len(after)) for start, after in answered], where)]
    return [_marked(tokenizer, after, [(start, len(after))], where) for start, after in answered]


def _marked(tokenizer: Any, text: str, spans: list[tuple[int, int]], where: str) -> ChatTokens:
    """spans: of characters, each an answer with what the template puts behind it."""
    with tokenizing(where, TextError, "text that the tokenizer can read", "give another conversation"):
        made = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids, places = list(made["input_ids"]), made["offset_mapping"]
    answers, special = [False] * len(ids), _special(tokenizer)
    for start, stop in spans:
        inside = [at for at, (first, last) in enumerate(places) if start <= first < last <= stop]
        ends = [number for number, at in enumerate(inside) if ids[at] in special]
        if ends and not text[places[inside[ends[-1]]][1] : stop].strip():
            inside = inside[: ends[-1] + 1]  # the line end behind the end of a turn is the template's
        for at in inside:
            answers[at] = True
    return ChatTokens(ids, answers)


@contextmanager
def _rendering(where: str) -> Iterator[None]:
    expected, remedy = "messages that the model's chat template takes", "correct the line"
    try:
        with tokenizing(where, TextError, expected, remedy):
            yield
    except TemplateError as error:
        raise TextError(where, expected, reason(error), remedy) from error


def _special(tokenizer: Any) -> set[int]:
    """Ids of all special tokens, those too that have no role."""
    added = {token for token, known in tokenizer.added_tokens_decoder.items() if known.special}
    return added | set(tokenizer.all_special_ids)
