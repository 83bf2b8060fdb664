"""Short sentences, for what compares whole models: LaCo (arXiv 2402.11187) calibrates on ten of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowrise.calibration.prefix import behind, check_prefix, leading_tokens
from lowrise.calibration.text import check_known, dataset_text, plain_ids, read_text
from lowrise.calibration.tokens import Windows, pack, record, shuffled
from lowrise.calibration.written import write_windows
from lowrise.errors import TextError
from lowrise.model.decoder import Decoder
from lowrise.plan import CalibrationRecord, TextRecord
from lowrise.progress import Reporter
from lowrise.settings import Bos

# A line of fewer words is a heading or a list's item, unless the text has no other.
LEAST_WORDS = 5
_TOKENS_PER_WORD = 1.5  # at most: cuts text without spaces, and the rare long rows that all others would be padded to
_CHARACTERS_PER_LINE = 400  # of a dataset's text, read to find one usable line


@dataclass(frozen=True)
class Sentences:
    """ids (sentences, tokens), int64, padded on the right; mask (sentences, tokens), bool, true at real tokens.

    Every layer is causal, so what a real token sees does not depend on padding that stands after it.
    length: tokens of a window when perplexity is measured; the sentences have their own. prefix, texts: as of Windows.
    """

    ids: Tensor
    mask: Tensor
    source: str
    seed: int
    length: int
    prefix: int = 0
    texts: tuple[TextRecord, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def tokens(self) -> int:
        return int(self.mask.sum())

    def joined(self, longest: int) -> Windows:
        """All text in a row, in windows of at most `longest` tokens: enough to see a collapse by."""
        prefix = tuple(self.ids[0, : self.prefix].tolist())
        stream = self.ids[:, self.prefix :][self.mask[:, self.prefix :]]
        rows = pack([stream], max(1, min(longest - self.prefix, len(stream))))
        return Windows(behind(prefix, rows), self.source, self.seed, prefix=self.prefix, texts=self.texts)

    def record(self) -> CalibrationRecord:
        return record(self)

    def sha256(self) -> str:
        """Over the sentences' lengths and their real ids as little-endian int64."""
        digest = hashlib.sha256(str(self.mask.sum(1).tolist()).encode())
        digest.update(self.ids[self.mask].numpy().astype("<i8").tobytes())
        return digest.hexdigest()


def calibration_sentences(
    decoder: Decoder,
    tokenizer: Any,
    *,
    text: list[str],
    dataset: str | None,
    samples: int,
    words: int,
    length: int,
    seed: int,
    progress: Reporter,
    bos: Bos = "auto",
) -> Sentences:
    """The first `words` words of `samples` lines of files or of a dataset, or rows that the model writes itself.

    Which lines is the seed's choice among those of LEAST_WORDS words or more (among all, if there is none). A
    sentence begins with what the tokenizer puts in front of a text, unless `bos` is `never`, and has at most 1.5 times
    as many tokens as `words`. The model's own rows have `words` tokens and one more.
    Raises TextError for text without a usable sentence.
    """
    length = min(length, decoder.max_length)
    prefix = leading_tokens(tokenizer, bos)
    if not text and dataset is None:
        tokens = min(words + 1, decoder.max_length)
        how: dict[str, Any] = {"length": tokens, "seed": seed, "progress": progress, "prefix": prefix}
        ids = write_windows(decoder, tokenizer, samples=samples, **how)
        mask = torch.ones_like(ids, dtype=torch.bool)
        return Sentences(ids, mask, "written by the model", seed, length, len(prefix))
    files = [read_text(path) for path in text]
    if dataset is not None:
        source, texts = dataset, dataset_text(dataset, samples * _CHARACTERS_PER_LINE)
    else:
        source, texts = ", ".join(path.rpartition("/")[2] for path in text), [file.text for file in files]
    lines = [line.split() for document in texts for line in document.splitlines() if line.strip()]
    lines = [line for line in lines if len(line) >= min(LEAST_WORDS, words)] or lines
    rows: list[list[int]] = []
    most = min(max(round(_TOKENS_PER_WORD * words), 2), decoder.max_length)
    for index in shuffled(len(lines), seed).tolist():
        if len(rows) == samples:
            break
        ids_of_line = [*prefix, *plain_ids(tokenizer, " ".join(lines[index][:words]), source)][:most]
        if len(ids_of_line) > max(1, len(prefix)):  # one token alone predicts nothing
            rows.append(ids_of_line)
    if not rows:
        raise TextError(source, "one sentence of two tokens at least", "none", "give text with sentences in it")
    if len(rows) < samples:
        progress.say(f"{source} has {len(rows)} usable sentences, not the {samples} asked for: all are used")
    ids, mask = pad_right(rows)
    check_prefix(prefix, decoder)
    check_known(ids, decoder, source)
    return Sentences(ids, mask, source, seed, length, len(prefix), tuple(file.record for file in files))


def pad_right(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Rows of token ids → (ids, mask), both (rows, longest). The padding's id, 0, is seen by no real token."""
    longest = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = True
    return ids, mask
