"""Folders that were cut from a GGUF file, as GGUF files again: what is copied, what is written, what is refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import lowrise
import made_gguf
import tiny
from lowrise.engines.gguf_fields import cut_fields
from lowrise.engines.gguf_file import open_gguf, write_gguf
from lowrise.errors import InputError, ModelError, ProofError
from refusals import Main, assert_one_line

# The layers that go: of Gemma-3 such that those that stay see as far as their new numbers say.
GONE = {"llama": [1, 3], "qwen2": [0, 4], "gemma3": [2, 5], "gpt2": [1, 2], "qwen3moe": [1, 4]}
SWAPPED = [0, 3, 4]
"""Of Gemma-3, whose full layer is the last: it comes to lie where readers take a sliding one."""

# Of every family, a matrix whose rows transformers reorders, one that it takes as it is, and a norm.
CHANGED = {
    "llama": ("self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj", "input_layernorm"),
    "qwen2": ("self_attn.q_proj", "mlp.down_proj", "input_layernorm"),
    "gemma3": ("self_attn.q_proj", "mlp.down_proj", "post_feedforward_layernorm", "self_attn.q_norm"),
    "gpt2": ("attn.c_attn", "mlp.c_proj", "ln_1"),
    "qwen3moe": ("self_attn.q_proj", "input_layernorm"),
}
STACK = {"gpt2": "transformer.h"}


def names_of(kind: str, layer: int = 1) -> list[str]:
    return [f"{STACK.get(kind, 'model.layers')}.{layer}.{name}.weight" for name in CHANGED[kind]]


def opened(file: Path) -> Any:
    """By transformers alone; matrices that it leaves transposed in memory would round otherwise."""
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()
    return model


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(tiny.ids(tokens=30)).logits
    return found


def folder_logits(folder: Path) -> torch.Tensor:
    return logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())


Cut = Callable[..., tuple[Path, Path]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Cut:
    """A base file and the folder cut from it, made once each; tests must not change them."""
    known: dict[tuple[Any, ...], tuple[Path, Path]] = {}

    def make(kind: str, matrices: str, **more: Any) -> tuple[Path, Path]:
        key = (kind, matrices, *more)
        if key not in known:
            place = tmp_path_factory.mktemp("gguf")
            base = made_gguf.save_gguf(place / "base.gguf", kind, matrices, **more)
            known[key] = base, made_gguf.cut(base, place / "folder", GONE[kind])
        return known[key]

    return make


@pytest.fixture
def cut(made: Cut, tmp_path: Path) -> Cut:
    """The same, of a kind and a format of its matrices, as copies of the test's own."""

    def copies(kind: str = "llama", matrices: str = "F32", **more: Any) -> tuple[Path, Path]:
        return made_gguf.copied(*made(kind, matrices, **more), tmp_path)

    return copies


def expected_tensors(base: gguf.GGUFReader, gone: list[int]) -> dict[str, tuple[Any, ...]]:
    """Those of the layers that stay, under their new numbers."""
    kept = {old: new for new, old in enumerate(layer for layer in range(tiny.LAYERS) if layer not in gone)}
    found = {}
    for name, content in made_gguf.raw(base).items():
        first, number, *rest = name.split(".")
        if first != "blk":
            found[name] = content
        elif int(number) in kept:
            found[".".join([first, str(kept[int(number)]), *rest])] = content
    return found


class TestACut:
    @pytest.mark.parametrize(
        ("kind", "matrices"),
        [
            ("llama", "F32"),
            ("llama", "Q4_0"),
            ("qwen2", "Q8_0"),
            ("gemma3", "Q5_1"),
            ("gpt2", "F16"),
            ("qwen3moe", "F32"),
        ],
    )
    def test_keeps_every_tensor_and_field_but_the_number_of_layers(
        self, cut: Cut, tmp_path: Path, kind: str, matrices: str
    ) -> None:
        base, folder = cut(kind, matrices)
        made = lowrise.export(folder, tmp_path / "cut.gguf")
        before, after = made_gguf.read(base), made_gguf.read(tmp_path / "cut.gguf")
        assert list(made_gguf.raw(after).items()) == list(expected_tensors(before, GONE[kind]).items())
        count = f"{made_gguf.KINDS[kind].architecture}.block_count"
        fields = made_gguf.contents(before)
        fields[count] = ([gguf.GGUFValueType.UINT32], 4)
        assert list(made_gguf.contents(after).items()) == list(fields.items())
        assert (made.written, made.changed, made.fields) == ({}, [], [count])
        own, read = (
            AutoModelForCausalLM.from_pretrained(folder).state_dict(),
            opened(tmp_path / "cut.gguf").state_dict(),
        )
        assert own.keys() == read.keys()  # the folder's norms are in float16 too, where the file's matrices are
        assert all(torch.equal(value, read[name].to(value.dtype)) for name, value in own.items())

    @pytest.mark.parametrize("kind", CHANGED)
    def test_what_changed_is_written_as_transformers_reads_it(self, cut: Cut, tmp_path: Path, kind: str) -> None:
        base, folder = cut(kind)
        made_gguf.change(folder, *names_of(kind))
        made = lowrise.export(folder, tmp_path / "cut.gguf")
        assert len(made.changed) == len(CHANGED[kind])
        own, read = (
            AutoModelForCausalLM.from_pretrained(folder).state_dict(),
            opened(tmp_path / "cut.gguf").state_dict(),
        )
        assert own.keys() == read.keys()
        for name, value in own.items():  # a norm's weight is stored with one more, which rounds it
            assert torch.allclose(value, read[name], rtol=0, atol=2e-7 if "norm" in name else 0), name
        untouched = expected_tensors(made_gguf.read(base), GONE[kind])
        for name, content in made_gguf.raw(made_gguf.read(tmp_path / "cut.gguf")).items():
            assert (content == untouched[name]) is (name not in made.changed), name

    def test_experts_of_which_one_half_changed(self, cut: Cut, tmp_path: Path) -> None:
        """Gate and up lie in one parameter: the tensor of the other half keeps its bytes."""
        _, folder = cut("qwen3moe", "Q8_0")
        state = AutoModelForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            state.model.layers[1].mlp.experts.gate_up_proj[:, 768:] += 0.01
        state.save_pretrained(folder)
        made = lowrise.export(folder, tmp_path / "cut.gguf", type="f32")
        assert made.changed == ["blk.1.ffn_up_exps.weight"]
        own, read = state.state_dict(), opened(tmp_path / "cut.gguf").state_dict()
        assert torch.equal(
            own["model.layers.1.mlp.experts.gate_up_proj"], read["model.layers.1.mlp.experts.gate_up_proj"]
        )

    def test_of_a_cut_is_one_of_the_first_file(self, cut: Cut, tmp_path: Path) -> None:
        base, folder = cut("llama")
        again = made_gguf.cut(folder, tmp_path / "again", [1])  # layer 2 of the file: 0, 2, 4, 5 are there
        made = lowrise.export(again, tmp_path / "cut.gguf")
        assert made.layers == [0, 4, 5]
        expected = expected_tensors(made_gguf.read(base), [1, 2, 3])
        assert made_gguf.raw(made_gguf.read(tmp_path / "cut.gguf")) == expected

    def test_merged_layers_are_written_anew_in_the_place_of_the_first(self, tmp_path: Path) -> None:
        base = made_gguf.save_gguf(tmp_path / "base.gguf")
        model = lowrise.open(base, device="cpu")
        edits = [{"kind": "merge", "start": 2, "stop": 4, "rule": "mean"}]
        plan = lowrise.plan(model, lowrise.tokens(tiny.ids()), layers=[2]).model_dump() | {
            "edits": edits,
            "layers_after": 5,
            "settings": None,
        }
        lowrise.apply(model, lowrise.Plan.model_validate(plan | {"scores": {}})).save(tmp_path / "folder")
        made = lowrise.export(tmp_path / "folder", tmp_path / "cut.gguf")
        assert made.layers == [0, 1, 2, 4, 5]
        assert len(made.changed) == 7  # all matrices of one layer; norms stay
        assert {name.split(".")[1] for name in made.changed} == {"2"}
        assert torch.equal(logits(opened(tmp_path / "cut.gguf")), folder_logits(tmp_path / "folder"))

    def test_of_a_file_aligned_otherwise(self, cut: Cut, tmp_path: Path) -> None:
        _, folder = cut("llama", alignment=128)
        lowrise.export(folder, tmp_path / "cut.gguf")
        assert all(one.data_offset % 128 == 0 for one in made_gguf.read(tmp_path / "cut.gguf").tensors)


class TestTypes:
    @pytest.mark.parametrize(
        ("wanted", "before", "kind"),
        [
            ("auto", "Q4_0", "Q8_0"),
            ("auto", "F16", "F16"),
            ("auto", "F32", "F32"),
            ("f32", "Q4_0", "F32"),
            ("f16", "Q4_0", "F16"),
            ("bf16", "Q4_0", "BF16"),
            ("q8_0", "F32", "Q8_0"),
        ],
    )
    def test_of_changed_matrices(self, cut: Cut, tmp_path: Path, wanted: Any, before: str, kind: str) -> None:
        _, folder = cut("llama", before)
        name = "model.layers.1.mlp.down_proj.weight"
        ours = made_gguf.change(folder, name, "model.layers.1.input_layernorm.weight")[name].float().numpy()
        lowrise.export(folder, tmp_path / "cut.gguf", type=wanted)
        found = {one.name: one for one in made_gguf.read(tmp_path / "cut.gguf").tensors}
        written = found["blk.1.ffn_down.weight"]
        assert written.tensor_type.name == kind
        assert found["blk.1.attn_norm.weight"].tensor_type.name == "F32"
        numbers = gguf.dequantize(written.data, written.tensor_type)
        if kind == "Q8_0":
            step = np.abs(ours.reshape(-1, 32)).max(axis=1, keepdims=True) / 127
            assert (
                np.abs((numbers - ours).reshape(-1, 32)) <= 0.57 * step
            ).all()  # half a step, and a scale in float16
            return
        dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
        assert np.array_equal(numbers, torch.from_numpy(ours).to(dtype).float().numpy())

    def test_all_matrices(self, cut: Cut, tmp_path: Path) -> None:
        base, folder = cut("llama", "Q4_0", general__file_type=(2, "UINT32"))
        made = lowrise.export(folder, tmp_path / "cut.gguf", type="f32", all=True)
        after = made_gguf.read(tmp_path / "cut.gguf")
        assert {one.tensor_type.name for one in after.tensors} == {"F32"}
        assert made.fields == ["general.file_type", "llama.block_count"] or set(made.fields) == {
            "general.file_type", "llama.block_count"
        }  # fmt: skip
        assert after.fields["general.file_type"].contents() == 0
        assert torch.equal(logits(opened(tmp_path / "cut.gguf")), folder_logits(folder))
        assert made_gguf.read(base).fields["general.file_type"].contents() == 2

    def test_rows_that_no_block_fits_are_of_16_bits(self) -> None:
        """Experts apart, rows of 48 numbers do not fill blocks of 32."""
        from lowrise.engines.gguf_types import kind_for

        assert kind_for("blk.0.ffn_down.weight", (64, 48), "Q4_0", "auto") == "F16"
        assert kind_for("blk.0.ffn_gate_inp.weight", (4, 64), "F32", "q8_0") == "F32"
        assert kind_for("blk.0.ssm_a", (64, 16), "F32", "f16") == "F32"

    def test_numbers_that_a_float16_cannot_hold(self, cut: Cut, tmp_path: Path) -> None:
        _, folder = cut("llama")
        from safetensors.torch import load_file, save_file

        state = load_file(folder / "model.safetensors")
        state["model.layers.1.mlp.down_proj.weight"][0, 0] = 1e5
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match=r"blk\.1\.ffn_down\.weight: .*F16.*1e\+05; say --type bf16"):
            lowrise.export(folder, tmp_path / "cut.gguf", type="f16")
        assert not (tmp_path / "cut.gguf").exists()
        lowrise.export(folder, tmp_path / "cut.gguf", type="bf16")


class TestFields:
    """Of a file of 6 layers, of which 0, 1, 2 and 5 stay."""

    KEPT = (0, 1, 2, 5)

    def value(self, tmp_path: Path, name: str, type_name: str, value: Any) -> Any:
        """A field of the cut, as a reader of the file sees it."""
        base = open_gguf(made_gguf.save_gguf(tmp_path / "base.gguf", "llama", **{f"llama__{name}": (value, type_name)}))
        write_gguf(tmp_path / "cut.gguf", cut_fields(base, self.KEPT), [], 32)
        return made_gguf.read(tmp_path / "cut.gguf").fields[f"llama.{name.replace('__', '.')}"].contents()

    @pytest.mark.parametrize(
        ("name", "type_name", "before", "after"),
        [
            ("leading_dense_block_count", "UINT32", 2, 2),
            ("leading_dense_block_count", "UINT32", 4, 3),
            ("attention__shared_kv_layers", "UINT32", 3, 1),
            ("interleave_moe_layer_step", "UINT32", 1, 1),
            ("full_attention_interval", "UINT32", 7, 7),
            ("nextn_predict_layers", "UINT32", 0, 0),
            ("attention__sliding_window_pattern", "ARRAY", [True, False, True, False, False, False],
             [True, False, True, False]),
            ("rope__dimension_sections", "ARRAY", [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]),
            ("swiglu_clamp_exp", "ARRAY", [0.5, 1.5, 2.5, 3.5, 4.5, 5.5], [0.5, 1.5, 2.5, 5.5]),
            ("some_list", "ARRAY", [1, 2, 3], [1, 2, 3]),
        ],
    )  # fmt: skip
    def test_follow_the_layers(self, tmp_path: Path, name: str, type_name: str, before: Any, after: Any) -> None:
        assert self.value(tmp_path, name, type_name, before) == after

    @pytest.mark.parametrize(
        ("name", "type_name", "value", "says"),
        [
            ("full_attention_interval", "UINT32", 3, "llama.full_attention_interval"),
            ("nextn_predict_layers", "UINT32", 1, "llama.nextn_predict_layers"),
            ("some_list", "ARRAY", [1, 2, 3, 4, 5, 6], "llama.some_list, a list of 6 entries"),
            ("feed_forward_length", "ARRAY", ["a", "b", "c", "d", "e", "f"], "a list of another kind"),
        ],
    )
    def test_that_cannot_follow_are_refused(
        self, tmp_path: Path, name: str, type_name: str, value: Any, says: str
    ) -> None:
        with pytest.raises(ModelError, match=says):
            self.value(tmp_path, name, type_name, value)

    def test_empty_lists_stay(self, tmp_path: Path) -> None:
        """Which neither the gguf package's writer nor its reader knows."""
        base = open_gguf(made_gguf.save_gguf(tmp_path / "base.gguf"))
        empty = struct.pack("<Q3sIIQ", 3, b"a.b", 9, 8, 0)
        fields = {"a.b": empty, **{key: b"".join(base.field(key)) for key in base.header.places}}
        write_gguf(tmp_path / "more.gguf", fields, [], 32)
        again = open_gguf(tmp_path / "more.gguf")
        assert again.header.metadata["a.b"] == []
        assert cut_fields(again, self.KEPT)["a.b"] == empty


class TestRefusals:
    def test_kinds_that_readers_take_from_the_number(self, tmp_path: Path) -> None:
        """Layer 5 of Gemma-3, the one that sees far, would be taken for one with a sliding window."""
        base = made_gguf.save_gguf(tmp_path / "base.gguf", "gemma3")
        folder = made_gguf.cut(base, tmp_path / "folder", SWAPPED)
        with pytest.raises(ModelError, match="full_attention as layer 2, found sliding_attention by its number"):
            lowrise.export(folder, tmp_path / "cut.gguf")
        assert [one.name for one in tmp_path.iterdir() if "cut" in one.name] == []

    def test_a_parameter_that_the_file_has_no_tensor_for(self, tmp_path: Path, cut: Cut) -> None:
        """A head that is no longer the embedding's matrix."""
        _, folder = cut("gemma3")
        model = AutoModelForCausalLM.from_pretrained(folder)
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() * 2)
        model.save_pretrained(folder)
        with pytest.raises(ModelError, match=r"found lm_head\.weight"):
            lowrise.export(folder, tmp_path / "cut.gguf")

    def test_a_reading_that_cannot_be_turned_round(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from transformers import modeling_gguf_pytorch_utils as reading

        class Squared(reading.TensorProcessor):
            def process(self, weights: Any, name: str, **_more: Any) -> Any:
                return reading.GGUFTensor(weights**2 if "ffn_down" in name else weights, name, {})

        monkeypatch.setitem(reading.TENSOR_PROCESSORS, "qwen2", Squared)
        folder = made_gguf.cut(made_gguf.save_gguf(tmp_path / "base.gguf", "qwen2"), tmp_path / "folder", [0, 4])
        lowrise.export(folder, tmp_path / "untouched.gguf")
        made_gguf.change(folder, "model.layers.1.mlp.down_proj.weight")
        with pytest.raises(ModelError, match=r"blk\.1\.ffn_down\.weight: .*can be turned round"):
            lowrise.export(folder, tmp_path / "cut.gguf")

    def test_a_file_that_is_not_what_was_written(
        self, cut: Cut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from lowrise.engines import gguf_export

        _, folder = cut("llama")
        made_gguf.change(folder, "model.layers.1.mlp.down_proj.weight")
        monkeypatch.setattr(gguf_export, "encoded", lambda numbers, _kind: (numbers * 1.001).view(np.uint8))
        with pytest.raises(ProofError, match=r"blk\.1\.ffn_down\.weight read back"):
            lowrise.export(folder, tmp_path / "cut.gguf")
        assert not (tmp_path / "cut.gguf").exists()

    def test_networks(self, tmp_path: Path, cut: Cut) -> None:
        _, folder = cut("llama")
        file = folder / "lowrise" / "plan.json"
        plan = json.loads(file.read_text())
        network = {"kind": "replace", "start": 1, "stop": 3, "network": "ffn", "form": "paper"}
        plan |= {"edits": [network], "layers_after": 5, "loads_plainly": False}
        file.write_text(json.dumps(plan))
        with pytest.raises(ModelError, match="decoder layers alone"):
            lowrise.export(folder, tmp_path / "cut.gguf")


class TestCommand:
    def test_says_what_it_wrote_and_which_proof_there_is(self, cut: Cut, tmp_path: Path, main: Main) -> None:
        base, folder = cut("llama", "Q4_0")
        made_gguf.change(folder, "model.layers.1.mlp.down_proj.weight")
        status, out, err = main("export", folder, "--gguf", tmp_path / "cut.gguf", "--quiet")
        assert (status, err) == (0, "")
        assert f"cut from {base}: 4 layers, 38 tensors by their own bytes, 1 in Q8_0 (1 changed)" in out
        assert "every field and tensor read back" in out
        assert f"written to {tmp_path / 'cut.gguf'}" in out
        status, out, _ = main("export", folder, "--gguf", tmp_path / "cut.gguf", "--quiet", "--json", "--force")
        assert status == 0
        found = json.loads(out)
        assert found["changed"] == ["blk.1.ffn_down.weight"]
        assert (found["read_back"], found["transformers"]) == (True, True)

    def test_where_the_base_is_gone_moved_or_another(self, cut: Cut, tmp_path: Path, main: Main) -> None:
        base, folder = cut("llama")
        place = base.rename(tmp_path / "moved.gguf")
        out = tmp_path / "cut.gguf"
        said = ["export", folder, "--gguf", out, "--quiet"]
        assert_one_line(*main(*said), (base, "nothing there", "--base"))
        made_gguf.save_gguf(base, "llama", "Q8_0")
        assert_one_line(*main(*said), (base, "another file, by its sha256", "--base"))
        assert_one_line(*main(*said, "--base", tmp_path / "none.gguf"), ("none.gguf", "nothing there"))
        status, _, err = main(*said, "--base", place)
        assert (status, err) == (0, "")

    def test_never_over_what_is_there(self, cut: Cut, tmp_path: Path, main: Main) -> None:
        base, folder = cut("llama")
        before, out = base.read_bytes(), tmp_path / "cut.gguf"
        out.write_bytes(b"GGUF and something")
        said = ["export", folder, "--quiet", "--gguf"]
        assert_one_line(*main(*said, out), (out, "does not exist yet", "--force"))
        assert_one_line(*main(*said, base, "--force"), (base, "that it was cut from"))
        assert_one_line(*main(*said, folder / "model.safetensors", "--force"), ("ends in .gguf",))
        (tmp_path / "notes.gguf").write_text("mine")
        assert_one_line(*main(*said, tmp_path / "notes.gguf", "--force"), ("lowrise did not write",))
        assert out.read_bytes() == b"GGUF and something"
        assert base.read_bytes() == before
        status, _, err = main(*said, out, "--force")
        assert (status, err) == (0, "")
        assert len(made_gguf.read(out).tensors) == 39

    @pytest.mark.parametrize(("at", "says"), [(10, "bytes"), (2000, "in 2000 bytes"), (-100, "cut short")])
    def test_a_base_that_is_cut_short(self, cut: Cut, tmp_path: Path, main: Main, at: int, says: str) -> None:
        base, folder = cut("llama")
        base.write_bytes(base.read_bytes()[:at])
        said = main("export", folder, "--gguf", tmp_path / "cut.gguf", "--quiet")
        assert_one_line(*said, (base, "a GGUF file that is whole", says))

    @pytest.mark.parametrize(
        ("more", "says"),
        [
            (["--type", "q4_0"], ("--type", "q8_0")),
            (["--all"], ("--all", "--type")),
            (["--converter", "none.py"], ("none.py", "convert_hf_to_gguf.py", "no file")),
        ],
    )
    def test_options_that_cannot_be(
        self, cut: Cut, tmp_path: Path, main: Main, more: list[str], says: tuple[str, ...]
    ) -> None:
        _, folder = cut("llama")
        assert_one_line(*main("export", folder, "--gguf", tmp_path / "cut.gguf", "--quiet", *more), says)
        assert not (tmp_path / "cut.gguf").exists()

    def test_no_folder(self, tmp_path: Path, main: Main) -> None:
        assert_one_line(*main("export", tmp_path / "none", "--gguf", tmp_path / "a.gguf", "--quiet"), ("none there",))

    def test_run_and_apply_write_it_too(self, tmp_path: Path, text_file: Path, main: Main) -> None:
        base = made_gguf.save_gguf(tmp_path / "base.gguf")
        quick = ["--text", text_file, "--device", "cpu", "--quiet"]
        ran, applied = tmp_path / "ran", tmp_path / "applied"
        status, _, err = main(
            "run", base, "--preset", "given", "--layers", "2,3", "--samples", 8, "--length", 32, *quick,
            "--out", ran, "--gguf", ran / "model.gguf",
        )  # fmt: skip
        assert (status, err) == (0, "")
        plan = ran / "lowrise" / "plan.json"
        status, _, err = main("apply", base, plan, "--quiet", "--out", applied, "--gguf", tmp_path / "applied.gguf")
        assert (status, err) == (0, "")
        expected = expected_tensors(made_gguf.read(base), [2, 3])
        for file in (ran / "model.gguf", tmp_path / "applied.gguf"):
            assert made_gguf.raw(made_gguf.read(file)) == expected

    def test_run_refuses_at_once_what_export_would_refuse(
        self, tmp_path: Path, text_file: Path, tiny_folder: Path, main: Main, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        base = made_gguf.save_gguf(tmp_path / "base.gguf")
        said = ["--remove", 2, "--text", text_file, "--quiet", "--out", tmp_path / "out", "--gguf"]
        network = ["--preset", "streamline-ffn"]
        assert_one_line(*main("run", base, *network, *said, tmp_path / "a.gguf"), ("--gguf", "streamline-ffn"))
        assert_one_line(*main("run", base, *said, tmp_path / "a.bin"), ("ends in .gguf",))
        assert_one_line(*main("run", base, *said, base, "--force"), (base,))
        assert_one_line(*main("run", tiny_folder, *said, tmp_path / "a.gguf"), ("--converter", "PATH"))
        assert not (tmp_path / "out").exists()


def test_the_result_is_one_error_line_for_a_folder_that_is_no_cut(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--converter"):
        lowrise.export(tiny_folder, tmp_path / "a.gguf", converter=tmp_path / "none.py")


def test_a_model_that_came_as_gguf_takes_another_number_format(tmp_path: Path) -> None:
    """As healing in place asks of it: nothing of the file's own formats is left in the model."""
    model = lowrise.open(tiny.save_gguf(tmp_path / "model.gguf"), device="cpu").hf_model
    assert {parameter.dtype for parameter in model.to(torch.bfloat16).float().parameters()} == {torch.float32}
