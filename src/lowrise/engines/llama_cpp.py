"""What llama.cpp answers to prompts, by the prebuilt wheel `xllamacpp`, in a process of its own.

    answers = ask(Path("model.gguf"), [[1, 504, 3575]], tokens=64)

The child is this file, run as `python -m lowrise.engines.llama_cpp`: a request as JSON on stdin, answers as JSON on
stdout, llama.cpp's log on stderr. https://github.com/xorbitsai/xllamacpp
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lowrise.engines.gguf_child import ChildResult, run_child
from lowrise.errors import LowriseError

PACKAGE = "xllamacpp"
TOP = 10  # tokens whose log-probabilities are told
PROMPTS = (
    "The capital of France is",
    "Once upon a time, there was a little",
    "To make a good cup of tea, first",
    "The three primary colours are",
    "In 1969, for the first time,",
)
_LOADING = "error loading model: "  # in llama.cpp's log


class EngineError(LowriseError):
    """llama.cpp did not open a file, or did not answer."""


@dataclass(frozen=True)
class Answer:
    """tokens: what it wrote, greedily. first: log-probabilities of the likeliest tokens behind the prompt, natural log,
    by token; none where the one that it takes is a part of a character.
    """

    tokens: list[int]
    first: dict[int, float]
    ended: bool = False
    """Whether it stopped by itself."""


@dataclass(frozen=True)
class Answers:
    """version: of the wheel, whose last part is llama.cpp's build. tokenized: ids of each text that was asked for."""

    version: str
    answers: list[Answer]
    tokenized: list[list[int]] = field(default_factory=list)


def is_there() -> bool:
    return find_spec(PACKAGE) is not None


def ask(
    file: Path,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    texts: Sequence[str] = (),
    exact: bool = True,
    path: Path | None = None,
) -> Answers:
    """Greedy continuations of `prompts` (token ids, nothing is put in front), `tokens` each.

    texts: to tokenise too, as it does for a completion. exact: keep attention's keys and values in float32 and use no
    flash attention, so that it differs from others by rounding alone. path: a folder with the package, put in front of
    PYTHONPATH. Raises EngineError with what it said last.
    """
    request = {
        "file": str(file.resolve()),
        "prompts": [list(map(int, prompt)) for prompt in prompts],
        "tokens": tokens,
        "texts": list(texts),
        "exact": exact,
    }
    more = {"PYTHONPATH": os.pathsep.join(filter(None, [str(path or ""), *_import_path()]))}
    ended = run_child([sys.executable, "-P", "-m", "lowrise.engines.llama_cpp"], json.dumps(request), more)
    if ended.status != 0:
        raise EngineError(f"llama.cpp does not answer from {file}: {_reason(ended)}")
    found = json.loads(ended.out)
    answers = [
        Answer(one["tokens"], {int(key): value for key, value in one["first"].items()}, one["ended"])
        for one in found["answers"]
    ]
    return Answers(found["version"], answers, found["tokenized"])


def _reason(ended: ChildResult) -> str:
    """What it said about the model, or else what it said last."""
    about = [line for line in ended.err.splitlines() if _LOADING in line]
    return about[0].partition(_LOADING)[2] if about else ended.last_line


def _import_path() -> list[str]:
    """Where this process finds lowrise itself, and what it was given."""
    return [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]


# -- the child ----------------------------------------------------------------------------------------------------


def _answered(request: Mapping[str, Any]) -> Answers:
    import xllamacpp

    longest = max(map(len, request["prompts"]), default=0)
    params = xllamacpp.CommonParams()
    params.model.path = request["file"]
    params.n_ctx = longest + request["tokens"] + 16
    params.n_parallel = 1
    params.warmup = False
    params.fit_params = False
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = _threads()
    if request["exact"]:
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(params)
    address = server.listening_address
    answers = [_continued(address, prompt, request["tokens"]) for prompt in request["prompts"]]
    tokenized = [_tokenized(address, text) for text in request["texts"]]
    return Answers(f"{PACKAGE} {xllamacpp.__version__}", answers, tokenized)


def _continued(address: str, prompt: Sequence[int], tokens: int) -> Answer:
    asked = {"prompt": prompt, "n_predict": tokens, "temperature": 0.0, "n_probs": TOP, "cache_prompt": False,
             "return_tokens": True}  # fmt: skip
    found = _posted(address, "completion", asked)
    told = found.get("completion_probabilities") or [{"id": None}]
    known = found["tokens"][:1] == [told[0]["id"]]  # none is told of a token that ends within a character
    first = {one["id"]: one["logprob"] for one in told[0]["top_logprobs"]} if known else {}
    return Answer(found["tokens"], first, found["stop_type"] != "limit")


def _tokenized(address: str, text: str) -> list[int]:
    asked = {"content": text, "add_special": True, "parse_special": False}
    return [int(token) for token in _posted(address, "tokenize", asked)["tokens"]]


def _posted(address: str, endpoint: str, asked: Mapping[str, Any]) -> Any:
    """What the server that was opened on loopback answers: unlike its methods in Python, with token ids."""
    from urllib.request import Request, urlopen

    request = Request(f"{address}/{endpoint}", json.dumps(asked).encode(), {"Content-Type": "application/json"})
    with urlopen(request) as answer:
        return json.load(answer)


def _threads() -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _main() -> None:
    """llama.cpp logs to stdout too: what is printed there goes to stderr, and the answer to where stdout was."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        found = _answered(json.load(sys.stdin))
    except Exception as error:  # noqa: BLE001 the parent says it in one line
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
    json.dump(asdict(found), out)
    out.close()


if __name__ == "__main__":
    _main()
