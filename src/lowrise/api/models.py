"""A model in memory: opened from a source, or one of the user's own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from lowrise.api import stages
from lowrise.api.progress import LowriseWarning, Progress, reporting
from lowrise.edit.fit import Fit
from lowrise.errors import ModelError
from lowrise.model.formats import check_as_loaded
from lowrise.model.live import as_evaluated, open_live, record_of
from lowrise.model.source import OpenModel
from lowrise.plan import Plan
from lowrise.recipe import build_recipe
from lowrise.results import Curve, Healing

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class Model:
    """A causal language model and its tokenizer. Made by `lowrise.open` and `lowrise.wrap`; edited by `lowrise.apply`.

    plan: what was applied to it, with the loss on held-out tokens before and after; None for a model as it was opened.
    healing: what the last `lowrise.heal` of it did, or None.
    warnings: what was warned of on the way, in words.

    >>> model = lowrise.open("org/name")
    >>> model.layers, model.edited
    (6, False)
    """

    def __init__(self, opened: OpenModel, settings: dict[str, Any] | None) -> None:
        self._opened = opened
        self._settings = settings  # that it was opened with; None: wrapped
        self._dense_disagreement = 0.0
        self.plan: Plan | None = None
        self.healing: Healing | None = None
        self.curves: list[Curve] = []
        self.fits: list[Fit] = []
        self.warnings: list[str] = []

    @property
    def opened(self) -> OpenModel:
        """What the modules below the API work on. Raises ModelError for a model that a failed `save` has spent."""
        if self._opened.decoder.model is None:
            expected, found = "a model in memory", "one that a save gave up before it failed"
            raise ModelError(self.source, expected, found, "open it again")
        return self._opened

    @property
    def hf_model(self) -> Any:
        """The model of transformers itself. Of one that was opened, another object after `save`: what was read back."""
        return self.opened.decoder.model

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of transformers."""
        return self._opened.tokenizer

    @property
    def source(self) -> str:
        """A hub id, a folder or a .gguf file; of a wrapped model its `name_or_path`, else "a model in memory"."""
        return self._opened.record.source

    @property
    def wrapped(self) -> bool:
        """Whether it was given by `lowrise.wrap`, and has no source to be opened from again."""
        return self._settings is None

    @property
    def edited(self) -> bool:
        """Whether a plan was applied to it."""
        return self.plan is not None

    @property
    def layers(self) -> int:
        """Decoder layers that it has now."""
        return len(self.opened.decoder)

    @property
    def parameters(self) -> int:
        """That it has now, embeddings included, shared ones once."""
        return self.opened.decoder.parameters()

    @property
    def dtype(self) -> torch.dtype:
        """Of the decoder layers in memory. A model that was opened is saved in the format that its files came in."""
        return self.opened.decoder.dtype

    @property
    def device(self) -> torch.device:
        """Of the first parameter."""
        return self.opened.decoder.device

    def save(self, out: str | Path, *, force: bool = False, progress: Progress = None) -> Path:
        """Write a checkpoint folder, reload it, prove it equal (logits; cached and uncached), then put it at `out`.

        Tokenizer, licence and other files come along from the folder that the model was opened from. Of a wrapped model
        config, generation config and tokenizer are saved. The plan lies in `lowrise/plan.json`, what healed it in
        `lowrise/healing.json`. The model stays usable:
        an opened one then is what was read back, as a later `open` of `out` would give it, and one model is held at a
        time; a wrapped one is not touched, and two are held while they are compared.

        force: replace an empty folder or an output of lowrise, once the new one is whole. Returns `out`.
        Raises OutputError for a place that is taken or cannot be written, ProofError where the reloaded model differs.

        >>> model = lowrise.open("org/name")
        >>> folder = lowrise.apply(model, lowrise.plan(model, layers=[2])).save("saved")
        >>> lowrise.open(folder).layers
        5
        """
        place = Path(out)
        with self.at_work():
            records = {"plan": self.plan, "healing": self.healing}
            texts = {name: record.to_json() for name, record in records.items() if record is not None}
            stages.saved(self.opened, texts, place, force, self._dense_disagreement, progress)
        return place

    @contextmanager
    def at_work(self) -> Iterator[OpenModel]:
        """In evaluation mode meanwhile; modes, `requires_grad` and gradients are put back after."""
        with as_evaluated(self.hf_model):
            yield self.opened

    def unedited(self) -> OpenModel:
        """As it is to be planned for, its record made anew if it was wrapped. Raises ModelError for one that was edited
        or healed.
        """
        if self.edited or self.healing is not None:
            expected = "a model to which no plan was applied" if self.edited else "a model that was not healed"
            found = f"one with {self.layers} layers after {'a plan was applied' if self.edited else 'it was healed'}"
            remedy = "wrap its hf_model anew" if self.wrapped else "save it and open that, or open the source again"
            raise ModelError(self.source, expected, found, remedy)
        if self.wrapped:
            self._opened.record = record_of(self.opened.decoder)
        return self.opened

    def note(self, plan: Plan, curves: list[Curve], fits: list[Fit], disagreement: float) -> None:
        """That `plan` was applied, and what came of it. disagreement: of the model before, as of `save_and_keep`."""
        self.plan, self.curves, self.fits, self._dense_disagreement = plan, curves, fits, disagreement

    def note_healing(self, healing: Healing, disagreement: float | None) -> None:
        """disagreement: of the model before, as of `save_and_keep`; None where it is known."""
        self.healing = healing
        if disagreement is not None:
            self._dense_disagreement = disagreement

    def settings(self) -> dict[str, Any]:
        """Keys of a recipe that open the same source. Raises ModelError for a wrapped model, which has none."""
        if self._settings is None:
            expected, found = "a model that was opened from a source", "one that was wrapped"
            raise ModelError(self.source, expected, found, "use plan, apply, measure and save")
        return dict(self._settings)

    def __repr__(self) -> str:
        how = f", edited by {self.plan.preset}" if self.plan is not None else ""
        how += f", healed on {self.healing.tokens:,} tokens" if self.healing is not None else ""
        return f"<lowrise.Model {self.source}: {self.layers} layers, {self.parameters:,} parameters{how}>"

    def _repr_html_(self) -> str:
        from lowrise.report.healing import sentences
        from lowrise.report.notebook import facts_html, plan_html

        facts = {
            "model": self.source,
            "layers": f"{self.layers}",
            "parameters": f"{self.parameters:,}",
            "in memory": f"{str(self.dtype).removeprefix('torch.')} on {self.device}",
            "healing": "" if self.healing is None else " ".join(sentences(self.healing)),
        }
        if self.plan is None:
            return facts_html(facts)
        return plan_html(self.plan, facts, healed=self.healing is not None)


def open(
    source: str | Path,
    *,
    dtype: Dtype = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    memory: str | None = None,
    progress: Progress = None,
) -> Model:
    """Open a hub id, a folder, or a `.gguf` file (which is dequantised).

    dtype: `auto` is the model's own on an accelerator and float32 on CPU. device: `auto` is the accelerator, if there
    is one, and more of its kind where the weights do not fit on it; `cpu`, `cuda:1`, `mps`; `cuda:0,cuda:1` spreads the
    layers over both. trust_remote_code, allow_pickle: run code that the checkpoint brings, open pickled
    weights, which can run code. memory: bounds this process's resident memory, as "2GB", or "auto" for what is free:
    layers then lie in a file without a name where temporary files do (TMPDIR), and come into memory as they are used.
    Raises ModelError, one line, for whatever cannot be opened or is no decoder-only model fit to be pruned; InputError
    for a device that this machine lacks, a bound that is too small, or a disk.

    >>> lowrise.open("org/name", device="cpu").layers
    6
    """
    settings = {
        "model": str(source),
        "dtype": dtype,
        "device": device,
        "trust_remote_code": trust_remote_code,
        "allow_pickle": allow_pickle,
        "memory": memory,
    }
    recipe = build_recipe(settings)
    with reporting(progress, "open") as reporter:
        model = Model(stages.opened_from(recipe, reporter), settings)
    model.warnings += reporter.warnings
    return model


def wrap(hf_model: Any, tokenizer: Any) -> Model:
    """A model of transformers that is in memory already, as it is: nothing is copied, cast or moved.

    `apply` edits this very object. Every function puts modes (`train`, `eval`), `requires_grad` and gradients of its
    parameters back as they were; a dropped layer's parameters are gone. Its sha256, in plans, is over its state dict: a
    plan for it is not one for the folder that it was loaded from. Models spread over several devices by accelerate keep
    their device map; offloaded ones are refused.

    hf_model: a PreTrainedModel with one stack of decoder layers. tokenizer: the one of transformers that belongs to it.
    Raises ModelError for another kind of model, a quantised one, NaN or Inf in it. Warns where its number formats are
    not those of a load, which `save` refuses: `.to(torch.bfloat16)` rounds the rotary frequencies too, and
    `from_pretrained(..., dtype=torch.bfloat16)` does not.

    >>> model = lowrise.wrap(hf_model, tokenizer)
    >>> model.hf_model is hf_model
    True
    """
    opened = open_live(hf_model, tokenizer)
    try:
        check_as_loaded(hf_model, opened.save_dtype, opened.decoder.where)
    except ModelError as error:
        warnings.warn(f"this model cannot be saved: {error}", LowriseWarning, stacklevel=2)
    return Model(opened, None)
