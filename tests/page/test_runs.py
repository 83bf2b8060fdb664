"""What a page shows is what the commands do: made again, seen by observe, written by generate; the licence carried."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import tiny
from lowrise.report.again import again
from lowrise.results import Results
from pages import QUICK, page_of, read_results
from refusals import Main


def test_apply_has_a_page_without_the_curves_and_says_so(
    main: Main, tiny_folder: Path, finished: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    status, _, errors = main("apply", tiny_folder, finished["none"] / "lowrise/plan.json", "--out", out, "--quiet")
    assert status == 0, errors
    page = page_of(out)
    assert "chart-pairs" not in page.ids()
    assert "chart-spans" in page.ids()  # the plan holds these
    assert "its layers were not looked at here" in page.text
    assert "lowrise apply" in page.text
    assert "Nothing was measured" in page.text


@pytest.mark.parametrize("kind", ["layer", "merge"])
def test_the_command_on_the_page_makes_the_same_model_again(main: Main, finished: dict[str, Path], kind: str) -> None:
    shown = next(line for line in page_of(finished[kind]).text.splitlines() if line.startswith("lowrise run"))
    made = Path(f"{finished[kind]}-again")
    assert shown.split()[-1] == str(made)
    status, _, errors = main(*shown.split()[1:], "--quiet")
    assert status == 0, errors
    for name in ("lowrise/plan.json", "lowrise/recipe.yaml", "model.safetensors"):
        assert (made / name).read_bytes() == (finished[kind] / name).read_bytes()


def test_the_command_has_the_folder_as_it_was_given() -> None:
    made = Results.model_construct(model="some/out here")
    assert again(made, "run --recipe", "recipe.yaml") == (
        "lowrise run --recipe 'some/out here/lowrise/recipe.yaml' --out 'some/out here-again'"
    )


def test_what_run_saw_is_what_observe_sees(
    main: Main, tiny_folder: Path, text_file: Path, finished: dict[str, Path], tmp_path: Path
) -> None:
    """The same tokens, so the same numbers to the six digits kept, from two passes that share no run."""
    out = tmp_path / "observed"
    status, _, errors = main("observe", tiny_folder, "--text", text_file, "--out", out, *QUICK)
    assert status == 0, errors
    kept = json.loads((finished["none"] / "lowrise/observation.json").read_text())
    full = json.loads((out / "observation.json").read_text())
    assert kept["input_output"] == pytest.approx(full["input_output"], rel=1e-5)
    for ours, theirs in zip(kept["pairs"], full["pairs"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert kept["norms"]["largest"] == pytest.approx(full["norms"]["largest"], rel=1e-5)
    assert kept["norms"]["writers"] == full["norms"]["writers"]


def test_samples_are_what_generate_writes(finished: dict[str, Path], tiny_folder: Path) -> None:
    """Against transformers' own greedy generation, of the dense model and of the folder that was written."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    samples = read_results(finished["layer"])["samples"]
    assert len(samples) == 3
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    for who, place in (("dense", tiny_folder), ("compressed", finished["layer"])):
        model = AutoModelForCausalLM.from_pretrained(place).eval()
        for sample in samples:
            ids = tokenizer(sample["prompt"], return_tensors="pt").input_ids
            with torch.no_grad():
                written = model.generate(ids, do_sample=False, max_new_tokens=40, pad_token_id=1)
            assert tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True) == sample[who]


def test_prompts_that_a_model_cannot_read_are_left_out() -> None:
    from lowrise.measure.samples import PROMPTS, continuations
    from lowrise.model.decoder import Decoder

    assert continuations(Decoder(tiny.model(max_position_embeddings=8)), tiny.tokenizer()) == {}
    assert continuations(Decoder(tiny.model(vocab_size=50)), tiny.tokenizer()) == {}
    short = continuations(Decoder(tiny.model(max_position_embeddings=40)), tiny.tokenizer())
    assert set(short) <= set(PROMPTS)


class TestLicence:
    def header(self, folder: Path) -> dict[str, Any]:
        found: dict[str, Any] = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
        return found

    @pytest.mark.parametrize(
        ("readme", "expected"),
        [
            ("---\nlicense: apache-2.0\nlanguage: en\n---\n# Base", {"license": "apache-2.0"}),
            (
                "---\nlicense: other\nlicense_name: own\nlicense_link: LICENSE\n---\n",
                {"license": "other", "license_name": "own", "license_link": "LICENSE"},
            ),
            ("no header", {}),
            ("---\nlicense: [a, {b\n---\n", {}),
            ("---\nlicense: [mit]\n---\n", {}),
            ("---\nlicense: \"mit\\nbase_model: evil\"\n---\n", {}),
            ("---\n- a\n---\n", {}),
        ],
    )  # fmt: skip
    def test_is_carried_over_from_a_folder(self, tmp_path: Path, readme: str, expected: dict[str, str]) -> None:
        from lowrise.model.inherited import inherited_metadata

        (tmp_path / "README.md").write_text(readme)
        assert inherited_metadata(tmp_path) == expected

    def test_stands_in_the_card(self, main: Main, text_file: Path, tmp_path: Path) -> None:
        source = tiny.save(tmp_path / "model")
        (source / "README.md").write_text("---\nlicense: mit\n---\n")
        out = tmp_path / "out"
        assert main("run", source, "--preset", "streamline-none", "--remove", "2", "--text", text_file, "--out", out,
                    *QUICK)[0] == 0  # fmt: skip
        header = self.header(out)
        assert header["license"] == "mit"
        assert header["pipeline_tag"] == "text-generation"
        assert header["library_name"] == "transformers"
        assert {"lowrise", "depth-pruning", "streamline-none"} <= set(header["tags"])

    def test_is_read_from_gguf_metadata(self, tmp_path: Path) -> None:
        import gguf

        from lowrise.model.inherited import inherited_metadata

        file = tmp_path / "model.gguf"
        writer = gguf.GGUFWriter(file, "llama")
        writer.add_license("apache-2.0")
        writer.add_source_repo_url("https://huggingface.co/someone/base")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        assert inherited_metadata(file) == {"license": "apache-2.0", "base_model": "someone/base"}
