"""Statistics over the residual stream, against naive references and closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import tiny
from lowrise.calibration import Windows
from lowrise.errors import RecipeError
from lowrise.model.decoder import Decoder
from lowrise.observe.angular import AngularDistance
from lowrise.observe.massive import MassiveActivations
from lowrise.observe.similarity import SpanSimilarity
from lowrise.observe.stream import Observation, observe
from lowrise.progress import Reporter
from lowrise.select.cosine import choose_span

QUIET = Reporter(quiet=True)


def windows(rows: int = 6, tokens: int = 24) -> Windows:
    return Windows(tiny.ids(rows, tokens), "test", 0)


def naive_states(model: object, ids: Tensor) -> list[Tensor]:
    """All hidden states from hooks, kept: what every published script does."""
    decoder, seen = Decoder(model), []
    hooks = [layer.register_forward_pre_hook(lambda _m, args: seen.append(args[0])) for layer in decoder.layers]
    hooks.append(decoder.layers[-1].register_forward_hook(lambda _m, _a, out: seen.append(out)))
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)  # type: ignore[operator]
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
def test_similarity_agrees_with_all_states_and_a_plain_cosine(family: str) -> None:
    model, data = tiny.model(family), windows()
    found = observe(Decoder(model), data, QUIET).similarity
    states = [h.double() for h in naive_states(model, data.ids)]
    for n in range(1, tiny.LAYERS + 1):
        for start in range(tiny.LAYERS - n + 1):
            a, b = states[start], states[start + n]
            cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1).mean()
            error = ((b - a).norm(dim=-1) / b.norm(dim=-1)).mean()
            assert found.cosine(n)[start].item() == pytest.approx(cosine.item(), abs=1e-6)
            assert found.relative_error(n)[start].item() == pytest.approx(error.item(), rel=1e-5)


def test_a_batch_split_changes_nothing() -> None:
    decoder, data = Decoder(tiny.model()), windows()
    whole = observe(decoder, data, QUIET).similarity.cosine(2)
    similarity = SpanSimilarity(tiny.LAYERS)
    with torch.no_grad():
        for ids in data.ids.split(1):
            for layer, h in decoder.states(ids):
                similarity.add(layer, h)
    assert torch.allclose(similarity.cosine(2), whole, atol=1e-7)


def test_cosine_and_relative_error_in_closed_form() -> None:
    """h[0] = e1, h[1] = e1 + e2: cosine 1/√2, ‖h[1] - h[0]‖ / ‖h[1]‖ = 1/√2."""
    similarity = SpanSimilarity(1)
    first, second = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[1.0, 1.0]]])
    similarity.add(0, first)
    similarity.add(1, second)
    assert similarity.cosine(1).item() == pytest.approx(0.5**0.5)
    assert similarity.relative_error(1).item() == pytest.approx(0.5**0.5)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
def test_angles_agree_with_all_states_and_a_plain_arccos(family: str) -> None:
    """Two windows a batch and a last batch of one: at the last token of each, mean over windows."""
    model, data = tiny.model(family), windows(rows=3)
    decoder, angular = Decoder(model), AngularDistance(tiny.LAYERS)
    with torch.no_grad():
        for ids in data.ids.split(2):
            for layer, h in decoder.states(ids):
                angular.add(layer, h)
    states = [h[:, -1].double() for h in naive_states(model, data.ids)]
    for n in range(1, tiny.LAYERS + 1):
        for start in range(tiny.LAYERS - n + 1):
            cosine = torch.nn.functional.cosine_similarity(states[start], states[start + n], dim=-1)
            expected = (cosine.arccos() / torch.pi).mean()
            assert angular.distance(n)[start].item() == pytest.approx(expected.item(), abs=1e-6)
    assert torch.allclose(observe(decoder, data, QUIET).angular.distance(2), angular.distance(2), atol=1e-7)


def test_angles_in_closed_form() -> None:
    """The same way 0, at right angles 1/2, opposed 1; only the last token counts."""
    angular = AngularDistance(3)
    for layer, last in enumerate([[2.0, 0.0], [3.0, 0.0], [0.0, 5.0], [0.0, -1.0]]):
        angular.add(layer, torch.tensor([[[float(layer), 1.0], last]]))
    assert angular.distance(1).tolist() == pytest.approx([0, 0.5, 1], abs=1e-7)
    assert angular.distance(2).tolist() == pytest.approx([0.5, 0.5])


def massive_stream(writer: int, layers: int = 6) -> MassiveActivations:
    """Norms of 1, but one token of 300 from the output of layer `writer` on."""
    massive = MassiveActivations(layers)
    for layer in range(layers + 1):
        norms = torch.ones(2, 9)
        norms[0, 0] = 300.0 if layer > writer else 1.0
        massive.add(layer, norms)
    return massive


def test_the_layer_that_writes_a_massive_activation_is_named() -> None:
    massive = massive_stream(writer=3)
    assert massive.writers() == [3]
    assert massive.largest().tolist() == [1.0] * 4 + [300.0] * 3
    assert massive.median().tolist() == [1.0] * 7


def test_pairs_are_symmetric_with_ones_on_the_diagonal() -> None:
    pairs = observe(Decoder(tiny.model()), windows(), QUIET).similarity.pairs()
    assert torch.allclose(pairs, pairs.T)
    assert torch.allclose(pairs.diagonal(), torch.ones(tiny.LAYERS + 1, dtype=torch.float64))


def test_without_massive_activations_no_layer_is_named() -> None:
    assert observe(Decoder(tiny.model()), windows(), QUIET).massive.writers() == []


class _Fixed(SpanSimilarity):
    """Cosines given by hand."""

    def __init__(self, values: list[float]) -> None:
        self._values = torch.tensor(values, dtype=torch.float64)

    def cosine(self, n: int) -> Tensor:  # noqa: ARG002
        return self._values

    def relative_error(self, n: int) -> Tensor:  # noqa: ARG002
        return 1 - self._values


def fixed(cosines: list[float]) -> Observation:
    """Six layers of which layer 3 writes a massive activation."""
    return Observation(_Fixed(cosines), massive_stream(3), AngularDistance(6))


def test_the_published_span_is_the_argmax_even_if_it_holds_a_writer() -> None:
    choice = choose_span(fixed([0.1, 0.2, 0.9, 0.3, 0.4]), 2, avoid_massive=False)
    assert (choice.start, choice.stop, choice.without_writers) == (2, 4, 4)


def test_avoid_massive_takes_the_best_span_without_a_writer() -> None:
    choice = choose_span(fixed([0.1, 0.2, 0.9, 0.3, 0.4]), 2, avoid_massive=True)
    assert (choice.start, choice.published) == (4, 2)


def test_avoid_massive_says_so_when_every_span_holds_a_writer() -> None:
    with pytest.raises(RecipeError, match=r"writers \[3\] in every span"):
        choose_span(fixed([0.1, 0.2]), 5, avoid_massive=True)


def test_the_last_state_is_taken_before_the_final_norm() -> None:
    """A final norm scaled by 100 moves the model's output and must not move any statistic."""
    model, data = tiny.model(), windows()
    before = observe(Decoder(model), data, QUIET)
    with torch.no_grad():
        model.model.norm.weight.mul_(100)
    after = observe(Decoder(model), data, QUIET)
    assert torch.equal(before.massive.largest(), after.massive.largest())
    assert torch.equal(before.similarity.cosine(2), after.similarity.cosine(2))
