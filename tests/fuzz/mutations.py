"""Seeded damage to values, texts, bytes and files: what users, other tools and attackers have sent to programs."""

from __future__ import annotations

import copy
import json
import os
import random
import socket
from pathlib import Path
from typing import Any

_BOMB = "\n".join(
    ["a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    + [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefg", "bcdefgh", strict=True)]
)
_MERGE_BOMB = "\n".join(
    ["a: &a {samples: 1}"]
    + [f"{new}: &{new}\n  <<: [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefg", "bcdefgh", strict=True)]
)
YAML_TRICKS = [
    "&a [*a]", "a: &a {b: *a}", "&a {<<: *a}", "&a {? *a : b}", _BOMB, _MERGE_BOMB, "!!int ''", "a: !!bool x",
    "!!timestamp x",
    "2024-13-45", "x: 2024-13-45", "!!float ''", "a: !!binary '%'", "!!python/name:os.system x", "? [a]\n: b",
    "? {a: b}\n: c",
    "%YAML 9.9\n---\na: 1", "---\na: 1\n---\nb: 2", "a: 1\na: 2", "\ta: 1", "a: 1:99:99:99", "x: 0x" + "f" * 300,
    "x: " + "9" * 5000, "'" * 999, '"\\uD800"', "a: \"\\x00\"", "[" * 5000, "{a: " * 3000, "- " * 3000,
    "a: |\n" + " x\n" * 20000,
    "\ufeffa: 1", "1: 2", "null: 1", ".nan: .inf", "~", "!!set {a, b}", "!!omap [a: 1]", "!!pairs [a: 1]", "a: .nan",
    "*a", "&a",
    "!<x> y", "model: &m x\nremove: *m", "=: =", "<<: 1", "<<: [1]", "-", ":", "?", "a" * 100000 + ": 1",
]  # fmt: skip
ODD_TEXTS = [
    "", " ", "\n", "x", "\x1b[31m\x07", "[/bold]", "[red]", "[link=http://x]", "<script>alert(1)</script>",
    "{{ 7 * 7 }}", "%s%n", "null",
    "nan", "-1", "1e999", "../nowhere/file", "/dev/zero", "/dev/null", "~", "\u202eright to left",
    "\U0001f98a" * 50, "é\u0301",
    "word " * 2000, "x" * 5000, "a\nb\nc", "\u2028", "a,b,,c", "--help", "-", "True", "0x10", "١٢", "\x7f", "|",
    "`code`",
]  # fmt: skip
ODD_VALUES: list[Any] = [
    None, True, False, 0, 1, 2, 3, -1, -7, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30, 10**400, 0.0,
    -0.0, 0.5, 1.5, -2.5, 1e-320,
    1e308, float("nan"), float("inf"), float("-inf"), [], {}, [[]], [None], {"": ""}, {"a": {"b": {"c": []}}},
    [1, "x", None],
    [0] * 1000, "\0", "\ud800", *ODD_TEXTS,
]  # fmt: skip


class Mutator(random.Random):
    """One input's damage; the same for the same seed."""

    def nested(self) -> Any:
        value: Any = []
        for _ in range(self.choice([20, 70, 100])):
            value = [value] if self.random() < 0.5 else {"a": value}
        return value

    def value(self) -> Any:
        return self.nested() if self.random() < 0.05 else copy.deepcopy(self.choice(ODD_VALUES))

    def tree(self, value: Any, times: int | None = None) -> Any:
        """A copy with a few places of it damaged."""
        value = copy.deepcopy(value)
        for _ in range(times or self.choice([1, 1, 1, 2, 3])):
            places = list(_places(value))
            if not places:
                return self.value()
            owner, key = self.choice(places)
            self._damage(owner, key)
        return value

    def _damage(self, owner: Any, key: Any) -> None:
        old = owner[key]
        kind = self.randrange(9)
        if kind == 0:
            del owner[key]
        elif kind == 1 and isinstance(owner, dict):
            owner[self.choice(["", "extra", "x" * 3000, "\x1b[2J", "[/]", "__class__", "a.b"])] = self.value()
        elif kind == 2 and isinstance(old, int | float) and not isinstance(old, bool):
            owner[key] = self.choice([-old, old + 1, old - 1, old * 10**9, old / 3, str(old), [old], float(old)])
        elif kind == 3 and isinstance(old, list):
            owner[key] = self.choice([old[:-1], [*old, *old], old[:1], [*old, self.value()], old * 50])
        elif kind == 4 and isinstance(old, str):
            owner[key] = self.choice([old + "x", old[:-1], old.upper(), old * 500, old[:2] + "\x1b" + old[2:], [old]])
        elif kind == 5:
            owner[key] = [old]
        elif kind == 6 and isinstance(owner, dict):
            owner[key], other = owner[self.choice(list(owner))], old
            owner[self.choice(list(owner))] = other
        else:
            owner[key] = self.value()

    def json(self, value: Any) -> bytes:
        """The value as JSON: with damaged places, or damaged as text."""
        kind = self.randrange(10)
        if kind < 7:
            return json.dumps(self.tree(value)).encode()
        text = json.dumps(value)
        at = self.randrange(len(text))
        if kind == 7:
            return self.choice(
                [
                    text[:at], text[:at] + "\x00" + text[at:], "[" * 100_000, '{"a":' * 3000, text + text,
                    "\ufeff" + text, "", "9" * 5000,
                    "null", "[]", "{}", '"x"', "NaN", "-", '{"a": 1, "a": 2}',
                    text.replace(":", ": " + "9" * 5000 + ", ", 1),
                    text.replace("{", '{"format": 1, "format": 2, ', 1), '"\\ud800"', text.replace('"', "'"), "1e999",
                    "[" + "[]," * 100_000 + "[]]", "{" + ",".join(f'"{i}":{i}' for i in range(20000)) + "}",
                ]
            ).encode()  # fmt: skip
        return self.bytes(text.encode())

    def yaml(self, value: Any) -> bytes:
        import yaml

        kind = self.randrange(10)
        if kind < 4:
            return yaml.dump(self.tree(value), allow_unicode=self.random() < 0.5).encode("utf-8", "surrogatepass")
        if kind < 6:
            return self.choice(YAML_TRICKS).encode()
        if kind < 7:
            return (yaml.safe_dump(value) + self.choice(YAML_TRICKS)).encode()
        return self.json(value) if kind < 8 else self.bytes(yaml.safe_dump(value).encode())

    def bytes(self, content: bytes, most: int | None = None) -> bytes:
        """Bytes changed, cut, doubled, or put in. most: damage lies below this place."""
        made = bytearray(content)
        for _ in range(self.choice([1, 1, 2, 5, 20])):
            at = self.randrange(max(1, min(len(made), most or len(made))))
            kind = self.randrange(7)
            if kind == 0:
                made = made[:at]
            elif kind == 1 and made:
                made[min(at, len(made) - 1)] = self.randrange(256)
            elif kind == 2:
                made[at:at] = self.randbytes(self.choice([1, 4, 100]))
            elif kind == 3:
                number = self.choice([0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, 2**40, 255])
                made[at : at + 8] = number.to_bytes(8, "little")
            elif kind == 4:
                made[at : at + self.choice([1, 8, 1000])] = b""
            elif kind == 5:
                made += made[at:][:1000]
            else:
                made[at : at + 2] = self.choice([b"\xff\xfe", b"\x00\x00", b"\xed\xa0", b"\xf8\x88", b"\x1b[", b"\r\n"])
        return bytes(made)

    @staticmethod
    def _elsewhere(file: Path, kind: str) -> Path:
        """What a link may lead to, outside the folder that is read: nothing may be written there.

        Never a device of this machine: one that is written over is lost to all that runs here.
        """
        box = next(parent for parent in file.parents if (parent / "elsewhere").is_dir())
        place = box / "elsewhere" / f"{kind} {len(list((box / 'elsewhere').iterdir()))}"
        if kind == "pipe":
            os.mkfifo(place)
        else:
            place.write_text("precious", encoding="utf-8")
        return place

    def place(self, file: Path) -> None:
        """Something else than a file where a file belongs."""
        if file.is_dir() and not file.is_symlink():
            return
        file.unlink(missing_ok=True)
        kind = self.randrange(9)
        if kind == 0:
            os.mkfifo(file)
        elif kind == 1:
            file.mkdir()
        elif kind == 2:
            file.symlink_to(file.name)
        elif kind == 3:
            file.symlink_to(self._elsewhere(file, "file"))
        elif kind == 4:
            file.symlink_to("nowhere")
        elif kind == 5:
            file.symlink_to(self._elsewhere(file, "pipe"))
        elif kind == 6:
            file.touch()
        elif kind == 7 and len(str(file)) < 100:
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(str(file))
        elif kind == 8:
            with file.open("wb") as stream:
                stream.truncate(3 << 30)  # holds nothing on the disk


def _places(value: Any) -> Any:
    stack = [value]
    while stack:
        owner = stack.pop()
        items = owner.items() if isinstance(owner, dict) else enumerate(owner) if isinstance(owner, list) else ()
        for key, inner in list(items)[:200]:
            yield owner, key
            stack.append(inner)
