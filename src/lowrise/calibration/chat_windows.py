"""Conversations packed into windows, none cut in two that fits into one."""

from __future__ import annotations

import torch
from torch import Tensor

from lowrise.calibration.chat import ChatTokens
from lowrise.calibration.prefix import behind
from lowrise.calibration.tokens import pack

_OPEN = 64  # windows with room left that a conversation is tried in


def packed_conversations(made: list[ChatTokens], length: int, prefix: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """(ids (windows, length) int32, answers (windows, length) bool), each window `prefix` and whole conversations.

    A conversation goes into the first window that has room, with the prefix in front where its template puts one
    there. One that is longer than a window is cut into several, and those without an answer are left out. What is left
    of a window is filled with token 0, which is no target and which no token before it sees.
    """
    closed: list[ChatTokens] = []
    filling: list[ChatTokens] = []
    for one in made:
        for piece in _pieces(one, length, prefix):
            home = next((window for window in filling if len(window.ids) + len(piece.ids) <= length), None)
            if home is None:
                home = ChatTokens([*prefix], [False] * len(prefix))
                filling.append(home)
                piece = _without(piece, prefix)
            home.ids.extend(piece.ids)
            home.answers.extend(piece.answers)
        while len(filling) > _OPEN:
            closed.append(filling.pop(0))
    windows = [*closed, *filling]
    ids = torch.zeros(len(windows), length, dtype=torch.int32)
    answers = torch.zeros(len(windows), length, dtype=torch.bool)
    for row, window in enumerate(windows):
        ids[row, : len(window.ids)] = torch.tensor(window.ids, dtype=torch.int32)
        answers[row, : len(window.ids)] = torch.tensor(window.answers)
    return ids, answers


def joined_conversations(made: list[ChatTokens], length: int, prefix: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """(windows, at most `length`) int64: conversations in a row, without a gap; a rest that fills no window goes. And
    which of these tokens are answers, bool.
    """
    stream = torch.tensor([token for one in made for token in one.ids])
    answers = torch.tensor([counts for one in made for counts in one.answers])
    if tuple(stream[: len(prefix)].tolist()) == prefix:
        stream, answers = stream[len(prefix) :], answers[len(prefix) :]
    size = max(1, min(length - len(prefix), len(stream)))
    none = (0,) * len(prefix)  # of a prefix nothing is an answer
    return behind(prefix, pack([stream], size)), behind(none, pack([answers.long()], size)).bool()


def _pieces(one: ChatTokens, length: int, prefix: tuple[int, ...]) -> list[ChatTokens]:
    """`one` itself where it fits into a window behind the prefix, else parts of a window's room."""
    body, room = _without(one, prefix), length - len(prefix)
    if len(body.ids) <= room:
        return [one]
    cuts = [slice(start, start + room) for start in range(0, len(body.ids), room)]
    pieces = [ChatTokens(body.ids[cut], body.answers[cut]) for cut in cuts]
    return [piece for piece in pieces if any(piece.answers)]


def _without(one: ChatTokens, prefix: tuple[int, ...]) -> ChatTokens:
    """Without the prefix that its template may have put in front."""
    if prefix and tuple(one.ids[: len(prefix)]) == prefix:
        return ChatTokens(one.ids[len(prefix) :], one.answers[len(prefix) :])
    return one
