"""The one door for what comes from outside: files, and the JSON and YAML in them, bounded before they are used.

A caller names the error it raises, what it expected and what to do; every failure to read becomes that one line.
`lenient` is for files that other tools write: NaN, infinities, keys said twice, any character and integers of 40 digits
pass there.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import yaml

from lowrise.errors import InputError, close_paths, reason

MOST_JSON = 32 << 20  # bytes of a JSON file
MOST_YAML = 256 << 10  # bytes of YAML: its parser takes seconds for a megabyte
MOST_TEXT = 2 << 30  # bytes of a text to tokenise
MOST_VALUES = 4_000_000  # in one JSON document, so that it stays under a gigabyte in memory
MOST_YAML_VALUES = 100_000  # counted where aliases lead, too
MOST_DEPTH = 64
MOST_INTEGER = 2**63 - 1
MOST_FOREIGN_INTEGER = 10**40  # of other tools: a tokenizer without a limit says that it takes 10^30 tokens

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


class UnreadableError(Exception):
    """Why something cannot be read. Callers of this module see it as the error that they named."""


@contextmanager
def refusing(where: object, raising: type[InputError], expected: str, remedy: str) -> Iterator[None]:
    """Turns what reading and parsing raise on bad files into one line of the kind `raising`."""
    try:
        yield
    except UnreadableError as error:
        raise raising(where, expected, str(error), remedy) from error
    except FileNotFoundError as error:
        known = remedy if error.filename is None else close_paths(os.fsdecode(error.filename), remedy)
        raise raising(where, expected, error.strerror or reason(error), known) from error
    except OSError as error:
        raise raising(where, expected, error.strerror or reason(error), remedy) from error
    except UnicodeDecodeError as error:
        raise raising(where, expected, f"bytes that are not UTF-8, from byte {error.start}", remedy) from error
    except RecursionError as error:
        raise raising(where, expected, "brackets nested too deep", remedy) from error
    except MemoryError as error:
        raise raising(where, expected, "more than fits into memory", remedy) from error
    except yaml.YAMLError as error:
        raise raising(where, expected, str(error), remedy) from error
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise raising(where, expected, reason(error), remedy) from error


@contextmanager
def opened(path: Path | str) -> Iterator[BufferedReader]:
    """A regular file, for reading bytes. Nothing else is opened, and nothing is waited for.

    Raises OSError, ValueError for a path that is none, and UnreadableError for what is no regular file.
    """
    _check_regular(Path(path).stat())
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    with os.fdopen(handle, "rb") as stream:
        _check_regular(os.fstat(handle))  # it may have changed in between
        yield stream


def read_bytes(path: Path | str, raising: type[InputError], expected: str, remedy: str, most: int = MOST_JSON) -> bytes:
    """All bytes of a regular file, `most` at most."""
    with refusing(path, raising, expected, remedy), opened(path) as stream:
        if os.fstat(stream.fileno()).st_size > most:
            raise UnreadableError(f"more than {most:,} bytes")
        content = stream.read(most + 1)
        if len(content) > most:
            raise UnreadableError(f"more than {most:,} bytes")
        return content


def read_text(path: Path | str, raising: type[InputError], expected: str, remedy: str, most: int = MOST_TEXT) -> str:
    """A regular file as UTF-8 text, with line ends as `\\n`."""
    return as_text(read_bytes(path, raising, expected, remedy, most), path, raising, expected, remedy)


def as_text(content: bytes, where: object, raising: type[InputError], expected: str, remedy: str) -> str:
    """Bytes that were read as UTF-8 text, with line ends as `\\n`."""
    with refusing(where, raising, expected, remedy):
        text = content.decode("utf-8")
        return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def kind_of(path: Path | str, raising: type[InputError], expected: str, remedy: str) -> str | None:
    """`file`, `folder`, or else in words what stands at a path that the user named; None where nothing does."""
    with refusing(path, raising, expected, remedy):
        try:
            mode = Path(path).stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None
        return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else _kind(mode)


def sha256_of(path: Path | str) -> str:
    """Of a regular file's bytes. Raises as `opened`."""
    with opened(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_or_none(path: Path | str) -> str | None:
    """Of a file's bytes; None where there is none to read."""
    try:
        return sha256_of(path)
    except (OSError, ValueError, UnreadableError):
        return None


def read_json(
    path: Path | str,
    raising: type[InputError],
    expected: str,
    remedy: str,
    most: int = MOST_JSON,
    lenient: bool = False,
) -> Any:
    """What a file holds as JSON."""
    text = read_text(path, raising, expected, remedy, most)
    return parse_json(text, path, raising, expected, remedy, lenient)


def parse_json(
    text: str | bytes, where: object, raising: type[InputError], expected: str, remedy: str, lenient: bool = False
) -> Any:
    """JSON with at most MOST_VALUES values, MOST_DEPTH deep, integers of 64 bits and finite numbers."""
    with refusing(where, raising, expected, remedy):
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        if sum(map(text.count, ",[{")) > MOST_VALUES:
            raise UnreadableError(f"more than {MOST_VALUES:,} values")
        try:
            if lenient:
                value = json.loads(text, parse_int=_foreign_integer)
            else:
                value = json.loads(
                    text, parse_int=_integer, parse_float=_finite, parse_constant=_finite, object_pairs_hook=_unique
                )
        except json.JSONDecodeError as error:
            raise UnreadableError(f"no JSON ({error})") from error
        _check_values(value, MOST_VALUES, lenient)
        return value


def read_yaml(path: Path | str, raising: type[InputError], expected: str, remedy: str, most: int = MOST_YAML) -> Any:
    """What a file holds as YAML of plain types."""
    return parse_yaml(read_text(path, raising, expected, remedy, most), path, raising, expected, remedy)


def parse_yaml(text: str, where: object, raising: type[InputError], expected: str, remedy: str) -> Any:
    """YAML of plain types: no key twice, no alias within itself, MOST_YAML_VALUES where all aliases are followed."""
    with refusing(where, raising, expected, remedy):
        check_yaml(text)
        value = yaml.load(text, Loader=_UniqueKeys)
        _check_values(value, MOST_YAML_VALUES, lenient=False)
        return value


def check_yaml(text: str) -> None:
    """Raises UnreadableError, or a parser's YAMLError, for YAML that no parser should be given.

    Events of the parser are walked, not the values: of an alias, the size of what it stands for is counted.
    """
    if len(text) > MOST_YAML:
        raise UnreadableError(f"more than {MOST_YAML:,} characters")
    begun: list[tuple[str | None, int]] = []  # (anchor, values before it) of each open bracket
    sizes: dict[str, int] = {}
    values = 0
    for event in yaml.parse(text, Loader=PARSER):
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in begun):
                raise UnreadableError(f"the alias {event.anchor!r} within what it stands for")
            values += sizes.get(event.anchor or "", 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            begun.append((event.anchor, values))
            values += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = begun.pop()
            if anchor is not None:
                sizes[anchor] = values - before
        elif isinstance(event, yaml.ScalarEvent):
            values += 1
        if len(begun) > MOST_DEPTH:
            raise UnreadableError(f"brackets nested more than {MOST_DEPTH} deep")
        if values > MOST_YAML_VALUES:
            raise UnreadableError(f"more than {MOST_YAML_VALUES:,} values")


PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the parser written in C, where there is one


class _UniqueKeys(PARSER):  # type: ignore[misc,valid-type]
    """Refuses a key said twice."""

    def flatten_mapping(self, node: Any) -> None:
        if getattr(node, "flattened", False):
            return  # from here on, a key of a merged mapping (`<<`) may well stand there twice
        node.flattened = True
        _check_unique(
            [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge")]
        )
        super().flatten_mapping(node)


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableError(_kind(status.st_mode))


def _kind(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "a special file")


def _integer(digits: str, most: int = MOST_INTEGER) -> int:
    if len(digits) > 42 or abs(int(digits)) > most:
        raise UnreadableError(f"the number {digits[:20]}…, which is too large")
    return int(digits)


def _foreign_integer(digits: str) -> int:
    return _integer(digits, MOST_FOREIGN_INTEGER)


def _finite(number: str) -> float:
    value = float(number)
    if value - value != 0:
        raise UnreadableError(f"the number {number[:20]}, which is not finite")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        _check_unique([key for key, _ in pairs])
    return found


def _check_unique(keys: list[str]) -> None:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise UnreadableError(f"the key {key!r} twice")
        seen.add(key)


def _check_values(value: Any, most: int, lenient: bool) -> None:
    """Raises UnreadableError for what is nested too deep, too much, or cannot be written down again."""
    stack, seen = [(value, 1)], 0
    while stack:
        item, depth = stack.pop()
        seen += 1
        if seen > most:
            raise UnreadableError(f"more than {most:,} values")
        if isinstance(item, dict | list | tuple | set):
            if depth > MOST_DEPTH:
                raise UnreadableError(f"brackets nested more than {MOST_DEPTH} deep")
            stack.extend((inner, depth + 1) for inner in item)
            if isinstance(item, dict):
                stack.extend((inner, depth + 1) for inner in item.values())
        elif isinstance(item, str):
            _check_string(item, lenient)
        elif isinstance(item, int) and abs(item) > (MOST_FOREIGN_INTEGER if lenient else MOST_INTEGER):
            raise UnreadableError("a number that is too large")
        elif isinstance(item, float) and item - item != 0 and not lenient:
            raise UnreadableError(f"the number {item}, which is not finite")


def _check_string(text: str, lenient: bool) -> None:
    if lenient:
        return
    if "\0" in text:
        raise UnreadableError("a character 0 in its text")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise UnreadableError("half a character (a lone surrogate) in its text")
