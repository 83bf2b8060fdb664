"""Conversations to heal on: the template, which tokens count, what is held out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import tiny
from heal_texts import CHAT, chat_file, chatting, made, talk, write
from lowrise.calibration.chat import ChatTokens, Conversation, chat_tokens
from lowrise.calibration.chat_windows import packed_conversations
from lowrise.errors import TextError
from lowrise.heal.stored import kept_tokens
from lowrise.model.source import OpenModel
from lowrise.progress import Reporter
from lowrise.work import Work

GENERATION = (
    "{% for m in messages %}{{ '<s>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}{% endgeneration %}{{ '</s>\n' }}"
    "{% else %}{{ m['content'] + '</s>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)
# an answer that is not the last loses what stands before `=`
THINKING = CHAT.replace("m['content']", "(m['content'] if loop.last else m['content'].split('=')[-1])")


def rendered(template: str, messages: list[dict[str, str]]) -> list[ChatTokens]:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = template
    return chat_tokens(tokenizer, Conversation("chat.jsonl, line 1", messages))


def by_hand(parts: list[tuple[str, bool]]) -> ChatTokens:
    """Pieces of text, each with whether it is answered."""
    tokenizer, found = tiny.tokenizer(), ChatTokens([], [])
    for text, answered in parts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        found.ids.extend(ids)
        found.answers.extend([answered] * len(ids))
    return found


TALK = [
    {"role": "user", "content": "ab"},
    {"role": "assistant", "content": "x=cd"},
    {"role": "user", "content": "ef"},
    {"role": "assistant", "content": "y=gh"},
]


class TestChats:
    @pytest.mark.parametrize("template", [CHAT, GENERATION], ids=["prefixes", "generation"])
    def test_answers_and_their_ends_are_counted(self, template: str) -> None:
        expected = by_hand(
            [
                ("<s>user\nab</s>\n<s>assistant\n", False),
                ("x=cd</s>", True),
                ("\n<s>user\nef</s>\n<s>assistant\n", False),
                ("y=gh</s>", True),
                ("\n", False),
            ]
        )
        assert rendered(template, TALK) == [expected]

    def test_a_template_that_strips_earlier_thinking_makes_a_sample_of_every_answer(self) -> None:
        first = by_hand([("<s>user\nab</s>\n<s>assistant\n", False), ("x=cd</s>", True), ("\n", False)])
        before = "<s>user\nab</s>\n<s>assistant\ncd</s>\n<s>user\nef</s>\n<s>assistant\n"
        second = by_hand([(before, False), ("y=gh</s>", True), ("\n", False)])
        assert rendered(THINKING, TALK) == [first, second]

    def test_a_template_whose_answers_begin_otherwise_is_refused(self) -> None:
        with pytest.raises(TextError, match=r"chat.jsonl, line 1: expected a chat template whose answers begin with"):
            rendered(CHAT.replace("'<s>assistant\n'", "'<s>assistant\n<think>'"), TALK)

    def test_messages_that_the_template_refuses_are_one_line(self) -> None:
        with pytest.raises(
            TextError, match=r"line 1: expected messages that the model's chat template takes, found no"
        ):
            rendered("{{ raise_exception('no system') }}", TALK)

    def test_nothing_is_learnt_of_a_question_alone(self) -> None:
        assert rendered(CHAT, TALK[:1]) == []

    def test_conversations_stay_whole(self) -> None:
        def sample(first: int, tokens: int) -> ChatTokens:
            return ChatTokens([first] * tokens, [False] * (tokens - 1) + [True])

        ids, answers = packed_conversations([sample(2, 5), sample(3, 4), sample(4, 2), sample(5, 9)], 8, (7,))
        assert ids.tolist() == [
            [7, 2, 2, 2, 2, 2, 4, 4],
            [7, 3, 3, 3, 3, 5, 5, 0],  # of the one that is too long the part that has the answer
        ]
        assert [row.nonzero().squeeze(1).tolist() for row in answers] == [[5, 7], [4, 6]]

    def test_the_prefix_that_a_template_renders_is_not_doubled(self) -> None:
        one = ChatTokens([7, 2], [False, True])
        ids, answers = packed_conversations([one, one], 6, (7,))
        assert ids.tolist() == [[7, 2, 7, 2, 0, 0]]
        assert answers.tolist() == [[False, True, False, True, False, False]]

    def test_whole_conversations_are_held_out(self, opened: OpenModel, tmp_path: Path) -> None:
        talks = [talk(seed, 3) for seed in range(30)]
        found = made(chatting(opened, CHAT), dict(length=64, chat=[chat_file(tmp_path / "c.jsonl", talks)]))
        tokenizer, held = tiny.tokenizer(), found.held_out["c.jsonl"]
        assert found.counted is not None
        trained = " ".join(tokenizer.decode(row) for row in found.ids)
        unseen = " ".join(tokenizer.decode(row) for row in held.ids)
        answers = [one[1]["content"] for one in talks]
        assert sum(answer in trained for answer in answers) + sum(answer in unseen for answer in answers) <= 30
        assert not any(answer in trained and answer in unseen for answer in answers)
        assert sum(answer in trained for answer in answers) >= 24
        for row, counted in zip(held.ids, found.answers["c.jsonl"], strict=True):
            assert row.shape == counted.shape
            told = tokenizer.decode(row[counted])
            assert all(any(part in answer for answer in answers) for part in told.split("</s>"))
        assert 0 < int(found.answers["c.jsonl"].sum()) < held.tokens / 2
        for row, counted in zip(found.ids, found.counted, strict=True):
            told = tokenizer.decode(row[counted])
            assert all(part in answers for part in told.split("</s>")[:-1])

    @pytest.mark.parametrize(
        ("line", "fragment"),
        [
            ("{", "line 2: expected a conversation as JSON, found no JSON"),
            ("[]", "line 2: .*found no list of messages"),
            ('{"messages": []}', "line 2: .*found no list of messages"),
            ('{"messages": [{"role": "user"}]}', "line 2: .*found message 1 without text as its content"),
            ('{"messages": [{"role": 3, "content": "a"}]}', "line 2: .*found message 1 without text as its role"),
            ('{"messages": [7]}', "line 2: .*found message 1 without text as its role"),
        ],
    )
    def test_a_bad_line_is_named(self, opened: OpenModel, tmp_path: Path, line: str, fragment: str) -> None:
        file = tmp_path / "c.jsonl"
        file.write_text(json.dumps({"messages": TALK}) + f"\n{line}\n", encoding="utf-8")
        with pytest.raises(TextError, match=fragment):
            made(chatting(opened, CHAT), dict(chat=[str(file)]))

    def test_no_chat_template_is_one_line(self, opened: OpenModel, tmp_path: Path) -> None:
        chat = chat_file(tmp_path / "c.jsonl", [TALK])
        with pytest.raises(TextError, match=r"--chat .*: expected a model whose tokenizer has a chat template"):
            made(opened, dict(chat=[chat]))

    def test_one_conversation_is_too_few(self, opened: OpenModel, tmp_path: Path) -> None:
        chat = chat_file(tmp_path / "c.jsonl", [TALK, TALK])
        with pytest.raises(TextError, match=r"at least two different conversations"):
            made(chatting(opened, CHAT), dict(chat=[chat]))


def test_a_run_that_goes_on_has_the_same_tokens_and_answers(opened: OpenModel, tmp_path: Path) -> None:
    chat = chat_file(tmp_path / "c.jsonl", [talk(seed, 3) for seed in range(30)])
    text = write(tmp_path / "a.txt", 800, 0)
    how = dict(length=64, chat=[chat])
    quiet, work = Reporter(quiet=True), Work(tmp_path / "out", "01234567")
    first = kept_tokens(work, lambda: made(chatting(opened, CHAT), how, text=[text]), quiet)
    again = kept_tokens(Work(tmp_path / "out", "01234567"), lambda: pytest.fail("made anew"), quiet)
    assert first.answers.keys() == again.answers.keys() == {"c.jsonl"}
    assert torch.equal(first.answers["c.jsonl"], again.answers["c.jsonl"])
    assert torch.equal(first.ids, again.ids)
    assert [*first.unseen] == [*again.unseen]
