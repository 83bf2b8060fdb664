"""A method as one row, and the recipe keys that not all methods look at."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

Kind = Literal["criterion", "repair", "network"]
LooksAt = Literal["states", "windows", "sentences", "nothing"]

# Keys of a recipe that only some methods look at, and what methods do that look at them. A key of settings within it
# stands for all of those. `calibration_length` and `synthetic_share` need no row's word: they are of windows.
OF_SOME: Mapping[str, str] = MappingProxyType(
    {
        "merge_search": "search merges",
        "strict": "search merges",
        "avoid_massive": "choose by states",
        "search_budget": "search with repair",
        "layers": "take layers by hand",
        "form": "put a network of two forms back",
        "training.loss": "train",
    }
)


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row. Dotted paths are `package.module:name`, imported when they are first called.

    function: of a criterion `choose(selection: Selection) -> Choice` (select/selection.py, select/choice.py), of a
        repair `repair(task: RepairTask) -> Repaired` (edit/context.py); None of networks, which edit/replace.py makes.
    paper: its address; None for a method of lowrise's own, or of a package that names none.
    looks_at: what it is shown: `states` are what `observe` gathers of the layers' inputs and outputs, which massive
        activations can mislead (there is a warning then); `windows` and `sentences` are tokens.
    settings: of OF_SOME, those that it looks at.
    check: refuses a model, by an InputError, before anything is computed: of a criterion `(decoder, recipe, k)`, k
        layers to go or None, of a repair `(decoder)`.
    loads_plainly: whether stock `from_pretrained` opens what comes of it. A network that looks at `form` does in its
        portable one.
    cost: how much work it is, `(Job) -> list[Stage]` (cost/job.py, cost/work.py); None: a criterion is taken to do
        what `looks_at` says, a repair to go through all layers once.

    older_name: recipes may still use it. Plans do, so that their bytes stay.

    Of criteria. decides_number: it may say itself how many layers go, and has k None where no size is asked for.
    one_span: it always answers one. takes_network: one, in whose place a network may stand. stays: so many of the first
    and so many of the last layers it never takes out.

    Of repairs. special_tokens: its windows are overwritten by a special token each (`Windows.with_special_tokens`).
    on_networks: solves the last matrix of a trained network too, `(fitted, held_out: Gram, matrix (k, d)) ->
    Solution`; None: it does not. parameters: what it adds to the model, `(decoder, edits) -> int`; None: nothing.
    reads_whole: it runs all layers on one batch after the other, where others go layer by layer if these lie on disk.
    working: what it takes of memory beside layers and one batch, `(decoder) -> bytes`, where that is much.
    did: what it did, for the page, the card and the terminal; {layers} is `layer 3` or `layers 3, 5`, {matrices}
    `matrix` or `matrices`, {first} the lowest of the layers. did_reading: the same where none of the layers could be
    solved in what it writes. did_to_network: the same of a trained network.
    """

    name: str
    kind: Kind
    summary: str
    function: str | None = None
    paper: str | None = None
    looks_at: LooksAt = "windows"
    settings: tuple[str, ...] = ()
    older_name: str | None = None
    check: str | None = None
    loads_plainly: bool = True
    cost: str | None = None
    decides_number: bool = False
    one_span: bool = False
    takes_network: bool = False
    stays: tuple[int, int] = (0, 0)
    special_tokens: bool = False
    on_networks: str | None = None
    parameters: str | None = None
    reads_whole: bool = False
    working: str | None = None
    did: str = "layers that are left were repaired from {first} on"
    did_reading: str | None = None
    did_to_network: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError for a row that is none: rows of other packages are read by this too."""
        if not isinstance(self.name, str) or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.name):
            raise ValueError(f"the name {self.name!r} is not of small letters, digits and single dashes")
        for field, values in (("kind", get_args(Kind)), ("looks_at", get_args(LooksAt))):
            if getattr(self, field) not in values:
                raise ValueError(f"{field} of {self.name} is {getattr(self, field)!r}, none of {', '.join(values)}")
        for field in ("function", "check", "on_networks", "parameters", "working", "cost"):
            path = getattr(self, field)
            if path is not None and not (isinstance(path, str) and re.fullmatch(r"[\w.]+:\w+", path)):
                raise ValueError(f"{field} of {self.name} is {path!r}, not `package.module:name`")
        if (self.function is None) != (self.kind == "network"):
            raise ValueError(f"function of {self.name}: a criterion or a repair has one, a network none")
        if self.takes_network and not self.one_span:
            raise ValueError(f"{self.name} takes a network, but one_span is not said of it")
        stays = self.stays
        if not (isinstance(stays, tuple) and len(stays) == 2 and all(type(one) is int and one >= 0 for one in stays)):
            raise ValueError(f"stays of {self.name} is {stays!r}, no two numbers of layers")
        unknown = [key for key in self.settings if key not in OF_SOME]
        if unknown:
            raise ValueError(f"settings of {self.name}: {unknown[0]!r} is none of {', '.join(OF_SOME)}")
        if not isinstance(self.summary, str) or not isinstance(self.paper, str | None):
            raise ValueError(f"summary and paper of {self.name} are not text")
        self.sentence([0])

    @property
    def name_in_plans(self) -> str:
        return self.older_name or self.name

    def staying(self, layers: int) -> list[int]:
        """Of a model's layers, those that it never takes out."""
        first, last = self.stays
        return [layer for layer in range(layers) if layer < first or layer >= layers - last]

    def sentence(self, layers: list[int], *, reading: bool = False) -> str:
        """What it did to these layers, from the lowest up. reading: in what they read alone."""
        several = "s" if len(layers) > 1 else ""
        names = {
            "layers": f"layer{several} {', '.join(map(str, layers))}",
            "matrices": "matrices" if several else "matrix",
            "first": layers[0],
        }
        try:
            return (self.did_reading or self.did if reading else self.did).format(**names)
        except LookupError as error:
            raise ValueError(f"did of {self.name} takes {', '.join(names)}, not {error}") from error
