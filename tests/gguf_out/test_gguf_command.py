"""`lowrise export`, and `--gguf` of `run` and `apply`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import lowrise
import made_gguf
import tiny
from lowrise.errors import InputError
from made_gguf import Cut, expected_tensors
from refusals import Main, assert_one_line


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

    def test_a_run_whose_export_would_fail_is_refused_before_it(
        self, cut: Cut, tmp_path: Path, main: Main, tiny_folder: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of a model that lowrise cut already: from a file that is gone now, and from no GGUF file at all."""
        how = ["--layers", 1, "--text", text_file, "--samples", 4, "--length", 16, "--device", "cpu", "--quiet"]
        plain, out, gguf = tmp_path / "plain", tmp_path / "out", tmp_path / "out.gguf"
        assert main("run", tiny_folder, *how, "--out", plain)[0] == 0
        base, folder = cut("llama")
        base.rename(tmp_path / "moved.gguf")
        monkeypatch.setattr("lowrise.pipeline.run", lambda *_: pytest.fail("it ran"))
        monkeypatch.setenv("PATH", str(tmp_path))
        said = main("run", folder, *how, "--gguf", gguf, "--out", out)
        assert_one_line(*said, (f"--gguf: {base}", f"{folder} was made from", "nothing there"))
        assert_one_line(*main("run", plain, *how, "--gguf", gguf, "--out", out), ("--converter", "none"))
        assert not out.exists()

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

    def test_changed_matrices_are_written_in_the_format_that_run_is_told(
        self, tmp_path: Path, text_file: Path, main: Main
    ) -> None:
        base, out = made_gguf.save_gguf(tmp_path / "base.gguf"), tmp_path / "out"
        status, _, err = main(
            "run", base, "--preset", "given", "--layers", "2,3", "--repair", "refit", "--text", text_file,
            "--samples", 8, "--length", 32, "--device", "cpu", "--quiet", "--out", out, "--gguf", out / "model.gguf",
            "--type", "bf16",
        )  # fmt: skip
        assert (status, err) == (0, "")
        kinds = {tensor.tensor_type.name for tensor in made_gguf.read(out / "model.gguf").tensors}
        before = {tensor.tensor_type.name for tensor in made_gguf.read(base).tensors}
        assert kinds == before | {"BF16"} != before

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
        assert_one_line(*main("run", base, *said, tmp_path / "a.gguf", "--type", "q4"), ("--type", "'q4'"))
        assert_one_line(*main("run", base, *said[:-1], "--type", "f16"), ("--type", "give --gguf"))
        assert_one_line(*main("run", tiny_folder, *said, tmp_path / "a.gguf"), ("--converter", "PATH"))
        assert not (tmp_path / "out").exists()


def test_the_result_is_one_error_line_for_a_folder_that_is_no_cut(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--converter"):
        lowrise.export(tiny_folder, tmp_path / "a.gguf", converter=tmp_path / "none.py")


def test_a_model_that_came_as_gguf_takes_another_number_format(tmp_path: Path) -> None:
    """As healing in place asks of it: nothing of the file's own formats is left in the model."""
    model = lowrise.open(tiny.save_gguf(tmp_path / "model.gguf"), device="cpu").hf_model
    assert {parameter.dtype for parameter in model.to(torch.bfloat16).float().parameters()} == {torch.float32}
