"""`lowrise export`: a folder as a GGUF file, proven, then put in its place in one step."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lowrise.engines import llama_cpp
from lowrise.engines.gguf_answers import Compared, compare_answers
from lowrise.engines.gguf_checks import Type, check_export, find_converter
from lowrise.engines.gguf_converter import convert
from lowrise.engines.gguf_export import Content, content
from lowrise.engines.gguf_file import open_gguf
from lowrise.engines.gguf_origin import Origin, origin
from lowrise.engines.gguf_proof import known_parameters, matches_folder, opens_alike, read_back
from lowrise.engines.gguf_tensors import UnknownArchitectureError
from lowrise.engines.llama_cpp import EngineError, ask
from lowrise.errors import InputError, ModelError, OutputError, close_paths
from lowrise.files import held, output_file, writing
from lowrise.model.source import OpenModel, open_model
from lowrise.progress import Reporter


@dataclass(frozen=True)
class Exported:
    """file: what was written. base: the GGUF file it was cut from; None: `converter` made it. layers: of the base, that
    were kept. copied: tensors by the base's own bytes. written: the others by GGML's name of their format, and how many
    of each. changed: of those, the ones that the model holds otherwise than the base. fields: metadata that are not the
    base's.

    read_back: every field and tensor was read back and compared. transformers: it opens the file, and its states are
    those of the folder's stack; where it does not read such files, `unread` says why. llama_cpp: its answers beside
    those of transformers, where it is at hand and reads such models.
    """

    file: str
    base: str | None
    converter: str | None
    layers: list[int] | None
    copied: int
    written: dict[str, int]
    changed: list[str]
    fields: list[str]
    read_back: bool
    transformers: bool
    unread: str | None
    llama_cpp: Compared | None

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    def sentences(self) -> list[str]:
        """What was made, and which proof there is of it."""
        formats = ", ".join(f"{count} in {kind}" for kind, count in sorted(self.written.items()))
        if self.base is not None and self.layers is not None:
            made = [f"cut from {self.base}: {len(self.layers)} layers, {self.copied} tensors by their own bytes"]
            made += [f"{formats} ({len(self.changed)} changed)"] if formats else []
            about = ", ".join(made)
        else:
            about = f"made by {self.converter}: {formats}"
        proofs = ["every field and tensor read back"] if self.read_back else []
        proofs += ["transformers opens it to the same states"] if self.transformers else []
        engine = self.llama_cpp
        if engine is not None:
            proofs.append(
                f"llama.cpp ({engine.engine}) writes {engine.equal} of {engine.tokens} greedy tokens alike, "
                f"{engine.texts_equal} of {engine.prompts} texts{_parted(engine)}, "
                f"first log-probabilities off by {engine.first:.2g}"
            )
        lacking = [] if engine is not None else ["no answer of llama.cpp was compared"]
        lacking += [f"transformers does not read it: {self.unread}"] if self.unread else []
        return [about, "; ".join([f"proven: {', '.join(proofs)}" if proofs else "not proven", *lacking])]


def export(
    folder: Path,
    out: Path,
    *,
    wanted: Type = "auto",
    everything: bool = False,
    base: Path | None = None,
    converter: Path | None = None,
    force: bool = False,
    progress: Reporter,
) -> Exported:
    """Write `folder`, an output of lowrise or another checkpoint, as the GGUF file `out`.

    One that was cut from a GGUF file becomes a cut of that file; any other goes through llama.cpp's converter, as does
    one for which `converter` is named. wanted: the format of matrices that changed, with `everything` of all matrices;
    auto: as in the base if that is F32, F16, BF16 or Q8_0, else Q8_0. base: where that file is now.
    Raises InputError for what cannot be written, ProofError where the file read back is not what it is to be.
    """
    check_export(out, [folder, base], wanted, everything, force)
    if not folder.is_dir():
        raise ModelError(folder, "a model folder", "none there", close_paths(folder, "check the path"))
    with held(out):
        made_from = None if converter is not None else origin(folder, base)
        if made_from is not None:
            _check_other(out, made_from.base.path)
            return _cut(folder, out, made_from, wanted, everything, force, progress)
        for option, given in (("--base", base is not None), ("--all", everything)):
            if given:
                found = f"{folder}, which llama.cpp's converter writes"
                raise InputError(option, "a folder that was cut from a GGUF file", found, "leave it out")
        return _converted(folder, out, find_converter(converter), wanted, force, progress)


def _parted(engine: Compared) -> str:
    """Of the answers that go another way: at a tie, or by how much."""
    return f" (the others part by {max(engine.parted):.2g} at most)" if engine.parted else ""


def _cut(
    folder: Path, out: Path, made_from: Origin, wanted: Type, everything: bool, force: bool, progress: Reporter
) -> Exported:
    opened = _opened(folder, progress)
    planned = content(opened, made_from, wanted, everything, progress)
    with output_file(out, force) as file:
        with progress.stage("write"), writing(out):
            planned.write(file)
        with progress.stage("read back"):
            written = open_gguf(file)
            read_back(written, planned)
        with progress.stage("open by transformers"):
            known = known_parameters(planned)
            exact = all(one.kind == "F32" for one in planned.tensors)
            made = _about(out, planned)
            del planned
            theirs = opens_alike(written, opened, known)
        with progress.stage("llama.cpp"):
            answers = _answers(file, theirs, exact, made_from.base.path)
    return Exported(**made, read_back=True, transformers=True, unread=None, llama_cpp=answers)


def _converted(folder: Path, out: Path, converter: Path, wanted: Type, force: bool, progress: Reporter) -> Exported:
    opened = _opened(folder, progress)
    unread, theirs, matched = None, None, False
    with output_file(out, force) as file:
        with progress.stage(converter.name), writing(out):
            convert(converter, folder, file, wanted)
        written = open_gguf(file)
        kinds = Counter(tensor.kind for tensor in written.header.tensors.values())
        exact = set(kinds) == {"F32"}
        with progress.stage("read back"):
            try:
                matches_folder(written, opened)
                matched = True
                theirs = opens_alike(written, opened, None)
            except UnknownArchitectureError as error:
                unread = str(error)
        with progress.stage("llama.cpp"):
            answers = None if theirs is None else _answers(file, theirs, exact, None)
    if not matched and answers is None:
        progress.warn(f"{out} is whole, but nothing in it was compared with {folder}")
    return Exported(
        file=str(out), base=None, converter=converter.name, layers=None, copied=0, written=dict(kinds), changed=[],
        fields=[], read_back=matched, transformers=theirs is not None, unread=unread, llama_cpp=answers,
    )  # fmt: skip


def _opened(folder: Path, progress: Reporter) -> OpenModel:
    with progress.stage("open"):
        return open_model(str(folder), device="cpu")


def _about(out: Path, planned: Content) -> dict[str, Any]:
    """Fields of `Exported` that say what was written."""
    rewritten = [one for one in planned.tensors if not one.copied]
    return {
        "file": str(out),
        "base": str(planned.origin.base.path),
        "converter": None,
        "layers": list(planned.origin.kept),
        "copied": len(planned.tensors) - len(rewritten),
        "written": dict(Counter(one.kind for one in rewritten)),
        "changed": [one.name for one in rewritten if one.held is not None],
        "fields": planned.changed_fields,
    }


def _answers(file: Path, theirs: OpenModel, exact: bool, base: Path | None) -> Compared | None:
    """None where llama.cpp is not at hand, or does not open the base either."""
    if not llama_cpp.is_there():
        return None

    def on_base() -> None:
        if base is not None:
            ask(base, [[0]], 1)

    try:
        return compare_answers(file, theirs, exact, on_base)
    except EngineError:
        return None


def _check_other(out: Path, base: Path) -> None:
    if out.exists() and base.exists() and out.samefile(base):
        raise OutputError(out, "a place that nothing else needs", "the file that it was cut from", "choose another")
