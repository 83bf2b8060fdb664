"""A folder of lm-eval tasks over made-up items: every shape that measuring has to deal with."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import tiny

_LOADER = '''"""Reads the items beside this file."""
import json
from pathlib import Path

import datasets


def load(file, **_):
    lines = Path(__file__).with_name(file).read_text(encoding="utf-8").splitlines()
    return datasets.DatasetDict(test=datasets.Dataset.from_list([json.loads(line) for line in lines]))


def score(doc, results):
    return {"likeness": float(len(results[0]) % 3)}
'''
_CHOICE = """task: {name}
custom_dataset: !function made.load
dataset_kwargs: {{file: {file}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{text}"
doc_to_choice: "{choices}"
doc_to_target: "{target}"
target_delimiter: "{delimiter}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
{more}metadata: {{version: 1}}
"""
_NORMALISED = "  - {metric: acc_norm, aggregation: mean, higher_is_better: true}\n"
_WRITING = """task: made_writing
custom_dataset: !function made.load
dataset_kwargs: {file: choice.jsonl}
test_split: test
output_type: generate_until
doc_to_text: "{{context}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 8, do_sample: false}
process_results: !function made.score
metric_list:
  - {metric: likeness, aggregation: mean, higher_is_better: true}
metadata: {version: 1}
"""
_EXTRACTING = """task: made_extracting
custom_dataset: !function made.load
dataset_kwargs: {file: choice.jsonl}
test_split: test
output_type: generate_until
doc_to_text: "{{context}}"
doc_to_target: "a"
generation_kwargs: {until: ["\\n"], max_gen_toks: 8, do_sample: false}
filter_list:
  - {name: strict-match, filter: [{function: regex, regex_pattern: "= ([a-z])"}, {function: take_first}]}
  - {name: flexible-extract, filter: [{function: regex, regex_pattern: "([a-z])"}, {function: take_first}]}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}
metadata: {version: 1}
"""
_GROUP = """group: made_group
task: [made_choice, made_subjects]
aggregate_metric_list:
  - {metric: acc, aggregation: mean, weight_by_size: true}
metadata: {version: 1}
"""


def items(count: int, options: int, seed: int, subjects: int = 0) -> list[dict[str, Any]]:
    """Context, options of one to four words, the right one; with `subjects`, each item names one."""
    chosen, words = random.Random(seed), tiny.text(400, seed).split()
    made = []
    for index in range(count):
        choices = [" ".join(chosen.sample(words, chosen.randint(1, 4))) for _ in range(options)]
        item = {"context": " ".join(chosen.sample(words, 5)), "choices": choices, "answer": chosen.randrange(options)}
        made.append(item | ({"subject": f"subject {index % subjects}"} if subjects else {}))
    return made


def write_items(file: Path, made: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(item) + "\n" for item in made), encoding="utf-8")


def write_choice(folder: Path, name: str, file: str, made: list[dict[str, Any]], more: str = _NORMALISED) -> None:
    """A multiple-choice task: each choice after the context."""
    write_items(folder / file, made)
    text = _CHOICE.format(
        name=name, file=file, text="{{context}}", choices="{{choices}}", target="{{answer}}", delimiter=" ", more=more
    )
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


def write_tasks(folder: Path, count: int = 8) -> Path:
    """made_choice (2 options), made_subjects (4, of 2 subjects), made_contexts, made_writing, made_group of two."""
    folder.mkdir()
    (folder / "made.py").write_text(_LOADER, encoding="utf-8")
    write_choice(folder, "made_choice", "choice.jsonl", items(count, 2, seed=1))
    write_choice(folder, "made_subjects", "subjects.jsonl", items(count + 3, 4, seed=2, subjects=2))
    pairs = items(count, 2, seed=3)
    contexts = [{"contexts": i["choices"], "continuation": f" {i['context']}", "answer": i["answer"]} for i in pairs]
    write_items(folder / "contexts.jsonl", contexts)
    shape = {"text": "{{answer}}", "choices": "{{contexts}}", "target": "{{continuation}}", "delimiter": "", "more": ""}
    text = _CHOICE.format(name="made_contexts", file="contexts.jsonl", **shape)
    (folder / "made_contexts.yaml").write_text(text, encoding="utf-8")
    (folder / "made_writing.yaml").write_text(_WRITING, encoding="utf-8")
    (folder / "made_group.yaml").write_text(_GROUP, encoding="utf-8")
    return folder


def write_extracting(folder: Path, more: str = "") -> None:
    """made_extracting: the first letter of what is written, found by two filters, as GSM8K finds numbers."""
    (folder / "made_extracting.yaml").write_text(_EXTRACTING + more, encoding="utf-8")


def naive_stability(tokenizer: Any, before: list[Any], after: list[Any]) -> tuple[float, float]:
    """(stability, the published script's value) in plain loops over logged samples of one subject."""
    spread, consistent = [], []
    for one, other in zip(before, after, strict=True):
        entropies = []
        for (context, continuation), (loglikelihood, _) in zip(one["arguments"], one["filtered_resps"], strict=True):
            moved = context.rstrip()  # spaces at the end go to the continuation
            whole = tokenizer(context + continuation)["input_ids"]
            entropies.append(-float(loglikelihood) / (len(whole) - len(tokenizer(moved)["input_ids"])))
        mean = sum(entropies) / len(entropies)
        spread.append(math.sqrt(sum((entropy - mean) ** 2 for entropy in entropies) / len(entropies)))
        consistent.append(one["acc"] == other["acc"])
    total = sum(math.exp(value) for value in spread)
    weights = [math.exp(value) / total for value in spread]
    ours = sum(weight for weight, yes in zip(weights, consistent, strict=True) if yes)
    return ours, sum(weights[: sum(consistent)])
