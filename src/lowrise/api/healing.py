"""Training a shallow model in memory to be the dense one again."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

from lowrise.api import stages
from lowrise.api.calibrating import Paths, paths
from lowrise.api.dense import as_opened, check_same_tokens, check_shallower
from lowrise.api.models import Model
from lowrise.api.models import open as open_source
from lowrise.api.progress import Progress, reporting
from lowrise.errors import ModelError, RecipeError
from lowrise.heal.processes import check_loggers
from lowrise.inputs import check_there
from lowrise.model.checkpoint import own_disagreement
from lowrise.recipe import build_recipe
from lowrise.settings import Bos, Objective, TeacherPlace, Trained


def heal(
    model: Model,
    dense: Model | str | Path,
    *,
    tokens: int | str = "2M",
    text: Paths = (),
    dataset: str | None = None,
    chat: Paths = (),
    synthetic_share: float = 0.0,
    objective: Objective = "kl",
    train: Trained | Literal["auto"] = "auto",
    teacher: TeacherPlace | Literal["auto"] = "auto",
    guard: str | Path | None = None,
    learning_rate: float | None = None,
    length: int | None = None,
    seed: int = 0,
    bos: Bos = "auto",
    eval_text: Paths = (),
    windows: int | None = None,
    progress: Progress = None,
    **settings: Any,
) -> Model:
    """Train a shallow `model` to be the dense one again, in place, and return it: what `lowrise heal` does.

    model: with fewer layers than the dense one and its tokenizer; of `apply`, `open` or `wrap`, cut by whatever tool.
    It stays the same object, in the number formats that it had. dense: a Model, which stays as it is, or a source,
    which is opened. `apply` changes its model in place, so the dense one must be opened again, or named by its source.

    tokens: the budget, tokens trained on: 100_000, "100k", "2M". text, dataset, chat (JSON lines of conversations, the
    loss on the answers): what it is trained on, in equal parts; without any the dense model writes all of it.
    synthetic_share: of the tokens, 0 to 1, that it writes beside them. length: tokens a window; None: 256, more with
    many tokens, capped by the model. objective: `kl`, KL(dense ‖ model) in nats; `ce`, next-token loss; `mix`. train:
    `all` weights, `lora`, `network`, `gaps`, `tail`; `auto` is all up to 2B parameters, then lora. teacher: the dense
    model `resident` in memory, or what it says of the tokens `stored` on disk. settings: other keys of `heal:` in a
    recipe, as `mix`, `temperature`, `rank`, `batch_tokens`, `repeat`, `checkpointing`, `precision`, `report_to`.

    Held-out windows of every text, and of `guard`, which is not trained on (None: held-out writing of the dense model),
    decide which weights are kept: those of the start where nothing got better. `model.healing` is the record: losses
    (natural log), tokens, seconds, and perplexity before and after on `eval_text` (the first `windows` windows of each)
    or on what is held out. `save` and `measure` follow. Nothing is kept of a call that is interrupted: the model then
    is as it was.
    Raises ModelError for models that do not fit together, a source's before its weights are read, RecipeError for a
    setting that is unknown or out of range, TextError for text that cannot be read or is too little. Sources:
    docs/methods.md.

    >>> model = lowrise.open("org/name")
    >>> small = lowrise.apply(model, lowrise.plan(model, layers=[2, 3]))
    >>> healed = lowrise.heal(small, dense="org/name", tokens="1k", text=["a.txt"], guard="b.txt")
    >>> healed is small, healed.layers, healed.healing.tokens
    (True, 4, 992)
    >>> results = lowrise.measure(healed, dense="org/name", text=["b.txt"])
    """
    if not isinstance(tokens, int | str):
        expected, found = "a number of tokens such as 100k or 2M", type(tokens).__name__
        raise RecipeError("--tokens", expected, found, "give the budget; windows are made of text")
    asked: dict[str, Any] = {"tokens": tokens, "synthetic_share": synthetic_share, "objective": objective}
    asked |= {"train": train, "teacher": teacher, "learning_rate": learning_rate, "length": length, "chat": paths(chat)}
    asked |= {"guard": None if guard is None else str(guard)}
    own = {"text": paths(text), "dataset": dataset, "seed": seed, "bos": bos, "eval_text": paths(eval_text)}
    own |= {"windows": windows, "device": str(model.device)}
    recipe = build_recipe({"heal": asked}, {"heal": settings}, own)
    _check_dense(dense)
    check_there(recipe)
    assert recipe.heal is not None
    check_loggers(recipe.heal.report_to)
    if not isinstance(dense, Model):
        check_same_tokens(model, dense)
        check_shallower(model, dense)
    teaching = dense if isinstance(dense, Model) else open_source(**_as_opened_for(model, dense), progress=progress)
    stays = teaching is dense
    # one that was opened for this is held by nothing here, so that it can be given up
    as_it_was = teaching.at_work() if stays else nullcontext()
    with reporting(progress, "heal") as reporter, model.at_work() as student, as_it_was:
        models = stages.models_of(student, teaching.unedited(), model.plan, stays=stays)
        disagreement = own_disagreement(student.decoder) if model.wrapped and not model.edited else None
        healing = stages.healed(recipe, models, reporter)
    model.note_healing(healing, disagreement)
    model.warnings += reporter.warnings
    return model


def _check_dense(dense: Model | str | Path) -> None:
    """Raises ModelError for a dense model that is none any more."""
    if isinstance(dense, Model) and dense.edited:
        found = "one that a plan was applied to, in place"
        reopened = f"open it again: dense=lowrise.open({dense.source!r})"
        again = "load it anew and wrap that" if dense.wrapped else reopened
        remedy = f"{again}, or name its source"
        raise ModelError(f"dense, {dense.source}", "the dense model", found, remedy)


def _as_opened_for(model: Model, source: str | Path) -> dict[str, Any]:
    """How the dense model is opened: as the shallow one was, where it was."""
    how = {"device": str(model.device)} if model.wrapped else as_opened(model)
    return {**how, "source": source}
