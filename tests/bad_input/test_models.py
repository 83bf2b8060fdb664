"""Models that cannot be opened, or are not fit to be pruned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

import tiny
from refusals import MakeModel, Refused, copied, edit_config


class TestPlace:
    def test_missing_folder(self, run_refused: Refused, tmp_path: Path) -> None:
        run_refused(model=tmp_path / "none", says=(tmp_path / "none", "found nothing there"))

    def test_missing_relative_folder(self, run_refused: Refused) -> None:
        run_refused(model="./none", says=("./none", "found nothing there"))

    def test_missing_gguf(self, run_refused: Refused, tmp_path: Path) -> None:
        run_refused(model=tmp_path / "none.gguf", says=("none.gguf", "found nothing there"))

    def test_a_file_of_another_kind(self, run_refused: Refused, text_file: Path) -> None:
        run_refused(model=text_file, says=(text_file, "a folder, a .gguf file or a hub id"))

    @pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000, "x" * 300 + ".gguf"])
    def test_a_name_longer_than_names_can_be(self, run_refused: Refused, name: str) -> None:
        run_refused(model=name, says=("too long",))

    def test_an_empty_folder(self, run_refused: Refused, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        run_refused(model=tmp_path / "empty", says=("empty", "no config.json"))

    @pytest.mark.parametrize("name", ["nobody/no-such-model", "no-such-model", "no such model", "a/b--c..d", ""])
    def test_hub_id_that_cannot_be_reached(self, run_refused: Refused, name: str) -> None:
        run_refused(model=name, says=(name,))

    def test_a_dense_model_that_is_not_there(
        self, refused: Refused, tmp_path: Path, tiny_folder: Path, place: Path
    ) -> None:
        options = ["--quiet", "--dense", tmp_path / "none", "--out", place / "results.json"]
        refused("measure", tiny_folder, *options, says=("none", "found nothing there"))


class TestConfig:
    @pytest.mark.parametrize(
        ("content", "says"),
        [
            ("{", ("config.json", "expected JSON")),
            ("", ("config.json", "expected JSON")),
            ("[]", ("config.json",)),
            ('"llama"', ("config.json",)),
            ("{}", ("a model that stock transformers knows", "model_type None")),
            ('{"model_type": "nonsense"}', ("a model that stock transformers knows", "'nonsense'")),
            ('{"model_type": ["llama"]}', ("text as model_type",)),
        ],
    )
    def test_unusable(
        self, run_refused: Refused, tmp_path: Path, tiny_folder: Path, content: str, says: tuple[str, ...]
    ) -> None:
        folder = copied(tmp_path / "model", tiny_folder)
        (folder / "config.json").write_text(content, encoding="utf-8")
        run_refused(model=folder, says=(folder, *says))

    @pytest.mark.parametrize("value", [7, True, "LlamaForCausalLM", {"a": 1}, [[]], [None], [{}], [False]])
    @pytest.mark.parametrize("name", ["architectures", "auto_map", "transformers_weights", "model_type"])
    def test_a_value_of_another_type(
        self, run_refused: Refused, tmp_path: Path, tiny_folder: Path, name: str, value: Any
    ) -> None:
        if (name, type(value)) in {("auto_map", dict), ("transformers_weights", str), ("model_type", str)}:
            return  # the right type
        folder = copied(tmp_path / "model", tiny_folder)
        edit_config(folder, **{name: value})
        run_refused(model=folder, says=("config.json", f"as {name}"))

    @pytest.mark.parametrize(
        "changes",
        [
            {"hidden_size": 64},
            {"num_attention_heads": 0},
            {"num_hidden_layers": 8},
            {"num_hidden_layers": 4},
            {"num_hidden_layers": 0},
            {"num_hidden_layers": -1},
            {"num_hidden_layers": "six"},
            {"vocab_size": 100},
            {"hidden_act": "nonsense"},
            {"rope_parameters": {"rope_type": "nonsense", "rope_theta": 1.0}},
        ],
        ids=str,
    )
    def test_that_does_not_fit_the_weights(
        self, run_refused: Refused, tmp_path: Path, tiny_folder: Path, changes: dict[str, Any]
    ) -> None:
        folder = copied(tmp_path / "model", tiny_folder)
        edit_config(folder, **changes)
        run_refused(model=folder, says=(folder,))

    def test_remote_code(self, run_refused: Refused, tmp_path: Path, tiny_folder: Path) -> None:
        folder = copied(tmp_path / "model", tiny_folder)
        ran = tmp_path / "ran"
        (folder / "theirs.py").write_text(f"open({str(ran)!r}, 'w').close()\n", encoding="utf-8")
        edit_config(
            folder, model_type="theirs", auto_map={"AutoConfig": "theirs.C", "AutoModelForCausalLM": "theirs.M"}
        )
        run_refused(model=folder, says=(folder, "stock transformers", "run its own code", "--trust-remote-code"))
        assert not ran.exists()

    @pytest.mark.parametrize("method", ["gptq", "bitsandbytes", "fp8"])
    def test_quantised(self, run_refused: Refused, tmp_path: Path, tiny_folder: Path, method: str) -> None:
        folder = copied(tmp_path / "model", tiny_folder)
        edit_config(folder, quantization_config={"quant_method": method, "bits": 4})
        run_refused(model=folder, says=(folder, "unquantised weights", f"a quantised checkpoint ({method})"))


class TestTokenizer:
    @pytest.mark.parametrize("content", [None, "", "{", "{}", "[]"], ids=repr)
    def test_unusable(self, run_refused: Refused, tmp_path: Path, tiny_folder: Path, content: str | None) -> None:
        folder = copied(tmp_path / "model", tiny_folder)
        if content is None:
            (folder / "tokenizer.json").unlink()
        else:
            (folder / "tokenizer.json").write_text(content, encoding="utf-8")
        run_refused(model=folder, says=(folder,))

    def test_of_a_larger_vocabulary_than_the_model(self, run_refused: Refused, tmp_path: Path) -> None:
        """Its ids would reach past the embedding."""
        folder = tiny.save(tmp_path / "model", vocab_size=100)
        run_refused(model=folder, says=("100",))


def save_other(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def bert_config(**changes: Any) -> Any:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    return transformers.BertConfig(vocab_size=tiny.VOCABULARY, **sizes, **changes)


def bert(folder: Path) -> Path:
    return save_other(folder, transformers.BertForMaskedLM(bert_config()))


def bare_bert(folder: Path) -> Path:
    return save_other(folder, transformers.BertModel(bert_config()))


def nameless_bert(folder: Path) -> Path:
    """An encoder whose config does not name its class."""
    save_other(folder, transformers.BertForMaskedLM(bert_config()))
    edit_config(folder, architectures=None)
    return folder


def t5(folder: Path) -> Path:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    return save_other(
        folder, transformers.T5ForConditionalGeneration(transformers.T5Config(vocab_size=tiny.VOCABULARY, **sizes))
    )


def t5_encoder(folder: Path) -> Path:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    return save_other(folder, transformers.T5EncoderModel(transformers.T5Config(vocab_size=tiny.VOCABULARY, **sizes)))


def bart(folder: Path) -> Path:
    sizes = {f"{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    config = transformers.BartConfig(vocab_size=tiny.VOCABULARY, d_model=32, **sizes, max_position_embeddings=64)
    return save_other(folder, transformers.BartForConditionalGeneration(config))


def classifier(folder: Path) -> Path:
    return save_other(folder, transformers.LlamaForSequenceClassification(tiny.config("llama")))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (bert, ("an encoder (BertForMaskedLM)",)),
        (bare_bert, ("an encoder (BertModel)",)),
        (nameless_bert, ("an encoder",)),
        (t5, ("an encoder-decoder (t5)",)),
        (t5_encoder, ("encoder",)),
        (bart, ("an encoder-decoder (bart)",)),
        (classifier, ("LlamaForSequenceClassification",)),
    ],
)
def test_a_model_that_is_no_decoder(
    run_refused: Refused, tmp_path: Path, make: MakeModel, says: tuple[str, ...]
) -> None:
    run_refused(model=make(tmp_path / "model"), says=(tmp_path, "a decoder-only causal language model", *says))


_SIZES = {
    "vocab_size": tiny.VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}


def family(name: str, **settings: Any) -> MakeModel:
    def make(folder: Path) -> Path:
        config = getattr(transformers, f"{name}Config")(**_SIZES, **settings)
        return save_other(folder, transformers.AutoModelForCausalLM.from_config(config))

    make.__name__ = name
    return make


def gpt2_scaled_by_layer(folder: Path) -> Path:
    return tiny.save(folder, "gpt2", scale_attn_by_inverse_layer_idx=True)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (gpt2_scaled_by_layer, ("scaling is", "but a fresh load of the new config gives")),
        (family("DiffLlama"), ("lambda_init is", "but a fresh load of the new config gives")),
    ],
)
def test_a_family_whose_layers_depend_on_each_other_or_their_position(
    run_refused: Refused, tmp_path: Path, make: MakeModel, says: tuple[str, ...]
) -> None:
    folder = make(tmp_path / "model")
    run_refused("--remove", 1, model=folder, says=(folder, "the computation of the layers that are left", *says))
