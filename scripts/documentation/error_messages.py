"""The errors that a file of lowrise makes, read off its code: what was expected, what was found, what to do."""

from __future__ import annotations

import ast
from pathlib import Path

ERRORS = (
    *("InputError", "RecipeError", "MethodError", "ModelError"),
    *("TextError", "TaskError", "PlanError", "OutputError"),
)


def errors_of(file: Path) -> list[tuple[str, str]]:
    """(message, what to do), `…` for what is not known before the command runs; those that say what was expected."""
    return Messages(ast.parse(file.read_text(encoding="utf-8"))).found


class Messages(ast.NodeVisitor):
    """The errors that a module makes: (message, what to do). Names stand for what they are given once, in words."""

    def __init__(self, module: ast.Module) -> None:
        self.found: list[tuple[str, str]] = []
        self._given = [_given(module.body)]
        self.visit(module)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._given.append(_given(node.body))
        self.generic_visit(node)
        self._given.pop()

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id in ERRORS:
            where, expected, found, remedy = [*map(self._words, node.args), *"…" * 4][:4]
            if expected != "…":
                self.found.append((f"`{where}: expected {expected}, found {found}`", f"`{remedy}`"))

    def _words(self, value: ast.expr) -> str:
        """What is not known before the command runs is `…`."""
        if isinstance(value, ast.Name):
            for given in reversed(self._given):
                if value.id in given:
                    return self._words(given[value.id])
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return value.value.replace("`", "'")
        if isinstance(value, ast.JoinedStr):
            texts = [one.value if isinstance(one, ast.Constant) else "…" for one in value.values]
            return "".join(map(str, texts)).replace("`", "'")
        return "…"


def _given(body: list[ast.stmt]) -> dict[str, ast.expr]:
    """Names of a function or a module that are given one string, and which."""
    found: dict[str, list[ast.expr]] = {}
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Assign):
                target, value = node.targets[0], node.value
                several = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
                pairs = zip(target.elts, value.elts, strict=False) if several else [(target, value)]  # type: ignore[attr-defined]
                for name, given in pairs:
                    if isinstance(name, ast.Name):
                        found.setdefault(name.id, []).append(given)
    texts = (ast.Constant, ast.JoinedStr)
    return {name: values[0] for name, values in found.items() if len(values) == 1 and isinstance(values[0], texts)}
