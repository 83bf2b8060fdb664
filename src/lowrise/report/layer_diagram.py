"""The layer diagram: the layers before and after. Geometry here, drawing in `templates/layer_diagram.svg`."""

from __future__ import annotations

from dataclasses import dataclass

from lowrise.methods import method
from lowrise.plan import Drop, Edit, Merge, Plan, Replace
from lowrise.report import words

WIDTH = 112.0  # of a model, in the picture's own units
LEFT, RIGHT = 34.0, 214.0  # where the two models begin
TOP = 46.0  # room for what is above the layers
_TALLEST, _MOST, _LEAST = 430.0, 18.0, 4.5  # height of all layers; of one, at most and at least


@dataclass(frozen=True)
class DrawnLayer:
    """One layer at `y`. kind: kept, dropped, replaced or merged; in the compressed model kept, network or merged."""

    kind: str
    y: float
    label: str
    title: str


@dataclass(frozen=True)
class DrawnSpan:
    """Where a span of the dense model went: a band between the models; left, right: where it ends on either side."""

    kind: str
    left: tuple[float, float]
    right: tuple[float, float]
    title: str

    @property
    def points(self) -> str:
        a, b = LEFT + WIDTH + 3, RIGHT - 3
        corners = ((a, self.left[0]), (b, self.right[0]), (b, self.right[1]), (a, self.left[1]))
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)


@dataclass(frozen=True)
class LayerDiagram:
    before: list[DrawnLayer]
    after: list[DrawnLayer]
    spans: list[DrawnSpan]
    height: float
    """Of one layer."""
    base: float
    """y of the lower edge of layer 0."""

    @property
    def kinds(self) -> set[str]:
        """For the legend."""
        return {layer.kind for layer in (*self.before, *self.after)}


def layer_diagram(plan: Plan) -> LayerDiagram:
    layers = plan.model.layers
    height = min(_MOST, max(_LEAST, _TALLEST / layers))
    base = TOP + height * layers
    fates = {layer: edit for edit in plan.edits for layer in range(edit.start, edit.stop)}
    before: list[DrawnLayer] = []
    after: list[DrawnLayer] = []
    spans: list[DrawnSpan] = []
    for layer in range(layers):
        edit = fates.get(layer)
        kind, title = ("kept", "kept") if edit is None else (_fate(edit), _title(edit))
        before.append(DrawnLayer(kind, base - height * (layer + 1), str(layer), f"layer {layer}: {title}"))
        stays = edit is None or (layer == edit.start and not isinstance(edit, Drop))
        if edit is not None and layer == edit.start:
            foot = base - height * len(after)
            left = (base - height * edit.stop, base - height * edit.start)
            spans.append(DrawnSpan(_fate(edit), left, (foot - height if stays else foot, foot), _title(edit)))
        if stays:
            new = len(after)
            what = f"was layer {layer}" if edit is None else _result(edit)
            kind = "kept" if edit is None else "network" if isinstance(edit, Replace) else "merged"
            after.append(DrawnLayer(kind, base - height * (new + 1), str(new), f"layer {new}: {what}"))
    return LayerDiagram(before, after, spans, height, base)


def _fate(edit: Edit) -> str:
    if isinstance(edit, Drop):
        return "dropped"
    return "merged" if isinstance(edit, Merge) else "replaced"


def _title(edit: Edit) -> str:
    span = words.span(edit.start, edit.stop)
    if isinstance(edit, Drop):
        return f"{span} dropped{'' if edit.repair == 'none' else ', what is left repaired'}"
    if isinstance(edit, Merge):
        return f"{span} merged into one"
    return f"{span} replaced by one trained network"


def edit_sentence(edit: Edit) -> str:
    """One edit in words for the page, layers counted as people do; what repairs all of them is said once, elsewhere."""
    span = words.capitalize_first(words.span(edit.start, edit.stop))
    if isinstance(edit, Drop):
        if edit.repair != "none" and method("repair", edit.repair).parameters is not None:
            return f"{span} dropped."  # what was put on the stream there is said of the repair
        return f"{span} dropped; nothing stands in {'its' if edit.stop - edit.start == 1 else 'their'} place."
    if isinstance(edit, Merge):
        weights = ", ".join(f"{weight:.3g}" for weight in edit.weights)
        norms = "kept from the first" if edit.norms == "keep" else "merged too"
        return f"{span} merged into one by the rule {edit.rule} (weights {weights}); norms {norms}."
    network = method("network", edit.network)
    form = f", in its {edit.form} form" if "form" in network.settings else ""
    did = "" if edit.repair == "none" else words.capitalize_first(method("repair", edit.repair).did_to_network)
    repaired = f" {did}, in closed form." if did else ""
    return f"{span} replaced by one trained {network.summary}{form}.{repaired}"


def _result(edit: Edit) -> str:
    span = words.span(edit.start, edit.stop)
    if isinstance(edit, Merge):
        return f"{span} in one, by the rule {edit.rule}"
    assert isinstance(edit, Replace)
    return f"a trained {method('network', edit.network).summary} in the place of {span}"
