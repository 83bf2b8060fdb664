"""What a shallower model takes along from its base's folder, byte by byte: tokenizer, licences, processors."""

from __future__ import annotations

import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from lowrise.errors import ModelError
from lowrise.model.spelling import write_json
from lowrise.reading import read_json

_VOCABULARIES = ("tokenizer.json", "*.model", "*.spm", "*.tiktoken", "vocab.*", "tekken.json")
_TOKENIZER = (*_VOCABULARIES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
_TEMPLATES = ("*.jinja", "chat_template.json")
_PROCESSORS = ("*processor_config.json", "*preprocessor_config.json", "image_processor*.json", "video_processor*.json")
_LEGAL = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "COPYING*")
_COMPANIONS = (*_TOKENIZER, *_TEMPLATES, *_PROCESSORS, *_LEGAL, "generation_config.json")
_TEMPLATE_FOLDER = "additional_chat_templates"
_CODE = ("*.py",)

# What a hub id may bring onto the disk: never pickles, never other formats of the same weights. README: the licence.
_HUB_FILES = ("*.json", "*.safetensors", "README.md", *_COMPANIONS)


def hub_files(trust_remote_code: bool, allow_pickle: bool) -> list[str]:
    """Patterns of the files that are fetched from the hub."""
    return [*_HUB_FILES, *(_CODE if trust_remote_code else ()), *(("*.bin",) if allow_pickle else ())]


def files_to_send(folder: Path, weights: list[Path]) -> list[str]:
    """Of a checkpoint's folder, what belongs on the hub, as paths in it: what a loader opens, what else comes along
    with a base's weights, the card, and lowrise's records. Code only where config.json refers to it.
    """
    config = read_json(folder / "config.json", ModelError, "JSON", "fetch the model again", lenient=True)
    with_code = isinstance(config, dict) and bool(config.get("auto_map"))
    patterns = ("config.json", "*.safetensors.index.json", "README.md", *_COMPANIONS, *(_CODE if with_code else ()))
    found = [*weights, *(file for file in folder.iterdir() if _fits(file.name, patterns))]
    found += [*(folder / _TEMPLATE_FOLDER).glob("*.jinja"), *(folder / "lowrise").rglob("*")]
    return sorted(str(file.relative_to(folder)) for file in found if file.is_file() and not file.name.startswith("."))


def refuse_adapter(folder: Path, source: str) -> None:
    """Raises ModelError for a folder with an adapter, which transformers would lay over the weights as it loads."""
    file = folder / "adapter_config.json"
    if not file.exists():
        return
    found = (
        f"an adapter beside them ({file.name})" if (folder / "config.json").exists() else f"an adapter ({file.name})"
    )
    raise ModelError(source, "the weights of a whole model", found, "merge it into its base model, then prune that")


def copy_companions(base: Path | None, folder: Path, tokenizer: Any, *, with_code: bool) -> None:
    """Fill `folder`, which holds the model, with all that comes along from the model at `base`.

    base: a folder, or a .gguf file, which holds a tokenizer but no files of one: `tokenizer` is saved instead. None:
    the model came from no file.
    with_code: the Python files of a folder whose code the user allowed come along too; else nothing refers to them.
    """
    copied = (
        [] if base is None or base.is_file() else _copied(base, folder, (*_COMPANIONS, *(_CODE if with_code else ())))
    )
    if not any(_fits(name, _VOCABULARIES) for name in copied):
        tokenizer.save_pretrained(folder)
    for name in copied:
        if name.endswith(".json") and not with_code:
            _forget_code(folder / name)


def forget_missing_code(folder: Path) -> None:
    """Take `auto_map` out of config.json where it names Python files that are not in the folder."""
    _forget_code(folder / "config.json")


def _copied(base: Path, folder: Path, patterns: tuple[str, ...]) -> list[str]:
    """Names of the files copied."""
    found = [file for file in base.iterdir() if file.is_file() and _fits(file.name, patterns)]
    found += [file for file in (base / _TEMPLATE_FOLDER).glob("*.jinja") if file.is_file()]
    for file in found:
        target = folder / file.relative_to(base)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target)
    return [str(file.relative_to(base)) for file in found]


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name.lower(), pattern.lower()) for pattern in patterns)


def _forget_code(file: Path) -> None:
    """Take `auto_map` entries out of a JSON file that name Python files which do not lie beside it."""
    data = read_json(file, ModelError, "JSON", "fetch the model again", lenient=True)
    if not isinstance(data, dict) or not isinstance(data.get("auto_map"), dict | list | str):
        return
    entries = data["auto_map"] if isinstance(data["auto_map"], dict) else {"": data["auto_map"]}
    kept = {name: value for name, value in entries.items() if _is_there(value, file.parent)}
    if kept == entries:
        return
    del data["auto_map"]
    write_json(file, data | ({"auto_map": kept} if kept else {}))


def _is_there(entry: Any, folder: Path) -> bool:
    """Whether the file of "module.Class", or of each of a list of them, lies in the folder."""
    names = [name for name in (entry if isinstance(entry, list) else [entry]) if isinstance(name, str)]
    return all("--" not in name and (folder / f"{name.rpartition('.')[0]}.py").is_file() for name in names)
