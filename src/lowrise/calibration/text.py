"""Text files and datasets to token streams."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lowrise import reading
from lowrise.errors import TextError
from lowrise.model.decoder import Decoder


def read_text(path: str) -> str:
    """Raises TextError when the file is missing, special, not UTF-8, or empty."""
    text = reading.read_text(path, TextError, "a readable file of UTF-8 text", "check the path, or convert the file")
    if not text.strip():
        raise TextError(path, "text", "an empty file", "give a file with text in it")
    return text


def tokenise(tokenizer: Any, text: str, where: str) -> Tensor:
    """The whole text, no special tokens added → ids (tokens,), int64."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    if not ids:
        raise TextError(where, "text the tokenizer knows", "no token", "give other text")
    return torch.tensor(ids, dtype=torch.long)


def check_long_enough(streams: list[Tensor], length: int, where: str) -> None:
    """Raises TextError unless one stream at least fills one window."""
    longest = max(len(stream) for stream in streams)
    if longest < length:
        raise TextError(
            where, f"at least one window of {length} tokens", f"{longest} tokens", "give more or a smaller --length"
        )


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
