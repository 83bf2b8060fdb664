"""What cannot be a GGUF file again, and fields that follow the layers."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import lowrise
import made_gguf
from lowrise.engines.gguf_fields import cut_fields
from lowrise.engines.gguf_file import open_gguf, write_gguf
from lowrise.errors import ModelError, ProofError
from made_gguf import Cut

SWAPPED = [0, 3, 4]
"""Of Gemma-3, whose full layer is the last: it comes to lie where readers take a sliding one."""


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
