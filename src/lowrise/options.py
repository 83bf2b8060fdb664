"""What commands take: options that stand in a recipe too, and how they become one. Imports nothing heavy."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

if TYPE_CHECKING:
    from lowrise.recipe import Recipe

# Options that stand in a recipe too, under the same names. None: not given, so the recipe's own value holds.
ModelArgument = Annotated[str | None, typer.Argument(help="A hub id, a folder, or a .gguf file.", show_default=False)]
OPTIONS: dict[str, Any] = {
    "preset": Annotated[str | None, typer.Option(help="A method by name: see `lowrise presets` [default: refit].")],
    "remove": Annotated[str | None, typer.Option(help="Net layers to remove: 8, or 25%.", metavar="N|P%")],
    "layers": Annotated[
        str | None, typer.Option(help="Take out these, 0-based: 12-19,21 (preset `given`).", metavar="A-B,...")
    ],
    "keep_parameters": Annotated[
        str | None, typer.Option(help="Instead of --remove: leave at most so many, 1.1B.", metavar="N")
    ],
    "keep_memory": Annotated[
        str | None, typer.Option(help="Instead of --remove: weights of at most that size, 2GB.", metavar="B")
    ],
    "keep_latency": Annotated[
        str | None, typer.Option(help="Instead of --remove: share of the time for a token, 0.75.", metavar="X")
    ],
    "text": Annotated[list[str] | None, typer.Option(help="Calibration text; repeatable.", metavar="FILE")],
    "dataset": Annotated[str | None, typer.Option(help="Calibration from `datasets`: NAME or NAME:CONFIG.")],
    "synthetic_share": Annotated[
        str | None,
        typer.Option(
            "--synthetic-share", "--written", help="Share the model writes beside --text, 0 to 1.", metavar="X"
        ),
    ],
    "samples": Annotated[str | None, typer.Option(help="Calibration windows [default: the preset's].", metavar="N")],
    "length": Annotated[
        str | None,
        typer.Option(
            help="Tokens a window, capped by the model [default: 2048; calibration of refit: 512].", metavar="N"
        ),
    ],
    "seed": Annotated[
        str | None, typer.Option(help="Decides samples, initial weights and order [default: 0].", metavar="N")
    ],
    "bos": Annotated[
        str | None, typer.Option(help="auto: windows begin as the tokenizer begins a text; or never [default: auto].")
    ],
    "form": Annotated[str | None, typer.Option(help="Of ffn and swiglu: paper, or portable, which loads plainly.")],
    "repair": Annotated[
        str | None, typer.Option(help="Of what is left, after the cut: none, or one of `lowrise presets`.")
    ],
    "search_budget": Annotated[
        str | None,
        typer.Option(
            "--search-budget",
            "--effort",
            help="refit, refit-span: times the usual tokens (and trials) of the search: 0.25, 2.",
            metavar="X",
        ),
    ],
    "fast": Annotated[
        bool | None,
        typer.Option(
            "--fast",
            help="refit, refit-span: one span, by 32 windows, in about a fifth of the time of refit; keeps less.",
        ),
    ],
    "avoid_massive": Annotated[
        bool | None, typer.Option(help="Only spans without a layer that writes massive activations.")
    ],
    "for_engines": Annotated[
        str | None,
        typer.Option("--for", help="Only cuts that these read right: see `lowrise check`.", metavar="ENGINE,..."),
    ],
    "loss": Annotated[str | None, typer.Option(help="Of training: mse, as published, or relative.")],
    "combine": Annotated[int | None, typer.Option(help="Merge search: layers that become one, C [default: 4].")],
    "low": Annotated[
        int | None, typer.Option(help="Merge search: the lowest layer a merge may begin at [default: 1].")
    ],
    "high": Annotated[
        int | None, typer.Option(help="Merge search: where the merged layers end [default: the last layer].")
    ],
    "interval": Annotated[
        int | None, typer.Option(help="Merge search: layers to go down after a merge, I [default: 2].")
    ],
    "threshold": Annotated[
        float | None,
        typer.Option(help="Merge search: similarity a merge must exceed, T [default: 0.65, unless --remove]."),
    ],
    "representation": Annotated[
        str | None,
        typer.Option(help="Merge search: flattened-final, as published, or per-token, before the final norm."),
    ],
    "norms": Annotated[str | None, typer.Option(help="Merge search: keep the first layer's norms, or merge them too.")],
    "strict": Annotated[
        bool | None, typer.Option("--strict", help="Merge search: exit 2 if nothing is merged or the output collapses.")
    ],
    "max_ram": Annotated[str | None, typer.Option(help="For training pairs, as 4G [default: half of what is free].")],
    "memory": Annotated[
        str | None,
        typer.Option(help="Bound on resident memory: 2GB, or auto; layers lie on disk meanwhile.", metavar="B"),
    ],
    "eval_text": Annotated[
        list[str] | None, typer.Option(help="Text to measure perplexity on; repeatable.", metavar="FILE")
    ],
    "windows": Annotated[str | None, typer.Option(help="Measure the first N windows of each text only.", metavar="N")],
    "speed": Annotated[
        bool | None,
        typer.Option("--speed", help="Time generation too, both models in turn; holds both in memory meanwhile."),
    ],
    "tasks": Annotated[
        str | None, typer.Option(help="lm-eval tasks, or `papers`, both papers' benchmark list.", metavar="A,B")
    ],
    "task_dir": Annotated[str | None, typer.Option(help="A folder of lm-eval task files.", metavar="DIR")],
    "limit": Annotated[str | None, typer.Option(help="The first N items of each task only.", metavar="N")],
    "fewshot": Annotated[
        str | None, typer.Option(help="Examples in front of each item [default: the task's own].", metavar="N")
    ],
    "dtype": Annotated[str | None, typer.Option(help="auto (the model's own; float32 on CPU), float32, bfloat16 ...")],
    "device": Annotated[
        str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps ...; layers over several: cuda:0,cuda:1")
    ],
    "trust_remote_code": Annotated[bool | None, typer.Option(help="Run code that the checkpoint brings.")],
    "allow_pickle": Annotated[bool | None, typer.Option(help="Open pickled weights, which can run code.")],
}
# What `--text` is where nothing is calibrated.
MEASURED_TEXT = Annotated[
    list[str] | None,
    typer.Option("--text", "--eval-text", help="Text to measure perplexity on; repeatable.", metavar="FILE"),
]
TRAINED_TEXT = Annotated[list[str] | None, typer.Option(help="Text to train on; repeatable.", metavar="FILE")]
TO_HEAL = {
    "heal": Annotated[
        str | None, typer.Option(help="Then train on so many tokens, 2M, to be the dense model again.", metavar="N")
    ]
}
# Options of `heal`, which stand under `heal:` in a recipe.
HEALING: dict[str, Any] = {
    "dense": Annotated[str | None, typer.Option(help="The model to learn from: hub id, folder or .gguf file.")],
    "tokens": Annotated[str | None, typer.Option(help="Tokens to train on: 100k, 2M [default: 2M].", metavar="N")],
    "chat": Annotated[list[str] | None, typer.Option(help="Conversations as JSON lines; repeatable.", metavar="FILE")],
    "synthetic_share": Annotated[
        str | None,
        typer.Option("--synthetic-share", "--written", help="Share that the dense model writes, 0 to 1.", metavar="X"),
    ],
    "objective": Annotated[
        str | None, typer.Option(help="kl: to the dense model's distribution; ce: next token; mix [default: kl].")
    ],
    "temperature": Annotated[str | None, typer.Option(help="Of kl [default: 1].", metavar="T")],
    "train": Annotated[
        str | None,
        typer.Option(help="all, lora, network, gaps, tail, or auto: all up to 2B parameters, then lora."),
    ],
    "rank": Annotated[str | None, typer.Option(help="Of lora's adapters [default: 32].", metavar="N")],
    "teacher": Annotated[
        str | None, typer.Option(help="resident: in memory; stored: what it says, on disk; or auto [default].")
    ],
    "guard": Annotated[
        str | None,
        typer.Option(help="Text that must not get worse [default: the dense model's writing].", metavar="FILE"),
    ],
    "learning_rate": Annotated[
        str | None,
        typer.Option(help="[default: by weights' size and what trains]", metavar="X", show_default=False),
    ],
    "length": Annotated[
        str | None, typer.Option(help="Tokens a window [default: 256, more with many tokens].", metavar="N")
    ],
    "report_to": Annotated[
        str | None, typer.Option(help="Loggers of accelerate: tensorboard, wandb, trackio.", metavar="A,B")
    ],
}
# Options whose values the shell completes: names of methods and engines, and words of the recipe.
COMPLETED = (
    *("preset", "repair", "for_engines", "form", "bos", "loss", "representation", "norms", "dtype"),
    *("objective", "train", "teacher"),
)


def _names(key: str) -> list[str]:
    """What an option may be given, where these are so many names."""
    from lowrise.methods import methods
    from lowrise.recipe import Recipe, presets
    from lowrise.settings import ENGINES, Heal, MergeSearch, Training

    if key == "preset":
        return [*presets()]
    if key == "repair":
        return ["none", *methods("repair")]
    if key == "for_engines":
        return [*ENGINES]
    owner = next(kind for kind in (Recipe, Training, MergeSearch, Heal) if key in kind.model_fields)
    return [*get_args(owner.model_fields[key].annotation)]


def completing(key: str) -> Callable[[str], list[str]]:
    """Completes names in the shell, each of several between commas."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in _names(key) if name.startswith(last)]

    return complete


for _name, _option in {**OPTIONS, **HEALING}.items():
    if _name in COMPLETED:
        _option.__metadata__[0].autocompletion = completing(_name)

TASKS = ("tasks", "task_dir", "limit", "fewshot")
OPENING = ("dtype", "device", "memory", "trust_remote_code", "allow_pickle")
MERGE_SEARCH = ("combine", "low", "high", "interval", "threshold", "representation", "norms")
CALIBRATING = ("text", "dataset", "synthetic_share", "samples", "length", "seed", "bos")
SIZES = ("remove", "layers", "keep_parameters", "keep_memory", "keep_latency")
SELECTING = ("preset", *SIZES, *CALIBRATING, "form", "repair", "search_budget", "avoid_massive", "for_engines", "loss")
SHARED = tuple(name for name in SELECTING if name not in ("preset", *SIZES))
SEARCHING = (*MERGE_SEARCH, "strict")

# The base of what typer raises for an unusable command line; it has no public name of its own.
UsageError: type[BaseException] = typer.BadParameter.__mro__[1]

RecipeFile = Annotated[Path | None, typer.Option("--recipe", help="Options as YAML; the command line wins.")]
Json = Annotated[bool, typer.Option("--json", help="Results as JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output, once the new one is whole.")]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Say what would be done, how long it takes and what it needs; write nothing."),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Begin anew, not where the same command was stopped.")]
ToHub = Annotated[
    str | None,
    typer.Option("--push", help="Then send it to the hub; --force replaces what is there.", metavar="ORG/NAME"),
]
Private = Annotated[bool, typer.Option("--private", help="Of a repository that is made on the hub: nobody else's.")]
OutFolder = Annotated[Path, typer.Option("--out", help="The output folder.", show_default=False)]
Gguf = Annotated[
    Path | None, typer.Option("--gguf", help="Write it as a GGUF file too, as `export` does.", metavar="OUT.gguf")
]
GgufType = Annotated[
    str | None,
    typer.Option(
        "--type",
        help="With --gguf: of matrices that changed, f32, f16, bf16 or q8_0 [default: auto, as `export` does].",
        show_default=False,
    ),
]
OutFile = Annotated[Path, typer.Option("--out", help="The plan file.", show_default=False)]


def takes(*names: str, **own: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the recipe options `names`, and options of its `own`, by name; it receives those that were given
    as `given`.
    """
    known = {**{name: OPTIONS[name] for name in names}, **own}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        options = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            for name, annotation in known.items()
        ]

        @functools.wraps(command)
        def wrapped(**values: Any) -> None:
            given = {name: values.pop(name) for name in known}
            command(**values, given={name: value for name, value in given.items() if value not in (None, [])})

        kept = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in signature.parameters.values()]
        wrapped.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[parameter for parameter in kept if parameter.name != "given"] + options
        )
        wrapped.__annotations__ = {p.name: p.annotation for p in wrapped.__signature__.parameters.values()}  # type: ignore[attr-defined]
        return wrapped

    return decorate


def recipe_of(recipe_file: Path | None, given: dict[str, Any], healed: bool = False, **more: Any) -> Recipe:
    """The recipe file, with what was given on top. healed: as of `given_layers`."""
    from lowrise.inputs import check_there
    from lowrise.recipe import build_recipe

    recipe = build_recipe(*given_layers(recipe_file, given, healed, **more), where=str(recipe_file or ""))
    check_there(recipe)
    return recipe


def given_layers(
    recipe_file: Path | None, given: dict[str, Any], healed: bool = False, **more: Any
) -> list[dict[str, Any]]:
    """The recipe file and, later and so stronger, what was given on the command line. healed: options of `heal` are."""
    from lowrise.recipe import read_recipe

    given = {**given, **{name: value for name, value in more.items() if value is not None}}
    if "loss" in given:
        given["training"] = {"loss": given.pop("loss")}
    if "tasks" in given:
        given["tasks"] = [name.strip() for name in given["tasks"].split(",")]
    if isinstance(given.get("heal"), str):
        given["heal"] = {"tokens": given["heal"]}
    healing = {name: given.pop(name) for name in HEALING if healed and name in given}
    if "report_to" in healing:
        healing["report_to"] = [name.strip() for name in healing["report_to"].split(",")]
    if healed:
        given["heal"] = healing
    searching = {name: given.pop(name) for name in MERGE_SEARCH if name in given}
    if searching:
        given["merge_search"] = searching
    return [read_recipe(recipe_file), given] if recipe_file is not None else [given]
