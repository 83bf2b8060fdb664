"""Multimodal models: the text decoder is cut inside them, and they still take an image as before."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, Blip2Config, Blip2ForConditionalGeneration

import lowrise
import multimodal
import tiny
from cuts import cut
from lowrise.errors import ModelError
from lowrise.model.decoder import Decoder
from lowrise.model.wrappers import restrictions_of_images

Main = Callable[..., tuple[int, str, str]]
QUICK = ["--samples", "10", "--length", "32", "--quiet"]
GONE = (3, 5)


class _Skip(nn.Module):
    """A layer that does nothing."""

    def forward(self, hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        return hidden_states


@torch.no_grad()
def logits(model: Any, given: dict[str, Tensor]) -> Tensor:
    return model(**given, use_cache=False).logits  # type: ignore[no-any-return]


def skipping(kind: str, *gone: int) -> Any:
    """The dense model with layers that do nothing."""
    model = multimodal.model(kind)
    stack = Decoder(model).layers
    for index in gone:
        stack[index] = _Skip()
    return model


@pytest.mark.parametrize("kind", multimodal.WRAPPERS)
class TestWrapper:
    def test_the_stack_is_that_of_the_text_beside_a_tower_of_as_many_layers(self, kind: str) -> None:
        model = multimodal.model(kind)
        depths = [len(one) for name, one in model.named_modules() if isinstance(one, nn.ModuleList) and "vis" in name]
        decoder = Decoder(model)
        assert tiny.LAYERS in depths
        assert "vis" not in decoder.layers_path
        assert decoder.config is model.config.text_config

    def test_a_dropped_span_equals_skipping_it_for_an_image_too(self, kind: str) -> None:
        given = multimodal.with_image(kind)
        dropped, dense = multimodal.model(kind), multimodal.model(kind)
        Decoder(dropped).drop(*GONE)
        skipped = logits(skipping(kind, *range(*GONE)), given)
        assert torch.equal(logits(dropped, given), skipped)
        other = {**given, "pixel_values": -given["pixel_values"]}
        assert not torch.equal(logits(dropped, other), skipped), "the image counts"
        assert not torch.equal(logits(dense, given), skipped), "and so do the layers"

    def test_states_lead_to_the_models_own_logits(self, kind: str) -> None:
        model, ids = multimodal.model(kind), tiny.ids()
        decoder = Decoder(model)
        with torch.no_grad():
            *_, (_, last) = decoder.states(ids)
            ours = decoder.logits(last, ids)
        assert torch.equal(ours, logits(model, {"input_ids": ids}))

    def test_it_is_written_with_its_own_class_and_every_other_tensor_as_it_was(self, kind: str, tmp_path: Path) -> None:
        dense, given = multimodal.model(kind), multimodal.with_image(kind)
        dense.save_pretrained(tmp_path / "dense")
        Decoder(dense).drop(*GONE)
        dense.save_pretrained(tmp_path / "cut")
        before, after = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("dense", "cut"))
        text = before.pop("text_config"), after.pop("text_config")
        assert (text[0].pop("num_hidden_layers"), text[1].pop("num_hidden_layers")) == (tiny.LAYERS, tiny.LAYERS - 2)
        for listed in {"layer_types", "no_rope_layers"} & text[0].keys():
            kinds = text[0].pop(listed)
            assert text[1].pop(listed) == kinds[: GONE[0]] + kinds[GONE[1] :]
        if "moe_layers" in text[0]:  # all have experts
            assert (text[0].pop("moe_layers"), text[1].pop("moe_layers")) == ([*range(6)], [*range(4)])
        for one in text:
            one.pop("max_window_layers", None)
            one.pop("_sliding_window_pattern", None)
            one.pop("no_rope_layer_interval", None)  # its list says it
        assert text[0] == text[1]
        assert before == after
        old, new = (load_file(tmp_path / name / "model.safetensors") for name in ("dense", "cut"))
        around = {name for name in old if ".layers." not in name or "vis" in name}
        assert all(torch.equal(old[name], new[name]) for name in around)
        loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "cut")
        assert type(loaded) is type(dense)
        assert torch.equal(logits(loaded, given), logits(dense, given))


@pytest.mark.parametrize("tied", [True, False])
def test_the_text_says_in_words_of_transformers_4_what_the_whole_model_says(tied: bool, tmp_path: Path) -> None:
    """What version 4 and other engines read in text_config alone: whether the head is tied, and parts of heads."""
    for kind in ("qwen2_5_vl", "mistral3"):
        place, out = tmp_path / kind, tmp_path / f"{kind}-cut"
        cut(multimodal.save(place, kind, tie_word_embeddings=tied), out, *GONE)
        text = json.loads((out / "config.json").read_text(encoding="utf-8"))["text_config"]
        assert text["tie_word_embeddings"] is tied
        if kind == "qwen2_5_vl":
            assert text["rope_scaling"]["mrope_section"] == text["rope_parameters"]["mrope_section"]


def test_a_model_that_asks_for_an_image_is_refused() -> None:
    text = {"model_type": "opt", **tiny.FAMILIES["opt"][1]}
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Blip2Config(
        text_config=text, qformer_config={**small, "encoder_hidden_size": 32}, vision_config={**small, "image_size": 28}
    )
    with pytest.raises(ModelError, match=r"token ids alone.*pixel_values"):
        Decoder(Blip2ForConditionalGeneration(config).eval())


@pytest.mark.parametrize("gone", [(0, 2), (1, 3), (1, 2)])
def test_a_layer_that_is_given_vision_features_stays(gone: tuple[int, int]) -> None:
    decoder = Decoder(multimodal.model("qwen3_vl"))
    with pytest.raises(ModelError, match=r"deepstack_visual_indexes"):
        decoder.drop(*gone)
    assert len(decoder) == tiny.LAYERS


def test_cuts_that_leave_layers_with_vision_features_are_those_that_are_allowed() -> None:
    (one,) = Decoder(multimodal.model("qwen3_vl")).restrictions
    assert [one.allows(tiny.without(*pair)) for pair in ((2, 3), (4, 5), (2, 5), (1, 4), (0, 1))] == [
        True, True, True, False, False,
    ]  # fmt: skip
    assert not one.patterns(1)
    assert Decoder(multimodal.model("gemma3")).restrictions == []
    assert Decoder(tiny.model()).restrictions == []


@pytest.mark.parametrize(
    ("kind", "preset"),
    [("gemma3", "streamline-none"), ("llava", "refit"), ("qwen2_5_vl", "laco-mean"), ("llama4", "refit"),
     ("qwen3_vl", "refit"), ("mistral3", "streamline-none"), ("smolvlm", "refit"), ("internvl", "streamline-none")],
)  # fmt: skip
def test_a_run_writes_a_folder_that_takes_an_image(
    main: Main, text_file: Path, tmp_path: Path, kind: str, preset: str
) -> None:
    base, out = multimodal.save(tmp_path / kind, kind), tmp_path / "out"
    how = ["--preset", preset, "--remove", "2"]
    status, _, errors = main("run", base, *how, "--text", text_file, "--out", out, *QUICK)
    assert status == 0, errors
    loaded = AutoModelForImageTextToText.from_pretrained(out).eval()
    assert loaded.config.text_config.num_hidden_layers == tiny.LAYERS - 2
    assert loaded.config.architectures == AutoConfig.from_pretrained(base).architectures == [type(loaded).__name__]
    assert (out / "preprocessor_config.json").read_bytes() == (base / "preprocessor_config.json").read_bytes()
    given, old = multimodal.with_image(kind), load_file(base / "model.safetensors")
    new = load_file(out / "model.safetensors")
    seen = {name for name in old if "vis" in name or "projector" in name}
    assert seen and all(torch.equal(old[name], new[name]) for name in seen)
    after = logits(loaded, given)
    assert torch.isfinite(after).all()
    assert not torch.equal(logits(loaded, {**given, "pixel_values": -given["pixel_values"]}), after)
    if preset == "streamline-none":
        (edit,) = json.loads((out / "lowrise" / "plan.json").read_text())["edits"]
        assert torch.equal(after, logits(skipping(kind, *range(edit["start"], edit["stop"])), given))
    card = (out / "README.md").read_text()
    assert "pipeline_tag: image-text-to-text" in card
    assert "AutoModelForImageTextToText.from_pretrained" in card


def test_layers_named_by_number_for_vision_features_keep_their_numbers() -> None:
    config = AutoConfig.for_model("granite4_vision", deepstack_layer_map=[[-1, 0], [-3, 3]], spatial_target_layers=[1])
    (one,) = restrictions_of_images(config, tiny.LAYERS)
    assert [one.allows(tiny.without(*gone)) for gone in ((4,), (5,), (4, 5), (0,), (2,), (3, 4))] == [
        True, True, True, False, False, False,
    ]  # fmt: skip
    assert "deepstack_layer_map" in one.reason


def test_a_search_leaves_the_layers_that_vision_features_are_added_to(
    main: Main, text_file: Path, tmp_path: Path
) -> None:
    base, out = multimodal.save(tmp_path / "qwen3_vl", "qwen3_vl"), tmp_path / "plan.json"
    common = ["--text", text_file, "--out", out, "--samples", "10", "--length", "32"]
    status, _, errors = main("plan", base, "--preset", "block-influence", "--remove", "3", *common)
    assert status == 0, errors
    gone = {layer for edit in json.loads(out.read_text())["edits"] for layer in range(edit["start"], edit["stop"])}
    assert len(gone) == 3 and gone.isdisjoint({0, 1})
    assert "deepstack_visual_indexes" in errors
    status, _, errors = main("plan", base, "--layers", "0,3", "--text", text_file, "--out", tmp_path / "other.json")
    assert (status, errors.count("\n")) == (2, 1), errors
    assert "deepstack_visual_indexes" in errors


def test_a_network_in_its_published_form_stands_in_the_models_own_class(
    main: Main, text_file: Path, tmp_path: Path
) -> None:
    base, out = multimodal.save(tmp_path / "llava", "llava"), tmp_path / "out"
    how = ["--recipe", tmp_path / "recipe.yaml", "--remove", "2", "--text", text_file]
    (tmp_path / "recipe.yaml").write_text("preset: streamline-ffn\ntraining: {epochs: 1}\n", encoding="utf-8")
    status, _, errors = main("run", base, *how, "--out", out, *QUICK)
    assert status == 0, errors
    loaded = AutoModelForImageTextToText.from_pretrained(out, trust_remote_code=True).eval()
    assert loaded.config.model_type == "lowrise-llava"
    assert isinstance(loaded, type(multimodal.model("llava")))
    old, new = multimodal.model("llava").state_dict(), loaded.state_dict()
    assert all(torch.equal(old[name], new[name]) for name in old if "vision" in name or "projector" in name)
    assert torch.isfinite(logits(loaded, multimodal.with_image("llava"))).all()


def test_a_model_in_memory_is_cut_and_saved_with_its_towers(text_file: Path, tmp_path: Path) -> None:
    live = multimodal.model("smolvlm")
    model = lowrise.wrap(live, tiny.tokenizer())
    plan = lowrise.plan(model, layers=[1, 4], text=[text_file], samples=8, length=16)
    lowrise.apply(model, plan).save(tmp_path / "saved")
    assert model.hf_model is live
    given = multimodal.with_image("smolvlm")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "saved").eval()
    assert torch.equal(logits(loaded, given), logits(skipping("smolvlm", 1, 4), given))


def test_a_tower_in_another_number_format_than_the_text_keeps_its_bytes(text_file: Path, tmp_path: Path) -> None:
    base = multimodal.save(tmp_path / "base", "mistral3", torch.bfloat16)
    file = base / "model.safetensors"
    towers = {name: value for name, value in load_file(file).items() if "vision" in name}
    finer = {name: torch.randn_like(value, dtype=torch.float32) for name, value in towers.items()}
    save_file({**load_file(file), **finer}, file, metadata={"format": "pt"})
    model = lowrise.open(base, device="cpu")
    lowrise.apply(model, lowrise.plan(model, layers=[2], text=[text_file], samples=8, length=16))
    model.save(tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {part["dtype"] for part in (config, config["text_config"], config["vision_config"])} == {"bfloat16"}
    written = load_file(tmp_path / "out" / "model.safetensors")
    for name, value in load_file(file).items():
        if ".layers." not in name or "vision" in name:
            assert written[name].dtype == value.dtype
            assert torch.equal(written[name], value), name


@pytest.mark.parametrize("train", ["all", "lora"])
def test_healing_leaves_the_towers_as_they_are(text_file: Path, tmp_path: Path, train: str) -> None:
    (tmp_path / "guard.txt").write_text(tiny.text(1500, 1), encoding="utf-8")
    dense, student = (lowrise.wrap(multimodal.model("internvl"), tiny.tokenizer()) for _ in range(2))
    lowrise.apply(student, lowrise.plan(student, layers=[3, 4], text=[text_file], samples=8, length=16))
    before = {name: value.clone() for name, value in student.hf_model.state_dict().items()}
    how = {
        "text": text_file,
        "guard": tmp_path / "guard.txt",
        "objective": "ce",
        "learning_rate": 0.003,
        "batch_tokens": 240,
    }
    lowrise.heal(student, dense, tokens="1k", length=24, train=train, **how)
    after = student.hf_model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("language_model.layers." in name for name in changed)
    assert not {name for name in changed if "vision" in name or "projector" in name}
