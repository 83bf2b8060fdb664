"""The first arrows: a model, and the texts that it is looked at and measured on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar, cast

from lowrise.calibration import Windows, calibration_windows, check_known, text_windows
from lowrise.calibration.sentences import Sentences, calibration_sentences
from lowrise.calibration.stored import put_together, stored_tokens, taken_apart
from lowrise.calibration.text import check_sources
from lowrise.edit.replace import check_replacement
from lowrise.engines import check_files
from lowrise.errors import ModelError, RecipeError, TextError
from lowrise.heal.pairs import ram_limit
from lowrise.measure.identity import tokenization_sha256
from lowrise.methods import Method, load, method
from lowrise.model.cache import layer_caches
from lowrise.model.custom import refuse_network
from lowrise.model.decoder import Decoder
from lowrise.model.source import OpenModel, layers_of, open_model, open_tokenizer
from lowrise.pipeline.context import Run
from lowrise.pipeline.repairing import check_repair, check_repairs
from lowrise.pipeline.restricting import check_allowed, tell_engines
from lowrise.pipeline.sizing import fewest_layers, naming_size, net_layers
from lowrise.pipeline.work import begin_work
from lowrise.plan import CalibrationRecord, Replace
from lowrise.progress import Reporter
from lowrise.quality import HELD_OUT
from lowrise.reading import kind_of
from lowrise.recipe import SIZES, Recipe
from lowrise.select.given import check_named
from lowrise.sizes import layers_to_remove
from lowrise.store import Memory

Tokens = TypeVar("Tokens", Windows, Sentences)


def open_from(recipe: Recipe, run: Run | None = None, beside: Path | None = None) -> OpenModel:
    """run: that it is opened for, which says where layers come to lie on disk: beside its output. beside: a place that
    says so where there is no run.
    """
    if recipe.model is None:
        raise RecipeError("MODEL", "a hub id, a folder or a .gguf file", "none", "name one")
    if recipe.for_engines and kind_of(recipe.model, ModelError, "a folder", "check the path") == "folder":
        check_files(Path(recipe.model), recipe.for_engines)  # of the hub's models nothing is here yet
    opened = open_model(
        recipe.model,
        dtype=recipe.dtype,
        device=recipe.device,
        trust_remote_code=recipe.trust_remote_code,
        allow_pickle=recipe.allow_pickle,
        memory=_memory(recipe, run, beside),
    )
    if recipe.speed:
        layer_caches(opened.decoder)  # refuses a model that cannot be timed
    if run is not None and opened.decoder.store.layer_by_layer:
        _tell_whole_reads(run)
    return opened


def _tell_whole_reads(run: Run) -> None:
    """What does not go layer by layer, and takes long where these lie on disk."""
    recipe, calibrated = run.recipe, run.command in ("run", "plan", "observe")
    slow = [row.name for row in recipe.methods if calibrated and row.reads_whole]
    slow += ["tasks"] if recipe.tasks else []
    if calibrated and recipe.tokens is None and not recipe.text and recipe.dataset is None:
        slow += ["calibration that the model writes itself"]
    if slow:
        run.progress.say(f"all layers are read again for every batch or token of: {', '.join(slow)}")


def _memory(recipe: Recipe, run: Run | None, beside: Path | None) -> Memory:
    place = beside if run is None else run.out
    folder = None if place is None else place.resolve().parent
    return Memory(recipe.memory, folder) if run is None else Memory(recipe.memory, folder, run.progress.say)


def tell_notes(opened: OpenModel, progress: Reporter) -> None:
    """What the user should know of the model as it was opened."""
    for note in opened.notes:
        progress.warn(note)


def check_same_tokens(recipe: Recipe, dense: Recipe, option: str = "--dense") -> None:
    """Refuse to compare models that do not read the same tokens; only their tokenizers are opened."""
    ours, theirs = (
        open_tokenizer(str(one.model), trust_remote_code=one.trust_remote_code, allow_pickle=one.allow_pickle)
        for one in (recipe, dense)
    )
    refuse_other_tokenizer(ours, theirs, str(recipe.model), f"{option} {dense.model}")


def refuse_other_tokenizer(ours: Any, theirs: Any, source: str, where: str) -> None:
    """Raises ModelError where the dense model's tokenizer gives other tokens than that of `source`."""
    if tokenization_sha256(ours) != tokenization_sha256(theirs):
        found = f"another, of {len(theirs):,} tokens against {len(ours):,}"
        expected = f"a model of the same tokenizer as {source}"
        raise ModelError(where, expected, found, "name the model it was made from")


def check_one_source(recipe: Recipe) -> None:
    """Raises RecipeError for texts beside a dataset, which healing alone reads."""
    if recipe.text and recipe.dataset is not None:
        remedy = "leave one out; `lowrise heal` takes both"
        raise RecipeError("--text and --dataset", "one of them to calibrate on", "both", remedy)


def check_texts(recipe: Recipe) -> None:
    """Raises TextError, before anything is opened or said, for texts that cannot be read."""
    check_sources([*recipe.text, *recipe.eval_text], recipe.dataset)


def layers_said(recipe: Recipe) -> int | None:
    """How many layers config or header say that the model has; None where they cannot be read, which opening says."""
    if recipe.model is None:
        return None
    try:
        layers = layers_of(recipe.model, trust_remote_code=recipe.trust_remote_code, allow_pickle=recipe.allow_pickle)
    except ModelError:
        return None
    return layers if layers > 0 else None


def check_depth(recipe: Recipe, sizes: Iterable[str | None] | None = None) -> None:
    """Raises RecipeError, before weights are read, for more layers to go than the model has, or others.

    sizes: that `--remove` has, in the place of the recipe's own.
    """
    if any(getattr(recipe, key) is not None for key in SIZES if key != "remove"):
        return
    layers = layers_said(recipe)
    if layers is None:
        return
    if recipe.layers is not None:
        check_named(recipe.layers, layers)
    for size in [recipe.remove] if sizes is None else sizes:
        if size is not None:
            layers_to_remove(size, layers)


def open_for_planning(run: Run) -> tuple[OpenModel, int | None]:
    """The model, and how many layers its criterion is to take out, as of `layers_to_take_out`."""
    ram_limit(run.recipe.max_ram)
    check_depth(run.recipe)
    with run.clock.stage("open"):
        opened = open_from(run.recipe, run)
    return opened, layers_to_take_out(run, opened)


def layers_to_take_out(run: Run, opened: OpenModel) -> int | None:
    """Those that are removed, and one more where a network comes in their place; None: the criterion says it itself.

    Every wish that cannot be fulfilled is refused before much is computed.
    """
    recipe = run.recipe
    refuse_network(opened.decoder)
    begin_work(run, opened)
    fewest = fewest_layers(recipe, opened.decoder)
    if fewest is not None:
        check_wishes(recipe, opened.decoder, fewest)  # before anything is timed
    k = check_wishes(recipe, opened.decoder, _net_layers(run, opened))
    if run.command in ("run", "plan") and recipe.layers is None:
        tell_engines(opened.decoder, recipe.for_engines, run.progress)
    return k


def check_wishes(recipe: Recipe, decoder: Decoder, net: int | None) -> int | None:
    """As of `layers_to_take_out`, of net layers. Raises InputError for what a method cannot do."""
    k = None if net is None else net + recipe.put_back
    check_memory(decoder, recipe.methods)
    check = method("criterion", recipe.select).check
    with naming_size(recipe):
        if check is not None:
            load(check)(decoder, recipe, k)
        check_allowed(recipe, decoder, net)
        if recipe.network == "none":
            check_repair(decoder, recipe.repair)
        elif k is not None:
            how = {"network": recipe.network, "form": recipe.form, "training": recipe.training, "repair": recipe.repair}
            edit = Replace(start=0, stop=k, **how)
            check_repairs(decoder, [edit])
            check_replacement(decoder, edit)
    return k


def check_memory(decoder: Decoder, rows: Iterable[Method]) -> None:
    """Raises RecipeError for a bound on memory that leaves no room for what these methods take."""
    needed = {row.name: int(load(row.working)(decoder)) for row in rows if row.working is not None}
    if needed:
        largest = max(needed, key=needed.__getitem__)
        decoder.store.check_room(needed[largest], largest)


def _net_layers(run: Run, opened: OpenModel) -> int | None:
    """As of `net_layers`; a time that was measured once is not measured anew, for it would be another."""
    kept = run.work.find("size")
    if kept is not None:
        return int(kept.value)
    net = net_layers(run.recipe, opened, run.progress)
    if run.recipe.keep_latency is not None:
        run.work.keep("size", net, what="how many layers go")
    return net


def windows_or_sentences(run: Run, opened: OpenModel) -> Windows | Sentences:
    """What the preset's criterion looks at."""
    recipe = run.recipe
    sentences = method("criterion", recipe.select).looks_at == "sentences"
    if recipe.tokens is not None:
        stored = stored_tokens(recipe.tokens)
        check_known(stored.ids, opened.decoder, recipe.tokens)
        if isinstance(stored, Sentences) != sentences:
            wanted = "sentences" if sentences else "windows"
            raise TextError(recipe.tokens, f"{wanted}, for {recipe.preset}", "tokens of the other kind", "compare anew")
        return stored
    if not sentences:
        return calibrate(run, opened)

    def make() -> Sentences:
        return calibration_sentences(
            opened.decoder,
            opened.tokenizer,
            text=recipe.text,
            dataset=recipe.dataset,
            samples=recipe.samples,
            words=recipe.merge_search.words,
            length=recipe.length,
            seed=recipe.seed,
            progress=run.progress,
            bos=recipe.bos,
        )

    return _kept(run, "sentences", make)


def _kept(run: Run, name: str, make: Callable[[], Tokens]) -> Tokens:
    """Tokens that were kept under this name, else those made now."""
    check_one_source(run.recipe)
    kept = run.work.find(name)
    if kept is not None:
        run.progress.say("calibration tokens: kept from before")
        return cast(Tokens, put_together(kept.value, kept.tensors, name, "begin anew with --fresh"))
    with run.clock.stage("calibration"):
        made = make()
    run.work.keep(name, *taken_apart(made), what="the calibration tokens")
    return made


def windows_to_fit(run: Run, opened: OpenModel, looked_at: Windows | Sentences) -> Windows | None:
    """What a repair or a training is fitted on: sentences are too short, so a search of merges needs windows too."""
    if isinstance(looked_at, Windows):
        return looked_at
    return None if run.recipe.repair == "none" else calibrate(run, opened)


def calibrate(run: Run, opened: OpenModel) -> Windows:
    """The recipe's calibration windows."""
    recipe = run.recipe

    def make() -> Windows:
        return calibration_windows(
            opened.decoder,
            opened.tokenizer,
            text=recipe.text,
            dataset=recipe.dataset,
            samples=recipe.samples,
            length=recipe.fitted_length,
            seed=recipe.seed,
            progress=run.progress,
            written=recipe.synthetic_share,
            bos=recipe.bos,
        )

    return _kept(run, "windows", make)


def calibration_record(recipe: Recipe, made: Windows | Sentences) -> CalibrationRecord:
    """What a plan says of its calibration: `made`, and how the recipe came by it."""
    alone = not recipe.text and recipe.dataset is None
    more = {"dataset": recipe.dataset, "written": 1.0 if alone else recipe.synthetic_share}
    return made.record().model_copy(update={**more, "held_out": recipe.training.validation})


def evaluation_texts(recipe: Recipe, opened: OpenModel) -> dict[str, Windows]:
    """The texts that perplexity is measured on, by file name."""
    length = min(recipe.length, opened.decoder.max_length)
    texts: dict[str, Windows] = {}
    for path in recipe.eval_text:
        windows = text_windows(opened.tokenizer, path, length, recipe.bos)
        check_known(windows.ids, opened.decoder, path)
        texts[path if windows.source in texts else windows.source] = windows
    return texts


def held_out_texts(recipe: Recipe, windows: Windows | Sentences) -> dict[str, Windows]:
    """What is measured where no evaluation text is named: what training holds out, or the sentences."""
    if isinstance(windows, Sentences):
        return {"calibration sentences": windows.joined(windows.length)}
    return {HELD_OUT: windows.split(recipe.training.validation)[1]}
