"""Windows begin with what the tokenizer puts in front of a text; what a text says literally is text."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import tiny
from lowrise.calibration import Windows, calibration_windows, text_windows
from lowrise.calibration.prefix import leading_tokens
from lowrise.calibration.sentences import calibration_sentences
from lowrise.calibration.stored import store_tokens, stored_tokens
from lowrise.calibration.text import plain_ids
from lowrise.calibration.written import write_windows
from lowrise.edit.student import Student
from lowrise.errors import TextError
from lowrise.measure.perplexity import perplexity
from lowrise.measure.samples import continuations
from lowrise.model.decoder import Decoder
from lowrise.progress import Reporter
from lowrise.select.taylor import choose_by_taylor

Main = Callable[..., tuple[int, str, str]]
QUIET = Reporter(quiet=True)
QUICK = ["--samples", "6", "--length", "16", "--quiet"]


def decoder() -> Decoder:
    return Decoder(tiny.model())


@pytest.fixture(scope="module")
def bos_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("models") / "with-bos", template="<s> $A")


@pytest.mark.parametrize(
    ("template", "prefix"),
    [
        ("", ()),
        ("<s> $A", (0,)),
        ("</s> $A", (1,)),
        ("$A </s>", ()),
        ("<s> $A </s>", (0,)),
        ("</s> <s> $A", (1, 0)),
    ],
)
def test_every_window_begins_as_the_tokenizer_begins_a_text_and_ends_in_text(
    template: str, prefix: tuple[int, ...], text_file: Path
) -> None:
    tokenizer = tiny.tokenizer(template)
    stream = tokenizer(text_file.read_text(), add_special_tokens=False)["input_ids"]
    found, room = text_windows(tokenizer, str(text_file), 16), 16 - len(prefix)
    assert leading_tokens(tokenizer, "auto") == prefix
    assert found.prefix == len(prefix)
    assert found.ids.shape == (len(stream) // room, 16)
    assert set(map(tuple, found.ids[:, : len(prefix)].tolist())) == {prefix}
    assert found.ids[:, len(prefix) :].flatten().tolist() == stream[: len(found) * room]
    plain = text_windows(tokenizer, str(text_file), 16, "never")
    assert plain.prefix == 0
    assert torch.equal(plain.ids, text_windows(tiny.tokenizer(), str(text_file), 16).ids)


def words(vocabulary: list[str], **special: str) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, without an unknown one unless it is named."""
    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary)}, **special))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", **special)


def test_a_tokenizer_that_fails_on_a_probe_is_tried_on_others_and_a_text_that_it_cannot_read_is_one_line() -> None:
    tokenizer = words(["<s>", "The"])
    assert leading_tokens(tokenizer, "auto") == ()
    assert leading_tokens(words(["<s>"]), "auto") == ()
    with pytest.raises(TextError, match=r"my\.txt: expected text that the tokenizer can read, found .*UNK"):
        plain_ids(tokenizer, "The cat", "my.txt")


def test_what_a_text_says_literally_is_text() -> None:
    tokenizer = tiny.tokenizer("<s> $A")
    ids = plain_ids(tokenizer, "ab <s> cd</s>", "here")
    assert not {0, 1} & {*ids}
    assert tokenizer.decode(ids) == "ab <s> cd</s>"
    assert tokenizer("<s>", add_special_tokens=False)["input_ids"] == [0]  # it is left as it was


def test_special_tokens_that_are_words_of_the_vocabulary_are_text_too() -> None:
    """A unigram model gives its control words the best score of all."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), *((letter, -3.0) for letter in "ab<s>"), ("▁", -3.0)]
    made = Tokenizer(models.Unigram(list(dict.fromkeys(pieces)), unk_id=0))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", unk_token="<unk>")
    assert 1 in tokenizer("a <s> b", split_special_tokens=True)["input_ids"]
    found = tokenizer.convert_ids_to_tokens(plain_ids(tokenizer, "a <s> b<s>", "here"))
    assert "".join(found).replace("▁", "") == "a<s>b<s>"
    assert "<s>" not in found


@pytest.mark.parametrize(("template", "prefix"), [("<s> $A", [0]), ("</s> <s> $A", [1, 0])])
def test_pieces_of_a_window_begin_with_the_prefix_and_no_mark_overwrites_it(template: str, prefix: list[int]) -> None:
    count, text = len(prefix), torch.arange(20).view(2, 10) + 10
    ids = torch.cat([torch.tensor([prefix] * 2), text], dim=1)
    windows = Windows(ids, "text", 3, prefix=count)
    pieces = windows.pieces(4 + count)
    assert pieces.ids.tolist() == [
        [*prefix, *part] for part in ([10, 11, 12, 13], [20, 21, 22, 23], [14, 15, 16, 17], [24, 25, 26, 27])
    ]
    assert pieces.prefix == count
    assert torch.equal(windows.pieces(64).ids, ids)
    many = Windows(ids.repeat(40, 1), "text", 3, prefix=count).with_special_tokens([5, 6])
    assert torch.equal(many.ids[:, :count], ids[:1, :count].expand(80, -1))
    assert (many.ids[:, count:] < 10).sum(1).eq(1).all()
    assert list(leading_tokens(tiny.tokenizer(template), "auto")) == prefix


@pytest.mark.parametrize("prefix", [(), (0,), (1, 0)])
def test_no_loss_has_the_prefix_among_its_targets(prefix: tuple[int, ...]) -> None:
    """Perplexity, the held-out loss, and importance by gradients, against a plain forward pass."""
    dense = Decoder(tiny.model(num_hidden_layers=7))
    ids = torch.cat([torch.tensor([prefix] * 4, dtype=torch.long).view(4, -1), tiny.ids(4, 12)], dim=1)
    windows = Windows(ids, "text", 0, prefix=len(prefix))
    first = max(1, len(prefix))
    logits = dense.model(input_ids=ids).logits[:, first - 1 : -1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, first:].flatten())
    found = perplexity(dense, windows, QUIET)
    assert found["value"] == pytest.approx(math.exp(loss.item()), rel=1e-5)
    assert (found["bos"], found["tokens"], found["length"]) == (bool(prefix), ids.numel(), ids.shape[1])
    assert Student(dense, list(range(7))).loss(windows) == pytest.approx(loss.item(), rel=1e-5)
    scores = choose_by_taylor(dense, windows, 1, QUIET).scores
    weights = [*dense.layers[4].parameters()]
    wanted = sum((w * g).abs().sum().item() for w, g in zip(weights, torch.autograd.grad(loss, weights), strict=True))
    assert scores["importance"][4] == pytest.approx(wanted, rel=1e-3)


def test_rows_that_the_model_writes_begin_with_the_prefix_and_go_on_as_it_would() -> None:
    """The first token behind BOS is drawn as if BOS alone had been read, as it is where BOS is not kept."""
    how: dict[str, Any] = {"samples": 3, "seed": 0, "progress": QUIET}
    plain = write_windows(decoder(), tiny.tokenizer(), length=15, **how)
    kept = write_windows(decoder(), tiny.tokenizer(), length=16, prefix=(0,), **how)
    assert kept[:, 0].tolist() == [0, 0, 0]
    assert torch.equal(kept[:, 1:], plain)
    two = write_windows(decoder(), tiny.tokenizer(), length=16, prefix=(1, 0), **how)
    assert two.shape == (3, 16)
    assert two[:, :2].tolist() == [[1, 0]] * 3


def test_sentences_begin_with_bos_end_in_text_and_are_joined_behind_one(text_file: Path, tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer("<s> $A </s>")
    how: dict[str, Any] = {"text": [str(text_file)], "dataset": None, "samples": 3, "words": 6, "length": 32, "seed": 0}
    found = calibration_sentences(decoder(), tokenizer, **how, progress=QUIET)
    assert found.prefix == 1
    assert found.ids[:, 0].tolist() == [0] * len(found)
    assert not (found.ids[:, 1:][found.mask[:, 1:]] <= 1).any()
    joined = found.joined(8)
    assert joined.prefix == 1
    assert joined.ids[:, 0].eq(0).all()
    text = found.ids[:, 1:][found.mask[:, 1:]]
    assert torch.equal(joined.ids[:, 1:].flatten(), text[: len(joined) * 7])
    store_tokens(found, tmp_path / "stored.safetensors")
    stored = stored_tokens(str(tmp_path / "stored.safetensors"))
    assert (stored.prefix, stored.texts) == (1, found.texts)


def test_windows_too_short_for_a_prefix_and_prefixes_without_an_embedding_are_one_line(text_file: Path) -> None:
    how: dict[str, Any] = {"text": [str(text_file)], "dataset": None, "samples": 3, "seed": 0, "progress": QUIET}
    with pytest.raises(TextError, match="--length: expected at least 3 tokens, found 2"):
        calibration_windows(decoder(), tiny.tokenizer("</s> <s> $A"), length=2, **how)
    beyond = tiny.tokenizer()
    beyond.add_special_tokens({"bos_token": "<far>"})
    with pytest.raises(TextError, match="found token 300 put in front of every text; say --bos never"):
        write_windows(decoder(), beyond, samples=1, length=8, seed=0, progress=QUIET, prefix=(300,))


def test_samples_of_text_begin_with_bos_and_end_without_eos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowrise.measure.samples.NEW_TOKENS", 4)
    plain, wrapped = (tiny.tokenizer(template) for template in ("<s> $A", "<s> $A </s>"))
    assert continuations(decoder(), wrapped) == continuations(decoder(), plain)
    assert continuations(decoder(), wrapped, "never") == continuations(decoder(), tiny.tokenizer())
    assert continuations(decoder(), wrapped) != continuations(decoder(), tiny.tokenizer())


def test_plan_and_results_say_it_and_never_switches_it_off(
    main: Main, bos_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    """The second run finds what the first one measured in the cache, and must not take it."""
    common = ["run", bos_folder, "--preset", "tail", "--remove", "2", "--text", text_file, "--eval-text", text_file]
    found = {}
    for bos in ("auto", "never"):
        out = tmp_path / bos
        status, printed, errors = main(*common, *QUICK, "--windows", "2", "--bos", bos, "--out", out, "--json")
        assert status == 0, errors
        found[bos] = json.loads(printed)
        assert json.loads((out / "lowrise/plan.json").read_text())["calibration"]["bos"] is (bos == "auto")
    values = {bos: results["perplexity"]["words.txt"] for bos, results in found.items()}
    assert [values[bos]["bos"] for bos in values] == [True, False]
    assert values["auto"]["value"] != values["never"]["value"]
    assert found["auto"]["dense"]["perplexity"]["words.txt"]["bos"]
    status, printed, _ = main("measure", tmp_path / "auto", "--text", text_file, "--length", "16", "--windows", "2",
                              "--bos", "never", "--json")  # fmt: skip
    assert json.loads(printed)["perplexity"]["words.txt"]["bos"] is False


def test_bos_is_auto_or_never(main: Main, bos_folder: Path, tmp_path: Path) -> None:
    status, _, errors = main("plan", bos_folder, "--bos", "always", "--out", tmp_path / "plan.json")
    assert status == 2
    assert "--bos: expected 'auto' or 'never', found 'always'" in errors


def test_windows_with_bos_survive_every_criterion_and_repair(
    main: Main, tmp_path: Path, text_file: Path, preset_with_bos: tuple[str, Path]
) -> None:
    preset, folder = preset_with_bos
    arguments = ["run", folder, "--preset", preset, "--remove", "1", "--text", text_file, "--out", tmp_path / "out"]
    status, _, errors = main(*arguments, "--samples", "6", "--length", "20", "--quiet")
    assert status == 0, errors
    assert json.loads((tmp_path / "out/lowrise/plan.json").read_text())["calibration"]["bos"]


@pytest.fixture(params=["refit", "laco", "streamline", "greedy-perplexity"])
def preset_with_bos(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """Two tokens in front, the harder case, of the presets that look at windows in different ways."""
    return request.param, tiny.save(tmp_path / "model", template="</s> <s> $A", num_hidden_layers=7)
