"""What a model can be healed on, source by source: windows to train on, and windows held out before anything else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lowrise.calibration import Windows
from lowrise.calibration.chat import ChatTokens, chat_tokens, check_chat_template, read_conversations
from lowrise.calibration.chat_windows import joined_conversations, packed_conversations
from lowrise.calibration.prefix import behind
from lowrise.calibration.text import check_known, check_long_enough, dataset_tokens, read_text, tokenise
from lowrise.calibration.tokens import pack, shuffled
from lowrise.calibration.written import write_windows
from lowrise.errors import TextError
from lowrise.model.decoder import Decoder
from lowrise.plan import TextRecord
from lowrise.progress import Reporter

HELD_OUT = 4096  # tokens of each source, about
_SHARE = 10  # at most one window in so many is held out
WRITTEN = "written by the model"


@dataclass(frozen=True)
class Cut:
    """How every source is cut: into windows of `length` tokens that begin with `prefix`, shuffled by `seed`."""

    decoder: Decoder
    tokenizer: Any
    length: int
    prefix: tuple[int, ...]
    seed: int

    def windows(self, ids: Tensor, source: str, texts: tuple[TextRecord, ...] = ()) -> Windows:
        return Windows(ids.long(), source, self.seed, prefix=len(self.prefix), texts=texts)


@dataclass(frozen=True)
class Source:
    """ids: (windows, length) int32, to train on. counted: (windows, length) bool, its targets; None: all but the
    prefix. held_out: windows that are not among these. answers: of the tokens of these, (windows, length) bool, those
    that count; None: all but the prefix.
    """

    name: str
    ids: Tensor
    counted: Tensor | None
    held_out: Windows
    answers: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)


def text_source(path: str, name: str, cut: Cut) -> Source:
    """A text file, whole. Raises TextError for one that does not fill two windows."""
    file = read_text(path)
    return _of_stream(tokenise(cut.tokenizer, file.text, path), name, path, cut, (file.record,))


def dataset_source(name: str, windows: int, cut: Cut) -> Source:
    """The beginning of a dataset: `windows` to train on and those that are held out, or what it has."""
    tokens = (windows + most_held_out(cut.length)) * (cut.length - len(cut.prefix))
    return _of_stream(dataset_tokens(cut.tokenizer, name, tokens), name, f"--dataset {name}", cut)


def chat_source(path: str, name: str, windows: int, cut: Cut) -> Source:
    """Conversations, whole ones held out. Read to the end; tokenised, in the seed's order, are no more than `windows`
    ask for. What is held out is read in a row, and its answers count.
    """
    check_chat_template(cut.tokenizer, f"--chat {path}")
    conversations = read_conversations(path)
    most = (windows + most_held_out(cut.length)) * cut.length
    made: list[list[ChatTokens]] = []
    tokens = 0
    for index in shuffled(len(conversations), cut.seed).tolist():
        if tokens >= most:
            break
        samples = chat_tokens(cut.tokenizer, conversations[index])
        made += [samples] if samples else []
        tokens += sum(len(one.ids) for one in samples)
    held, rest = _held_out_conversations(made, tokens)
    if not rest:
        expected = "at least two different conversations with an answer, one of them to hold out"
        raise TextError(path, expected, str(len(made)), "give more conversations")
    ids, answers = packed_conversations(rest, cut.length, cut.prefix)
    unseen, unseen_answers = joined_conversations(held, cut.length, cut.prefix)
    check_known(ids, cut.decoder, path)
    check_known(unseen, cut.decoder, path)
    return Source(name, ids, answers, cut.windows(unseen, name), unseen_answers)


def written_source(windows: int, cut: Cut, progress: Reporter) -> Source:
    """What the model itself writes: `windows` to train on, and those that are held out."""
    held = held_out_count(windows, cut.length)
    how: dict[str, Any] = {"length": cut.length, "seed": cut.seed, "prefix": cut.prefix, "progress": progress}
    ids = write_windows(cut.decoder, cut.tokenizer, samples=windows + held, **how)
    return Source(WRITTEN, ids[held:].int(), None, cut.windows(ids[:held], WRITTEN))


def without_held_out(sources: list[Source]) -> list[Source]:
    """The sources without windows that one of them holds out: two files may have the same text in them.

    Raises TextError for a source of which nothing is left.
    """
    unseen = {row.tobytes() for source in sources for row in source.held_out.ids.int().numpy()}
    kept = []
    for source in sources:
        rows = torch.tensor([row.tobytes() not in unseen for row in source.ids.numpy()], dtype=torch.bool)
        if not rows.any():
            expected = "text beside that which is held out"
            raise TextError(source.name, expected, "the same windows alone", "give each text once, and more of it")
        counted = None if source.counted is None else source.counted[rows]
        kept.append(replace(source, ids=source.ids[rows], counted=counted))
    return kept


def held_out_count(windows: int, length: int) -> int:
    """Of so many windows: about HELD_OUT tokens, at most a tenth, one at least."""
    return max(1, min(most_held_out(length), windows // _SHARE))


def most_held_out(length: int) -> int:
    """Windows of HELD_OUT tokens, one at least."""
    return max(1, HELD_OUT // length)


def _of_stream(stream: Tensor, name: str, where: str, cut: Cut, texts: tuple[TextRecord, ...] = ()) -> Source:
    """Tokens (tokens,) of a text in windows, some of them, which the seed decides, held out."""
    check_long_enough([stream], cut.length, len(cut.prefix), where)
    check_known(stream, cut.decoder, where)
    rows = behind(cut.prefix, pack([stream.int()], cut.length - len(cut.prefix)))
    if len(rows) < 2:
        expected = f"at least two windows of {cut.length} tokens, one of them to hold out"
        raise TextError(where, expected, "one", "give more text or a smaller --length")
    rows = rows[shuffled(len(rows), cut.seed)]
    held = held_out_count(len(rows), cut.length)
    return Source(name, rows[held:], None, cut.windows(rows[:held], name, texts))


def _held_out_conversations(made: list[list[ChatTokens]], tokens: int) -> tuple[list[ChatTokens], list[ChatTokens]]:
    """(held out, the rest): the first conversations, about as many tokens as of a text, one at least.

    made: of each conversation its samples; the last, longest one is the whole of it. A conversation that is there
    twice is not both.
    """
    held: list[ChatTokens] = []
    wanted, at = min(HELD_OUT, tokens // _SHARE), 0
    while at < len(made) and (not held or sum(len(one.ids) for one in held) < wanted):
        held.append(made[at][-1])
        at += 1
    unseen = {tuple(one.ids) for one in held}
    return held, [one for samples in made[at:] if tuple(samples[-1].ids) not in unseen for one in samples]
