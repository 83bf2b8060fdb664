"""What a checkpoint folder may hold beside the plain case, and what is read of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import tiny
from lowrise.model.companions import hub_files
from lowrise.model.source import open_model, open_tokenizer
from made_tasks import write_tasks
from refusals import PLAIN, Main, assert_one_line, copied, edit_config

Change = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Path) -> Path:
    return copied(tmp_path / "model", tiny_folder)


def change_weights(folder: Path, change: Change) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def without_dtype(folder: Path) -> None:
    edit_config(folder, dtype=None, torch_dtype=None)


def formats(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", "pt") as weights:
        return {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118


class TestNumberFormat:
    @pytest.mark.parametrize(("dtype", "name"), [(torch.bfloat16, "BF16"), (torch.float16, "F16")])
    def test_of_the_weights_where_the_config_names_none(
        self, main: Main, folder: Path, text_file: Path, tmp_path: Path, dtype: torch.dtype, name: str
    ) -> None:
        change_weights(folder, lambda tensors: {key: value.to(dtype) for key, value in tensors.items()})
        without_dtype(folder)
        out = tmp_path / "out"
        status, _, errors = main("run", folder, *PLAIN, "--text", text_file, "--out", out)
        assert status == 0, errors
        assert formats(out) == {name}
        config = json.loads((out / "config.json").read_text())
        assert config["dtype"] == config["torch_dtype"] == str(dtype).removeprefix("torch.")

    def test_of_most_weights_where_some_differ(self, folder: Path) -> None:
        change_weights(
            folder, lambda tensors: {k: v if v.dim() < 2 else v.to(torch.bfloat16) for k, v in tensors.items()}
        )
        without_dtype(folder)
        assert open_model(str(folder), device="cpu").save_dtype == torch.bfloat16

    def test_of_a_gguf_file(self, tmp_path: Path) -> None:
        half, full = (tiny.save_gguf(tmp_path / f"{dtype}.gguf", dtype) for dtype in (torch.float16, torch.float32))
        assert open_model(str(half), device="cpu").save_dtype == torch.float16
        assert open_model(str(full), device="cpu").save_dtype == torch.float32

    def test_a_gguf_file_is_read_once_and_as_transformers_reads_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """transformers alone reads it three times; afterwards the package is what it was."""
        import gguf

        file, made = tiny.save_gguf(tmp_path / "model.gguf"), []
        plain = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32).state_dict()
        own, begin = (gguf.GGUFReader, gguf.get_tensor_name_map), gguf.GGUFReader.__init__
        monkeypatch.setattr(own[0], "__init__", lambda self, *how: made.append(self) or begin(self, *how))
        opened = open_model(str(file), device="cpu").model.state_dict()
        assert len(made) == 1
        assert (gguf.GGUFReader, gguf.get_tensor_name_map) == own
        assert opened.keys() == plain.keys()
        assert all(torch.equal(value, plain[name]) for name, value in opened.items())

    @pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.float8_e4m3fn])
    def test_weights_that_are_no_floats(self, main: Main, folder: Path, tmp_path: Path, dtype: torch.dtype) -> None:
        name = "model.layers.2.mlp.up_proj.weight"
        change_weights(folder, lambda tensors: {**tensors, name: tensors[name].to(dtype)})
        said = main("measure", folder, "--out", tmp_path / "results.json")
        assert_one_line(*said, (name, "quantise"))


class TestExtraTensors:
    @pytest.mark.parametrize(
        ("name", "extra"),
        [
            ("model.layers.1.self_attn.k_scale", torch.ones(1)),
            ("model.layers.1.self_attn.masked_bias", torch.tensor(-1e9)),
            ("model.layers.1.self_attn.rotary_emb.inv_freq", torch.ones(4)),
            ("model.layers.1.self_attn.bias", torch.ones(4, 4, dtype=torch.bool)),
        ],
    )
    def test_harmless_ones_are_left_out_with_a_note(
        self, main: Main, folder: Path, text_file: Path, tmp_path: Path, name: str, extra: torch.Tensor
    ) -> None:
        change_weights(folder, lambda tensors: {**tensors, name: extra})
        arguments = ["--text", text_file, "--windows", 1, "--length", 32, "--device", "cpu"]
        status, _, errors = main("measure", folder, *arguments, "--out", tmp_path / "results.json", "--quiet")
        assert status == 0, errors
        assert errors == "" or name in errors  # transformers itself never mentions rotary frequencies

    def test_layers_that_predict_further_tokens(
        self, main: Main, folder: Path, text_file: Path, tmp_path: Path
    ) -> None:
        """As DeepSeek-V3 has them behind its stack. They stay behind, and the result says that it has none."""
        extra = f"model.layers.{tiny.LAYERS}.eh_proj.weight"
        change_weights(folder, lambda tensors: {**tensors, extra: torch.ones(4, 4)})
        edit_config(folder, num_nextn_predict_layers=1)
        out = tmp_path / "out"
        status, _, errors = main("run", folder, *PLAIN, "--text", text_file, "--out", out)
        assert status == 0, errors
        assert extra in errors
        assert json.loads((out / "config.json").read_text())["num_nextn_predict_layers"] == 0


class TestFilesThatAreLoaded:
    def test_a_single_file_goes_before_an_index(self, folder: Path) -> None:
        """What lies beside it is neither checked nor hashed."""
        plain = open_model(str(folder), device="cpu").record.sha256
        (folder / "model-00001-of-00001.safetensors").write_bytes(b"cut short")
        index = {"weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
        (folder / "model.fp16.safetensors").write_bytes(b"a variant")
        assert open_model(str(folder), device="cpu").record.sha256 == plain

    def test_the_one_that_the_config_names(self, folder: Path) -> None:
        plain = open_model(str(folder), device="cpu").record.sha256
        (folder / "model.safetensors").rename(folder / "weights.safetensors")
        change = {"transformers_weights": "weights.safetensors"}
        edit_config(folder, **change)
        tiny.model(seed=1).save_pretrained(folder / "other")
        (folder / "other" / "model.safetensors").rename(folder / "model.safetensors")
        assert open_model(str(folder), device="cpu").record.sha256 == plain


@pytest.mark.usefixtures("no_tasks_of_lm_eval")
def test_no_limit_of_positions(main: Main, folder: Path, text_file: Path, tmp_path: Path) -> None:
    """In windows, in what the model writes, and in tasks, which lm-eval cuts to the positions that there are."""
    edit_config(folder, max_position_embeddings=-1)
    tasks = ["--tasks", "made_choice", "--task-dir", write_tasks(tmp_path / "tasks", count=2)]
    status, _, errors = main("run", folder, *PLAIN, *tasks, "--text", text_file, "--out", tmp_path / "out")
    assert status == 0, errors


@pytest.fixture
def sentencepiece_folder(folder: Path) -> Path:
    """A checkpoint whose tokenizer is a tokenizer.model and nothing else."""
    import sentencepiece

    text = folder.parent / "text.txt"
    text.write_text("\n".join(tiny.text(400, seed) for seed in range(20)), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "tokenizer"), vocab_size=tiny.VOCABULARY, model_type="bpe",
        byte_fallback=True, character_coverage=1.0, minloglevel=2, max_sentence_length=100_000,
    )  # fmt: skip
    (folder / "tokenizer.vocab").unlink()
    (folder / "tokenizer.json").unlink()
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    edit_config(folder, bos_token_id=1, eos_token_id=2, pad_token_id=2)
    return folder


def test_a_tokenizer_of_sentencepiece_alone(
    main: Main, sentencepiece_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    import sentencepiece

    out = tmp_path / "out"
    status, _, errors = main("run", sentencepiece_folder, *PLAIN, "--text", text_file, "--out", out)
    assert status == 0, errors
    assert (out / "tokenizer.model").read_bytes() == (sentencepiece_folder / "tokenizer.model").read_bytes()
    known = sentencepiece.SentencePieceProcessor(model_file=str(out / "tokenizer.model"))
    text = "some words"
    assert open_tokenizer(str(out))(text, add_special_tokens=False)["input_ids"] == known.encode(text)


def test_observing_zero_matrices(main: Main, folder: Path, text_file: Path, tmp_path: Path) -> None:
    """As the portable form of a network leaves attention's write."""
    name, out = "self_attn.o_proj.weight", tmp_path / "out"
    zeros = {f"model.layers.{layer}.{name}" for layer in (1, 2)}
    change_weights(folder, lambda tensors: {k: torch.zeros_like(v) if k in zeros else v for k, v in tensors.items()})
    arguments = ["--text", text_file, "--samples", 4, "--length", 32, "--device", "cpu", "--quiet"]
    status, _, errors = main("observe", folder, *arguments, "--out", out)
    assert status == 0, errors
    found: Any = json.loads((out / "observation.json").read_text())["matrices"][name]
    assert found["similarity"][1] is None
    assert [value is None for value in found["cosine"]] == [True, True, True, False, False]
    assert found["distance"][1] == 0


@pytest.mark.parametrize(
    ("name", "fetched"),
    [
        ("model-00001-of-00002.safetensors", (True, True)),
        ("LICENSE.txt", (True, True)),
        ("NOTICE", (True, True)),
        ("tokenizer.model", (True, True)),
        ("chat_template.jinja", (True, True)),
        ("adapter_config.json", (True, True)),
        ("modeling_own.py", (False, True)),
        ("pytorch_model.bin", (False, False)),
        ("consolidated.00.pth", (False, False)),
        ("model.gguf", (False, False)),
    ],
)
def test_files_that_are_fetched_from_the_hub(name: str, fetched: tuple[bool, bool]) -> None:
    """Without and with --trust-remote-code, and never pickles."""
    from huggingface_hub.utils import filter_repo_objects

    kept = [
        [*filter_repo_objects([name], allow_patterns=hub_files(trusted, allow_pickle=False))]
        for trusted in (False, True)
    ]
    assert [names == [name] for names in kept] == [*fetched]
