"""Task files, looked at before lm-eval reads them: it would wait for a pipe, and follow every alias."""

from __future__ import annotations

from pathlib import Path

import yaml

from lowrise.errors import TaskError
from lowrise.reading import MOST_YAML, PARSER, check_yaml, read_text, refusing

_EXPECTED, _REMEDY = "an lm-eval task file in YAML", "mend it, or take it out of the folder"


def check_task_files(folder: Path) -> None:
    """Raises TaskError for a task file of `folder`, or one that it includes, that is not YAML within bounds."""
    waiting, seen = sorted(folder.glob("**/*.yaml")), set()
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        text = read_text(file, TaskError, _EXPECTED, _REMEDY, most=MOST_YAML)
        with refusing(file, TaskError, _EXPECTED, _REMEDY):
            check_yaml(text)
            waiting += [(file.parent / name).resolve() for name in _included(text)]


def _included(text: str) -> list[str]:
    """Paths that a task file names under `include`; nothing in it is made, for its tags may name functions."""
    top = yaml.compose(text, Loader=PARSER)
    pairs = top.value if isinstance(top, yaml.MappingNode) else []
    nodes = [node for key, node in pairs if isinstance(key, yaml.ScalarNode) and key.value == "include"]
    items = [item for node in nodes for item in (node.value if isinstance(node, yaml.SequenceNode) else [node])]
    return [item.value for item in items if isinstance(item, yaml.ScalarNode)]
