"""Weight files that are cut, missing, unsafe or not finite."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import made_gguf
import tiny
from refusals import PLAIN, Main, Refused, copied, edit_config


def shards(folder: Path) -> Path:
    """The checkpoint's weights in two files and an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {
        "model-00001-of-00002.safetensors": names[: len(names) // 2],
        "model-00002-of-00002.safetensors": names[len(names) // 2 :],
    }
    for file, held in halves.items():
        save_file({name: tensors[name] for name in held}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, held in halves.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


class TestWeights:
    @pytest.fixture
    def folder(self, tmp_path: Path, tiny_folder: Path) -> Path:
        return copied(tmp_path / "model", tiny_folder)

    def test_only_pickled(self, run_refused: Refused, folder: Path) -> None:
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        run_refused(model=folder, says=(folder, "safetensors", "pickled", "pytorch_model.bin", "--allow-pickle"))

    def test_pickled_garbage_that_was_allowed(self, run_refused: Refused, folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(b"garbage" * 100)
        run_refused("--allow-pickle", model=folder, says=(folder,))

    def test_a_pickle_that_runs_code_does_not_run_it(self, run_refused: Refused, folder: Path, tmp_path: Path) -> None:
        (folder / "model.safetensors").unlink()
        attack = f"cbuiltins\nopen\n(V{tmp_path / 'ran'}\nVw\ntR.".encode()
        (folder / "pytorch_model.bin").write_bytes(attack)
        run_refused(model=folder, says=("pickled",))
        run_refused("--allow-pickle", model=folder, says=(folder,))
        assert not (tmp_path / "ran").exists()

    def test_none(self, run_refused: Refused, folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        run_refused(model=folder, says=(folder, "safetensors weights", "no weight file"))

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    @pytest.mark.parametrize("name", ["model.layers.3.mlp.up_proj.weight", "model.embed_tokens.weight"])
    def test_not_finite(self, run_refused: Refused, folder: Path, value: float, name: str) -> None:
        """One entry is enough, and the parameter, so the layer, is named."""
        tensors = load_file(folder / "model.safetensors")
        tensors[name][-1, -1] = value
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        run_refused(model=folder, says=(folder, "finite weights", f"NaN or Inf in {name}"))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_not_finite_in_half_precision(self, run_refused: Refused, folder: Path, dtype: torch.dtype) -> None:
        name = "model.layers.5.self_attn.o_proj.weight"
        tensors = {key: value.to(dtype) for key, value in load_file(folder / "model.safetensors").items()}
        tensors[name][0, 0] = float("inf")
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        run_refused(model=folder, says=(f"NaN or Inf in {name}",))

    @pytest.mark.parametrize("keep", [0, 4, 8, 100, 5000, -1])
    def test_cut_short(self, run_refused: Refused, folder: Path, keep: int) -> None:
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:keep])
        run_refused(model=folder, says=(file, "a whole safetensors file", "bytes"))

    @pytest.mark.parametrize(
        "content",
        [
            b"garbage" * 1000,
            struct.pack("<Q", 2**63),
            struct.pack("<Q", 2) + b"[]",
            struct.pack("<Q", 8) + b"not json",
            struct.pack("<Q", 13) + b'{"x": "none"}',
            struct.pack("<Q", 2) + b"\xff\xfe",
            struct.pack("<Q", 2) + b"{}",
        ],
        ids=["noise", "huge header", "list", "no JSON", "no offsets", "no text", "no tensors"],
    )
    def test_garbage(self, run_refused: Refused, folder: Path, content: bytes) -> None:
        (folder / "model.safetensors").write_bytes(content)
        run_refused(model=folder, says=(folder,))

    def test_gguf_without_a_tensor(self, run_refused: Refused, tmp_path: Path) -> None:
        file = made_gguf.save_gguf(tmp_path / "model.gguf")
        content = bytearray(file.read_bytes())
        struct.pack_into("<Q", content, 8, 0)  # behind magic and version, the number of tensors
        file.write_bytes(content)
        run_refused(model=file, says=(file, "weights", "without a tensor"))

    def test_longer_than_its_header_says(self, run_refused: Refused, folder: Path) -> None:
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes() + b"more")
        run_refused(model=folder, says=(file, "a whole safetensors file", "bytes where"))

    def test_a_header_that_lies(self, run_refused: Refused, folder: Path) -> None:
        """Offsets that overlap and shapes that do not fit them, in a file of the right length."""
        file = folder / "model.safetensors"
        content = file.read_bytes()
        length = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + length])
        first, second = [name for name in header if name != "__metadata__"][:2]
        header[second]["data_offsets"] = header[first]["data_offsets"]
        raw = json.dumps(header).encode()
        file.write_bytes(struct.pack("<Q", len(raw)) + raw + content[8 + length :])
        run_refused(model=folder, says=(folder, "safetensors"))

    def test_a_tensor_missing(self, run_refused: Refused, folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        del tensors["model.layers.2.mlp.down_proj.weight"]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        run_refused(model=folder, says=(folder, "none for model.layers.2.mlp.down_proj.weight", "1 in all"))

    def test_a_tensor_of_another_shape(self, run_refused: Refused, folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        tensors["model.norm.weight"] = torch.ones(7)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        run_refused(model=folder, says=(folder, "model.norm.weight"))

    def test_a_layer_beyond_the_stack_is_refused(self, run_refused: Refused, folder: Path) -> None:
        edit_config(folder, num_hidden_layers=4, layer_types=None)
        run_refused(model=folder, says=(folder, "weights of the 4 layers", "model.layers.4.", "mend config.json"))

    def test_weights_outside_the_folder(self, run_refused: Refused, folder: Path) -> None:
        (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
        edit_config(folder, transformers_weights="../outside.safetensors")
        run_refused(model=folder, says=(folder, "weights inside the folder"))

    def test_an_adapter_beside_them(self, run_refused: Refused, folder: Path) -> None:
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}), encoding="utf-8")
        run_refused(model=folder, says=(folder, "an adapter beside them (adapter_config.json)", "merge it"))

    def test_a_shard_missing(self, run_refused: Refused, folder: Path) -> None:
        lost = shards(folder) / "model-00002-of-00002.safetensors"
        lost.unlink()
        run_refused(model=folder, says=(lost, "No such file"))

    def test_a_shard_cut_short(self, run_refused: Refused, folder: Path) -> None:
        cut = shards(folder) / "model-00002-of-00002.safetensors"
        cut.write_bytes(cut.read_bytes()[:-10])
        run_refused(model=folder, says=(cut, "a whole safetensors file", "bytes where"))

    @pytest.mark.parametrize(
        "index", ["{", "[]", "3", "{}", '{"weight_map": 3}', '{"weight_map": {"x": 5}}', '{"weight_map": {"x": [5]}}']
    )
    def test_an_index_that_is_none(self, run_refused: Refused, folder: Path, index: str) -> None:
        file = shards(folder) / "model.safetensors.index.json"
        file.write_text(index, encoding="utf-8")
        run_refused(model=folder, says=(file, "an index of weight files"))


@pytest.fixture(scope="module")
def sound_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


class TestGguf:
    def test_the_file_that_these_tests_spoil_is_sound(
        self, main: Main, scratch: Path, place: Path, text_file: Path, sound_gguf: Path
    ) -> None:
        status, _, err = main("run", sound_gguf, *PLAIN, "--text", text_file, "--out", place / "out")
        assert (status, err) == (0, "")
        assert not list(scratch.iterdir())

    @pytest.mark.parametrize("content", [b"", b"GG", b"garbage" * 1000])
    def test_without_magic(self, run_refused: Refused, tmp_path: Path, content: bytes) -> None:
        file = tmp_path / "bad.gguf"
        file.write_bytes(content)
        run_refused(model=file, says=(file, "a GGUF file", "does not begin as GGUF"))

    @pytest.mark.parametrize(
        "rest",
        [b"", b"\x03\0\0\0", b"garbage" * 1000, struct.pack("<IQQ", 3, 0, 0), struct.pack("<IQQ", 99, 1, 1)],
        ids=["magic only", "version only", "noise", "nothing inside", "unknown version"],
    )
    def test_garbage_after_the_magic(self, run_refused: Refused, tmp_path: Path, rest: bytes) -> None:
        file = tmp_path / "bad.gguf"
        file.write_bytes(b"GGUF" + rest)
        run_refused(model=file, says=(file,))

    @pytest.mark.parametrize("keep", [20, 24, 60, 400, 3000, 9000, 12_000, 100_000, -100_000, -64, -1])
    def test_cut_short(self, run_refused: Refused, tmp_path: Path, sound_gguf: Path, keep: int) -> None:
        file = tmp_path / "cut.gguf"
        file.write_bytes(sound_gguf.read_bytes()[:keep])
        run_refused(model=file, says=(file,))
