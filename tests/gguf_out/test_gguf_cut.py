"""Folders that were cut from a GGUF file, as GGUF files again: what is copied, and what is written."""

from __future__ import annotations

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
from lowrise.errors import ModelError
from made_gguf import GONE, Cut, expected_tensors

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
