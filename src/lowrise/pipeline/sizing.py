"""How many layers go: as many as are asked for, or as a size that is to be kept comes to."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from lowrise.edit.count import parameters_after, size_of
from lowrise.edit.replace import network_parameters
from lowrise.errors import RecipeError
from lowrise.measure.layer_time import decode_times
from lowrise.methods import method
from lowrise.model.decoder import Decoder
from lowrise.model.source import OpenModel
from lowrise.plan import Drop, Replace
from lowrise.progress import Reporter
from lowrise.recipe import Recipe, layers_to_remove
from lowrise.report import words
from lowrise.sizes import bytes_of, count_of


class _Wish(NamedTuple):
    """most: of `kept(n)`, what is left once n layers are gone; say: a value of it in words."""

    option: str
    most: float
    kept: Callable[[int], float]
    say: Callable[[float], str]


def net_layers(recipe: Recipe, opened: OpenModel, report: Reporter) -> int | None:
    """Layers that the model loses; a network that is put back counts as one that stays. None: the criterion says.

    Of a size to be kept it is the smallest number that keeps at most that, whichever layers are chosen, and is said.
    Raises RecipeError for a number, or a size, out of reach.
    """
    layers = len(opened.decoder)
    wish = _wish(recipe, opened, report)
    if wish is not None:
        n = _smallest(wish, layers)
        report.say(f"{wish.option}: {n} of {layers} layers go, {wish.say(wish.kept(n))} left")
        return n
    if recipe.remove is None and method("criterion", recipe.select).decides_number:
        return None
    return layers_to_remove(recipe.remove, layers)


def _wish(recipe: Recipe, opened: OpenModel, report: Reporter) -> _Wish | None:
    decoder = opened.decoder

    def parameters(n: int) -> float:
        return most_parameters(decoder, recipe, n)

    if recipe.keep_parameters is not None:
        most = count_of(recipe.keep_parameters)
        return _Wish(f"--keep-parameters {recipe.keep_parameters}", most, parameters, _parameters_in_words)
    if recipe.keep_memory is not None:
        each, most = opened.save_dtype.itemsize, bytes_of(recipe.keep_memory)
        return _Wish(f"--keep-memory {recipe.keep_memory}", most, lambda n: each * parameters(n), words.megabytes)
    if recipe.keep_latency is not None:
        layer, rest = decode_times(decoder, report)
        share = layer / (rest + len(decoder) * layer)
        option = f"--keep-latency {recipe.keep_latency:g}"
        return _Wish(option, recipe.keep_latency, lambda n: 1 - n * share, _time_in_words)
    return None


def _parameters_in_words(value: float) -> str:
    return f"{value:,.0f} parameters"


def _time_in_words(share: float) -> str:
    return f"{share:.3f} of the dense model's time for a token"


def _smallest(wish: _Wish, layers: int) -> int:
    most = layers - 1
    if wish.kept(0) <= wish.most:
        expected = f"less than the dense model has, {wish.say(wish.kept(0))}"
        raise RecipeError(wish.option, expected, "a size that it has already", "ask for less")
    if wish.kept(most) > wish.most:
        expected = f"a size that can be reached: with one layer left, {wish.say(wish.kept(most))}"
        raise RecipeError(wish.option, expected, "less", "ask for more")
    return next(n for n in range(1, layers) if wish.kept(n) <= wish.most)


def most_parameters(decoder: Decoder, recipe: Recipe, n: int) -> int:
    """Parameters with n net layers gone, embeddings included, where the smallest ones are chosen, and where what a
    repair adds to every gap is added as often as it can be.
    """
    if n == 0:
        return decoder.parameters()
    sizes = sorted(size_of(layer) for layer in decoder.layers)
    gone, added = n, 0
    if recipe.put_back:
        network = Replace(start=0, stop=n + 1, network=recipe.network, form=recipe.form)
        if not network.in_a_layer:
            gone, added = n + 1, network_parameters(decoder, network)
    elif recipe.repair != "none":
        drops = _many_gaps(len(decoder), n, recipe.repair)
        bare = [Drop(start=drop.start, stop=drop.stop) for drop in drops]
        added = parameters_after(decoder, drops) - parameters_after(decoder, bare)
    return decoder.parameters() - sum(sizes[:gone]) + added


def _many_gaps(layers: int, n: int, repair: str) -> list[Drop]:
    """n of the layers, with a kept one before every gap and as many gaps as there is room for."""
    gaps = min(n, layers - n)
    first = n - gaps + 1
    starts = [first + 2 + 2 * gap for gap in range(gaps - 1)]
    spans = [(1, 1 + first), *((start, start + 1) for start in starts)]
    return [Drop(start=start, stop=stop, repair=repair) for start, stop in spans]
