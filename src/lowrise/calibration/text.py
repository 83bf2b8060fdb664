"""Text files and datasets to token streams."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowrise import reading
from lowrise.calibration.prefix import encode
from lowrise.errors import TextError, reason
from lowrise.inputs import TEXT_FILE
from lowrise.model.decoder import Decoder
from lowrise.plan import TextRecord

_DATASET = "a dataset that opens", "check name and configuration"
_AT_ONCE = 2**20  # characters of a dataset that are tokenised together


@dataclass(frozen=True)
class TextFile:
    """A text and where it was read. The hash is of the very bytes that were read."""

    text: str
    record: TextRecord


def read_text(path: str) -> TextFile:
    """Raises TextError when the file is missing, special, not UTF-8, or empty."""
    what = (path, TextError, *TEXT_FILE)
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
    """The first documents of a dataset, as of `dataset_documents`, until `characters` are gathered."""
    documents, total = [], 0
    for document in dataset_documents(name):
        documents.append(document)
        total += len(document)
        if total >= characters:
            break
    if not total:
        raise _no_text(name)
    return documents


def dataset_tokens(tokenizer: Any, name: str, most: int) -> Tensor:
    """The first `most` tokens of a dataset, or all it has: (tokens,) int32, an empty line between two documents.

    Documents are read and tokenised about a million characters at a time; the rest of the dataset is never fetched.
    Raises TextError for a dataset without a token.
    """
    parts: list[Tensor] = []
    waiting, characters, tokens = [""], 0, 0  # an empty document: the next part begins with an empty line
    documents = dataset_documents(name)
    while tokens < most:
        document = next(documents, None)
        if document is not None:
            waiting.append(document)
            characters += len(document)
            if characters < _AT_ONCE:
                continue
        text = "\n\n".join(waiting if parts else waiting[1:])
        ids = plain_ids(tokenizer, text, f"--dataset {name}") if text.strip() else []
        parts += [torch.tensor(ids, dtype=torch.int32)] if ids else []
        waiting, characters, tokens = [""], 0, tokens + len(ids)
        if document is None:
            break
    if not tokens:
        raise _no_text(name)
    return torch.cat(parts)[:most]


def check_sources(texts: Iterable[str], dataset: str | None) -> None:
    """Raises TextError, before anything is opened, for texts that cannot be read and a dataset that cannot be one."""
    for path in dict.fromkeys(texts):
        read_text(path)
    if dataset is not None:
        reading.kind_of(dataset.partition(":")[0], TextError, *_DATASET)


def dataset_documents(name: str) -> Iterator[str]:
    """Documents of a dataset's training split, in order, streamed.

    name: what `datasets.load_dataset` takes, a hub id or a local folder, and after a colon the configuration; or a
    local file of a kind that `datasets` reads. The text column is `text`, else the first column of strings.
    """
    import datasets

    datasets.disable_progress_bars()
    path, _, configuration = name.partition(":")
    what: dict[str, Any] = {"path": path}
    if reading.kind_of(path, TextError, *_DATASET) == "file":
        what = {"path": str(Path(path).absolute().parent), "data_files": Path(path).name}
    try:
        rows = datasets.load_dataset(**what, name=configuration or None, split="train", streaming=True)
        column = None
        for row in rows:
            if column is None:
                strings = [key for key, value in row.items() if isinstance(value, str)]
                column = "text" if "text" in strings else next(iter(strings), None)
                if column is None:
                    found = f"columns {', '.join(row)}"
                    raise TextError(f"--dataset {name}", "a column of text", found, "choose another")
            if row[column] is not None:
                yield row[column]
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise TextError(f"--dataset {name}", _DATASET[0], reason(error), _DATASET[1]) from error


def _no_text(name: str) -> TextError:
    return TextError(f"--dataset {name}", "text", "none", "choose another dataset")
