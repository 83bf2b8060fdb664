"""How many layers go: as many as are asked for, or as a size that is to be kept comes to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from lowrise.edit.count import parameters_after, size_of
from lowrise.errors import RecipeError
from lowrise.measure.layer_time import decode_times
from lowrise.methods import method
from lowrise.model.decoder import Decoder
from lowrise.model.source import OpenModel
from lowrise.pipeline.restricting import allowed_numbers
from lowrise.plan import Drop, network_edit
from lowrise.progress import Reporter
from lowrise.recipe import Recipe
from lowrise.report import words
from lowrise.sizes import bytes_of, count_of, layers_to_remove


class _Left(NamedTuple):
    """What is left of a model at most, and whether it is so whichever layers are chosen."""

    most: float
    exact: bool


class _Wish(NamedTuple):
    """most: of `left(n)`, what is left once n layers are gone; say: a value of it in words."""

    option: str
    most: float
    left: Callable[[int], _Left]
    say: Callable[[float], str]

    def in_words(self, n: int) -> str:
        left = self.left(n)
        return f"{'' if left.exact else 'at most '}{self.say(left.most)}"


def net_layers(recipe: Recipe, opened: OpenModel, progress: Reporter) -> int | None:
    """Layers that the model loses; a network that is put back counts as one that stays. None: the criterion says.

    Of a size to be kept it is the smallest number that keeps at most that, whichever layers are chosen, and is said.
    Raises RecipeError for a number, or a size, out of reach.
    """
    layers = len(opened.decoder)
    wish = _wish(recipe, opened, progress)
    if wish is not None:
        n = _smallest(wish, layers, allowed_numbers(recipe, opened.decoder))
        progress.say(f"{wish.option}: {n} of {layers} layers go, {wish.in_words(n)} left")
        return n
    if recipe.remove is None and method("criterion", recipe.select).decides_number:
        return None
    return layers_to_remove(recipe.remove, layers)


def size_option(recipe: Recipe) -> str:
    """What says how many layers go."""
    for key in ("keep_parameters", "keep_memory", "keep_latency"):
        value = getattr(recipe, key)
        if value is not None:
            return f"--{key.replace('_', '-')} {value}"
    return "--remove"


@contextmanager
def naming_size(recipe: Recipe) -> Iterator[None]:
    """Where too many layers are to go, complaints of `--remove` are of the option that was given."""
    try:
        yield
    except RecipeError as error:
        option = size_option(recipe)
        if error.where != "--remove" or option == "--remove":
            raise
        found = f"{error.found} layers to go" if error.found.isdecimal() else error.found
        raise RecipeError(option, error.expected, found, "ask for more, or choose another preset") from error


def fewest_layers(recipe: Recipe, decoder: Decoder) -> int | None:
    """Net layers that must go at least for a time to be kept, whatever time a layer takes; None without such a wish.

    A layer takes 1/L of the time at most. Raises RecipeError for a time that no cut can reach.
    """
    if recipe.keep_latency is None:
        return None
    layers, numbers = len(decoder), allowed_numbers(recipe, decoder)
    fewest = max(1, math.ceil((1 - recipe.keep_latency) * layers - 1e-9))
    if fewest > numbers[-1]:
        least = layers - numbers[-1]
        expected = f"a time that can be reached: with {_layers_in_words(least)} left, at least "
        raise RecipeError(size_option(recipe), expected + _time_in_words(least / layers), "less", "ask for more")
    return next(n for n in numbers if n >= fewest)


def _wish(recipe: Recipe, opened: OpenModel, progress: Reporter) -> _Wish | None:
    decoder = opened.decoder

    def parameters(n: int, each: int = 1) -> _Left:
        left = _parameters_left(decoder, recipe, n)
        return left._replace(most=each * left.most)

    if recipe.keep_parameters is not None:
        most = count_of(recipe.keep_parameters)
        return _Wish(size_option(recipe), most, parameters, _parameters_in_words)
    if recipe.keep_memory is not None:
        each, most = opened.save_dtype.itemsize, bytes_of(recipe.keep_memory)
        return _Wish(size_option(recipe), most, lambda n: parameters(n, each), words.megabytes)
    if recipe.keep_latency is not None:
        layer, rest = decode_times(decoder, progress)
        share = layer / (rest + len(decoder) * layer)
        return _Wish(
            size_option(recipe), recipe.keep_latency, lambda n: _Left(1 - n * share, exact=True), _time_in_words
        )
    return None


def _parameters_in_words(value: float) -> str:
    return f"{value:,.0f} parameters"


def _time_in_words(share: float) -> str:
    return f"{share:.3f} of the dense model's time for a token"


def _layers_in_words(left: int) -> str:
    return "one layer" if left == 1 else f"{left} layers"


def _smallest(wish: _Wish, layers: int, numbers: Sequence[int]) -> int:
    """numbers: of layers that may go."""
    most = numbers[-1]
    if wish.left(0).most <= wish.most:
        expected = f"less than the dense model has, {wish.in_words(0)}"
        raise RecipeError(wish.option, expected, "a size that it has already", "ask for less")
    if wish.left(most).most > wish.most:
        expected = f"a size that can be reached: with {_layers_in_words(layers - most)} left, {wish.in_words(most)}"
        raise RecipeError(wish.option, expected, "less", "ask for more")
    return next(n for n in numbers if wish.left(n).most <= wish.most)


def _parameters_left(decoder: Decoder, recipe: Recipe, n: int) -> _Left:
    """With n net layers gone, embeddings included: at most, whichever layers are chosen, and whether exactly so.

    Of a criterion that answers one span all of them are counted; of any other the smallest layers, with what a repair
    adds to every gap as often as there can be gaps.
    """
    if n == 0:
        return _Left(decoder.parameters(), exact=True)
    layers = len(decoder)
    if n == 1 or method("criterion", recipe.select).one_span:
        k = n + recipe.put_back
        how = (recipe.network, recipe.form, recipe.training, recipe.repair)
        edits = [network_edit(start, start + k, *how) for start in range(layers - k + 1)]
        counts = [parameters_after(decoder, [edit]) for edit in edits]
        return _Left(max(counts), exact=len({*counts}) == 1)
    drops = _many_gaps(layers, n, recipe.repair)
    bare = [Drop(start=drop.start, stop=drop.stop) for drop in drops]
    added = parameters_after(decoder, drops) - parameters_after(decoder, bare)
    sizes = sorted(size_of(layer) for layer in decoder.layers)
    return _Left(decoder.parameters() - sum(sizes[:n]) + added, exact=not added and sizes[0] == sizes[-1])


def _many_gaps(layers: int, n: int, repair: str) -> list[Drop]:
    """n of the layers, with as many gaps as there is room for, and a kept layer before each of them where that can be.

    The gap below all layers that are kept is one too.
    """
    gaps = min(n, layers - n + 1)
    bottom = 1 if gaps <= layers - n else 0
    first = bottom + n - gaps + 1
    spans = [(bottom, first), *((first + 1 + 2 * gap, first + 2 + 2 * gap) for gap in range(gaps - 1))]
    return [Drop(start=start, stop=stop, repair=repair) for start, stop in spans]
