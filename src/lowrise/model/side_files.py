"""Files beside the weights, looked at before transformers opens them."""

from __future__ import annotations

import stat
from pathlib import Path

from lowrise.errors import ModelError
from lowrise.reading import MOST_TEXT, opened, read_json, refusing

# What loaders open of a folder. A pipe among them would be waited for.
_OPENED = ("*.json", "*.jinja", "*.model", "*.txt", "*.safetensors", "*.bin", "*.tiktoken", "*.py")
# Settings that transformers reads without a doubt of their being mappings, not deep, of usual numbers.
_SETTINGS = (
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "processor_config.json",
    "preprocessor_config.json",
)
_REMEDY = "fetch the model again"


def check_side_files(folder: Path) -> None:
    """Raises ModelError for a file of a loader's that is no regular one, and for settings that are no JSON object."""
    for pattern in _OPENED:
        for file in sorted(folder.glob(pattern)):
            with refusing(file, ModelError, "a file that can be opened", _REMEDY):
                if stat.S_ISDIR(file.stat().st_mode):
                    continue  # loaders take files alone
                with opened(file):
                    pass
    for name in _SETTINGS:
        if (folder / name).is_file() and not isinstance(_json(folder / name), dict):
            raise ModelError(folder / name, "a JSON object", "another value", _REMEDY)
    tokenizer = folder / "tokenizer.json"
    if tokenizer.is_file() and tokenizer.stat().st_size > MOST_TEXT // 4:
        raise ModelError(tokenizer, "a tokenizer", f"{tokenizer.stat().st_size:,} bytes", _REMEDY)


def _json(file: Path) -> object:
    return read_json(file, ModelError, "a JSON object", _REMEDY, lenient=True)
