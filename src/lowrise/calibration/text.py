"""Text files and datasets to token streams."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowrise import reading
from lowrise.calibration.prefix import encode
from lowrise.errors import TextError
from lowrise.model.decoder import Decoder
from lowrise.plan import TextRecord


@dataclass(frozen=True)
class TextFile:
    """A text and where it was read. The hash is of the very bytes that were read."""

    text: str
    record: TextRecord


def read_text(path: str) -> TextFile:
    """Raises TextError when the file is missing, special, not UTF-8, or empty."""
    what = (path, TextError, "a readable file of UTF-8 text", "check the path, or convert the file")
    content = reading.read_bytes(*what, reading.MOST_TEXT)
    text = reading.as_text(content, *what)
    if not text.strip():
        raise TextError(path, "text", "an empty file", "give a file with text in it")
    record = TextRecord(path=str(Path(path).absolute()), sha256=hashlib.sha256(content).hexdigest())
    return TextFile(text, record)


def tokenise(tokenizer: Any, text: str, where: str) -> Tensor:
    """The whole text → ids (tokens,), int64. No special token is added, and what reads like one is text all the same.

    Raises TextError for a text without a token.
    """
    ids = plain_ids(tokenizer, text, where)
    if not ids:
        raise TextError(where, "text the tokenizer knows", "no token", "give other text")
    return torch.tensor(ids, dtype=torch.long)


def plain_ids(tokenizer: Any, text: str, where: str) -> list[int]:
    """The ids of `text`, in which `<s>` or `<|endoftext|>` is what stands in the file, not a special token."""
    ids = encode(tokenizer, text, where, add_special_tokens=False, split_special_tokens=True)
    special = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    unknown = tokenizer.unk_token_id
    found = {str(special[token]) for token in {*ids} & {*special} - {unknown}}
    literal = [token for token in found if len(token) > 1 and token in text]
    if not literal:
        return ids
    # some kinds of tokenizers know their special tokens as words, too: there, such a word is read in two parts
    cut = re.compile("|".join(f"(?<={re.escape(token[0])})(?={re.escape(token[1:])})" for token in sorted(literal)))
    parts = [part for part in cut.split(text) if part]
    how = {"add_special_tokens": False, "split_special_tokens": True}
    return [token for part in parts for token in encode(tokenizer, part, where, **how)]


def check_long_enough(streams: list[Tensor], length: int, prefix: int, where: str) -> None:
    """Raises TextError unless one stream at least fills one window, whose first `prefix` tokens are no text."""
    if length <= prefix:
        found = f"{length}, and the tokenizer puts {prefix} in front of a text"
        raise TextError("--length", f"at least {prefix + 1} tokens", found, "give a larger --length")
    longest = max(len(stream) for stream in streams)
    if longest < length - prefix:
        front = f" ({prefix} of them in front of the text)" if prefix else ""
        expected = f"at least one window of {length} tokens{front}"
        raise TextError(where, expected, f"{longest} tokens", "give more or a smaller --length")


def check_known(ids: Tensor, decoder: Decoder, where: str) -> None:
    """Raises TextError for a token that the model has no embedding for."""
    rows = decoder.model.get_input_embeddings().weight.shape[0]
    if int(ids.max()) >= rows:
        found = f"token {int(ids.max())}: the tokenizer is not this model's, or was extended"
        raise TextError(where, f"tokens below {rows}, which the model can embed", found, "give its own tokenizer")


def dataset_text(name: str, characters: int) -> list[str]:
    """Documents of a dataset's training split, in order, until `characters` are gathered.

    name: what `datasets.load_dataset` takes, a hub id or a local folder, and after a colon the configuration.
    The text column is `text`, else the first column of strings.
    """
    import datasets

    datasets.disable_progress_bars()
    path, _, configuration = name.partition(":")
    try:
        rows = datasets.load_dataset(path, configuration or None, split="train", streaming=True)
        documents: list[str] = []
        total, column = 0, None
        for row in rows:
            if column is None:
                strings = [key for key, value in row.items() if isinstance(value, str)]
                column = "text" if "text" in strings else next(iter(strings), None)
                if column is None:
                    found = f"columns {', '.join(row)}"
                    raise TextError(f"--dataset {name}", "a column of text", found, "choose another")
            documents.append(row[column])
            total += len(documents[-1])
            if total >= characters:
                break
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise TextError(f"--dataset {name}", "a dataset that opens", reason, "check name and configuration") from error
    if not total:
        raise TextError(f"--dataset {name}", "text", "none", "choose another dataset")
    return documents
