"""Settings within a recipe: of training, merge search and healing, older spellings, and the words they may take."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lowrise.errors import RecipeError
from lowrise.sizes import count_of

Form = Literal["paper", "portable"]
Loss = Literal["mse", "relative"]
Rule = Literal["sum", "last", "mean"]
Norms = Literal["keep", "merge"]
Representation = Literal["flattened-final", "per-token"]
Bos = Literal["auto", "never"]
Objective = Literal["kl", "ce", "mix"]
Trained = Literal["all", "lora", "network", "gaps", "tail"]
TeacherPlace = Literal["resident", "stored"]
Precision = Literal["no", "bf16", "fp16"]
PAPER_THRESHOLD = 0.65  # LaCo's T for its 7B model, where neither a threshold nor a size is asked for
# Keys of a recipe by their older spelling. Recipes may use it still. Plans do, so that their bytes stay. `for` is no
# older one: it is what people write, and Python keeps that word for itself.
OLDER_KEYS: Mapping[str, str] = MappingProxyType(
    {"effort": "search_budget", "written": "synthetic_share", "collapse": "merge_search", "for": "for_engines"}
)
ENGINES = ("transformers", "transformers4", "vllm", "llama.cpp", "mlx")  # of which engines/ knows facts


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class Training(Strict):
    """How a lightweight network is trained (LLM-Streamline, section 3.2 and appendix).

    The paper's batch (128 sequences of 2,048 tokens, one epoch over 30,000 sequences and more) makes a few hundred
    optimiser steps. A smaller token budget keeps those steps: `batch_tokens` and `epochs` left at None are chosen so.
    """

    loss: Loss = Field(
        "mse",
        description="mse: E‖f(x) - y‖²/d, as published; relative: E‖f(x) - y‖²/‖y‖², deaf to massive activations",
    )
    learning_rate: float = Field(2e-4, gt=0, le=1, description="the largest, of AdamW")
    min_learning_rate: float = Field(5e-5, ge=0, le=1, description="what the cosine has reached at the last step")
    weight_decay: float = Field(1e-3, ge=0, description="of AdamW")
    warmup: float = Field(0.03, ge=0, lt=1, description="share of all steps")
    clip: float = Field(5.0, gt=0, description="largest gradient norm")
    batch_tokens: int | None = Field(None, gt=0, description="tokens of an optimiser step; null: by the token budget")
    epochs: int | None = Field(None, gt=0, description="passes over the windows; null: by the token budget")
    validation: float = Field(0.1, gt=0, lt=1, description="share of the windows held out")

    @model_validator(mode="after")
    def _rates_are_ordered(self) -> Self:
        if self.min_learning_rate > self.learning_rate:
            raise ValueError("min_learning_rate must not exceed learning_rate")
        return self


class MergeSearch(Strict):
    """LaCo's search (arXiv 2402.11187, Algorithm 1). Layers are 0-based; the defaults are the paper's."""

    rule: Rule = Field(
        "sum",
        description="what a merge makes of its layers: sum, the paper's; last, the last layer's matrices; "
        "mean, their mean",
    )
    norms: Norms = Field("keep", description="keep the first layer's norms, or merge them too")
    combine: int = Field(4, ge=2, description="C, layers that become one")
    low: int = Field(1, ge=0, description="the lowest layer that a merge may begin at")
    high: int | None = Field(
        None, gt=0, description="where the layers that may be merged end; null: after the last one"
    )
    interval: int = Field(2, ge=1, description="I, layers to go down after a merge")
    threshold: float | None = Field(
        None, gt=-1, le=1, description="T, similarity; null: 0.65, unless `remove` says how many layers go"
    )
    representation: Representation = Field(
        "flattened-final", description="whose similarity: flattened-final, as published, or per-token, before the norm"
    )
    words: int = Field(16, ge=1, description="words of each calibration sentence")

    @model_validator(mode="after")
    def _range_is_ordered(self) -> Self:
        if self.high is not None and self.low >= self.high:
            raise ValueError(f"low ({self.low}) must lie below high ({self.high})")
        return self


def current_keys(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a recipe, with keys of an older spelling renamed, those under `heal` too; `heal: 2M` says its tokens.

    Raises RecipeError for a key in both spellings.
    """
    for older, key in OLDER_KEYS.items():
        if older in given and key in given:
            raise RecipeError(f"{key} and {older}", "one of them", "both", f"leave {older} out: it is {key}, as it was")
    found = {OLDER_KEYS.get(key, key): value for key, value in given.items()}
    heal = found.get("heal")
    if isinstance(heal, dict):
        found["heal"] = current_keys(heal)
    elif isinstance(heal, str | int) and not isinstance(heal, bool):
        found["heal"] = {"tokens": heal}
    return found


class Heal(Strict):
    """How the whole shallow model is trained to be the dense one again. Texts are those of the recipe.

    What is None is chosen by the budget, by the model and by what trains: `heal/defaults.py`.
    """

    dense: str | None = Field(None, description="the model it learns from; null in `run`: the one that was cut")
    tokens: str = Field("2M", description="the budget: tokens trained on, repeated ones among them")
    objective: Objective = Field(
        "kl", description="kl: KL(dense ‖ student); ce: next-token loss; mix: `mix` of the one, the rest the other"
    )
    mix: float = Field(0.5, ge=0, le=1, description="share of kl in `mix`")
    temperature: float = Field(1.0, gt=0, le=100, description="of kl, times its square")
    train: Literal[Trained, "auto"] = Field(
        "auto", description="which weights; auto: all up to 2B parameters, lora above"
    )
    rank: int = Field(32, ge=1, le=2**14, description="of lora")
    alpha: int = Field(64, ge=1, description="of lora: its change counts alpha / rank")
    teacher: Literal[TeacherPlace, "auto"] = Field(
        "auto", description="resident: in memory; stored: what it says of the tokens lies on disk"
    )
    learning_rate: float | None = Field(
        None, gt=0, le=1, description="the largest, of AdamW; null: by the size of its weights and by what trains"
    )
    batch_tokens: int | None = Field(
        None, gt=0, description="tokens of an optimiser step, over all processes; null: by the budget"
    )
    length: int | None = Field(
        None, gt=1, le=2**30, description="tokens a window, capped by the model; null: by the budget"
    )
    guard: str | None = Field(
        None, description="a text that training never sees; null: held-out writing of the dense model"
    )
    chat: list[str] = Field([], description="files of conversations, JSON lines; the loss is on the answers")
    synthetic_share: float = Field(
        0.0, ge=0, le=1, description="share that the dense model writes itself beside the other sources"
    )
    repeat: int = Field(4, ge=1, description="most times that a token is trained on")
    report_to: list[str] = Field([], description="loggers of accelerate: tensorboard, wandb, trackio")
    checkpointing: bool = Field(
        False, description="compute activations twice instead of keeping them: less memory, a third slower"
    )
    precision: Literal["auto", Precision] = Field(
        "auto",
        description="of what is computed; auto: bf16 on accelerators and processors with AMX, where models bear it",
    )

    @field_validator("tokens", mode="before")
    @classmethod
    def _as_written(cls, value: object) -> object:
        """YAML reads `tokens: 100000` as a number."""
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("tokens")
    @classmethod
    def _is_a_count(cls, value: str) -> str:
        try:
            count_of(value)
        except ValueError as error:
            raise ValueError("a number of tokens such as 100k or 2M, one at least") from error
        return value

    @model_validator(mode="after")
    def _nothing_is_idle(self) -> Self:
        """A setting that is not the usual one and that nothing would look at."""
        idle = {
            "objective: mix": (self.objective == "mix", ("mix",)),
            "objective: kl or mix": (self.objective != "ce", ("temperature", "teacher")),
            "train: lora": (self.train in ("lora", "auto"), ("rank", "alpha")),
        }
        for needed, (is_there, names) in idle.items():
            for name in names:
                if not is_there and getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} with {needed} alone")
        return self

    @property
    def budget(self) -> int:
        return count_of(self.tokens)

    @property
    def window(self) -> int:
        """Tokens a window, before the model caps it: longer ones where the budget makes many of them."""
        return self.length or (256 if self.budget < 10**6 else 512 if self.budget < 10**7 else 1024)
