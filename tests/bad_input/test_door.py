"""What is read from outside: special files, sizes, depths, numbers and names that no reader may be given."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

import tiny
from lowrise.errors import InputError, PlanError, RecipeError
from lowrise.headers import gguf_header, safetensors_header
from lowrise.model.inherited import inherited_metadata
from lowrise.reading import parse_json, parse_yaml, read_text
from refusals import PLAIN, Main, Refused, copied, edit_config

BOMB = "\n".join(
    ["a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    + [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefg", "bcdefgh", strict=True)]
)


class TestSpecialFiles:
    """Nothing is waited for, and no device is read without end."""

    @pytest.fixture
    def pipe(self, tmp_path: Path) -> Path:
        os.mkfifo(tmp_path / "pipe")
        return tmp_path / "pipe"

    @pytest.mark.parametrize("option", ["--recipe", "--text", "--eval-text"])
    def test_a_pipe_or_a_device_in_an_option(self, run_refused: Refused, pipe: Path, option: str) -> None:
        run_refused(option, pipe, says=(pipe, "found a pipe"))
        run_refused(option, "/dev/zero", says=("/dev/zero", "found a device"))

    def test_a_pipe_as_a_plan(self, refused: Refused, tiny_folder: Path, pipe: Path, place: Path) -> None:
        refused("apply", tiny_folder, pipe, "--out", place / "out", says=(pipe, "found a pipe"))

    @pytest.mark.parametrize("name", ["generation_config.json", "tokenizer.json", "chat_template.jinja"])
    def test_a_pipe_beside_the_weights(
        self, run_refused: Refused, tiny_folder: Path, tmp_path: Path, name: str
    ) -> None:
        folder = copied(tmp_path / "model", tiny_folder)
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
        run_refused(model=folder, says=(folder / name, "found a pipe"))

    def test_a_pipe_among_task_files(self, refused: Refused, tiny_folder: Path, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "tiny.yaml")
        asked = ["--tasks", "tiny", "--task-dir", tmp_path, "--quiet"]
        refused("measure", tiny_folder, *asked, says=("tiny.yaml", "found a pipe"))

    def test_a_task_file_that_includes_itself_by_way_of_a_device(
        self, refused: Refused, tiny_folder: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "tiny.yaml").write_text("task: tiny\ninclude: /dev/zero\n", encoding="utf-8")
        asked = ["--tasks", "tiny", "--task-dir", tmp_path, "--quiet"]
        refused("measure", tiny_folder, *asked, says=("/dev/zero", "found a device"))

    @pytest.mark.usefixtures("no_tasks_of_lm_eval")
    def test_a_task_that_is_named_by_a_number(self, refused: Refused, tiny_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "tiny.yaml").write_text("task: 5\ndataset_path: json\n", encoding="utf-8")
        asked = ["--tasks", "tiny", "--task-dir", tmp_path, "--quiet"]
        refused("measure", tiny_folder, *asked, says=("'tiny'", "none of that name"))

    def test_an_answer_that_is_no_option(self, refused: Refused, tiny_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "rows.json").write_text('{"q": "a", "c": ["b", "d"], "a": ["1"]}\n', encoding="utf-8")
        task = {
            "task": "tiny", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": f"{tmp_path}/rows.json"}},
            "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{q}}", "doc_to_choice": "c",
            "doc_to_target": "a", "metric_list": [{"metric": "acc"}],
        }  # fmt: skip
        (tmp_path / "tiny.yaml").write_text(json.dumps(task), encoding="utf-8")
        asked = ["--tasks", "tiny", "--task-dir", tmp_path, "--quiet"]
        refused("measure", tiny_folder, *asked, says=("tiny, item 0", "the number of the right option", "['1']"))

    def test_links_in_a_circle(self, run_refused: Refused, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to("link")
        run_refused("--text", tmp_path / "link", says=(tmp_path / "link",))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "nested"),
        ("[" * 70 + "]" * 70, "nested more than 64 deep"),
        ('{"a": ' + "9" * 5000 + "}", "too large"),
        ('{"a": 9223372036854775808}', "too large"),
        ('{"a": 1e999}', "not finite"),
        ('{"a": NaN}', "not finite"),
        ('{"a": 1, "a": 2}', "'a' twice"),
        ('"\\ud800"', "lone surrogate"),
        ('"\\u0000"', "character 0"),
        ("[" + "0," * 4_000_000 + "0]", "4,000,000 values"),
    ],
    ids=lambda text: text[:12],
)
def test_json_out_of_bounds(text: str, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        parse_json(text, "here", PlanError, "a plan", "mend it")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 5000, "nested"),
        ("&a [*a]", "within what it stands for"),
        ("a: &a {<<: *a}", "within what it stands for"),
        (BOMB, "100,000 values"),
        ("samples: 1\nsamples: 2", "'samples' twice"),
        ("a: " + "9" * 5000, "found"),
        ("2024-13-45", "month"),
        ("!!int ''", "found"),
        ("!!timestamp x", "found"),
        ("!!python/name:os.system x", "found"),
        ("a: .inf", "not finite"),
        ("? {a: b}\n: c", "found"),
        ("a" * 300_000, "characters"),
    ],
    ids=lambda text: text[:12],
)
def test_yaml_out_of_bounds(text: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says) as caught:
        parse_yaml(text, "here", RecipeError, "YAML", "mend it")
    assert len(str(caught.value)) < 500


def test_merged_keys_are_no_keys_said_twice() -> None:
    text = "base: &base {samples: 1, seed: 2}\nmore: {<<: *base, seed: 3}\n"
    assert parse_yaml(text, "", RecipeError, "YAML", "")["more"] == {"samples": 1, "seed": 3}


def test_what_other_tools_write_passes() -> None:
    """Infinities stand in real configs, and 10**30 where a tokenizer has no limit."""
    text = '{"limit": [0.0, Infinity], "model_max_length": 1000000000000000019884624838656, "a": 1, "a": 2}'
    assert parse_json(text, "", PlanError, "JSON", "", lenient=True)["model_max_length"] > 10**29


def test_a_file_larger_than_it_may_be_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "text").open("wb") as stream:
        stream.truncate(3 << 30)
    with pytest.raises(InputError, match="more than"):
        read_text(tmp_path / "text", RecipeError, "text", "take less")


class TestHeaders:
    @pytest.mark.parametrize(
        ("damage", "says"),
        [
            ({"dtype": "F99"}, "dtype"),
            ({"shape": [2**40, 2**40]}, "shape"),
            ({"shape": [-1]}, "shape"),
            ({"shape": [True]}, "shape"),
            ({"data_offsets": [8, 4]}, "offsets"),
            ({"data_offsets": [0, 2**62]}, "bytes for"),
            ({"data_offsets": None}, "offsets"),
            ({"dtype": None}, "dtype"),
        ],
        ids=str,
    )
    def test_safetensors_that_lie(self, tmp_path: Path, damage: dict[str, Any], says: str) -> None:
        entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | damage
        text = json.dumps({"x": entry}).encode()
        file = tmp_path / "model.safetensors"
        file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
        with pytest.raises(InputError, match=says):
            safetensors_header(file)

    @pytest.mark.parametrize(
        ("at", "number", "says"),
        [(4, 9, "version"), (8, 2**63, "tensors"), (16, 2**63, "keys"), (24, 2**63, "a key of")],
    )
    def test_gguf_that_lies(self, tmp_path: Path, at: int, number: int, says: str) -> None:
        file = tiny.save_gguf(tmp_path / "model.gguf")
        content = bytearray(file.read_bytes())
        content[at : at + 8] = number.to_bytes(8, "little")
        file.write_bytes(bytes(content))
        with pytest.raises(InputError, match=says):
            gguf_header(file)

    def test_gguf_cut_short(self, tmp_path: Path) -> None:
        file = tiny.save_gguf(tmp_path / "model.gguf")
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(InputError, match="cut short"):
            gguf_header(file)


class TestModels:
    @pytest.fixture
    def folder(self, tmp_path: Path, tiny_folder: Path) -> Path:
        return copied(tmp_path / "model", tiny_folder)

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"num_hidden_layers": 6_000_000_000}, "at most as many layers as tensors"),
            ({"vocab_size": 10**9}, "numbers of the weight files"),
            ({"intermediate_size": 10**9}, "numbers of the weight files"),
            ({"quantization_config": "gptq"}, "unquantised weights"),
            ({"hidden_size": "wide"}, "hidden_size"),
        ],
        ids=str,
    )
    def test_a_config_that_asks_for_what_no_file_holds(
        self, run_refused: Refused, folder: Path, changes: dict[str, Any], says: str
    ) -> None:
        """Its layers were built one by one, and its parameters made, before they were missed."""
        edit_config(folder, **changes)
        run_refused(model=folder, says=(folder, says))

    @pytest.mark.parametrize("damage", [{"model": {"type": "none"}}, {"version": 1}, {"added_tokens": 5}], ids=str)
    def test_a_tokenizer_that_does_not_parse(self, run_refused: Refused, folder: Path, damage: dict[str, Any]) -> None:
        """Its library raises Exception itself."""
        file = folder / "tokenizer.json"
        file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | damage), encoding="utf-8")
        run_refused(model=folder, says=(folder,))

    @pytest.mark.parametrize("header", [BOMB, "&a [*a]", "[" * 5000, "license: [mit]", "- license", ""])
    def test_a_model_card_that_says_nothing_usable(self, folder: Path, header: str) -> None:
        (folder / "README.md").write_text(f"---\n{header}\n---\n", encoding="utf-8")
        assert inherited_metadata(folder) == {}


class TestKeptState:
    @pytest.mark.parametrize("about", [None, 5, {}, {"what": 5}, {"bytes": "many", "what": "x", "model": []}])
    def test_an_entry_of_the_cache_that_says_nothing_usable(self, main: Main, cache: Path, about: Any) -> None:
        cache.mkdir(parents=True)
        (cache / f"{'0' * 64}.json").write_text(json.dumps({"about": about}), encoding="utf-8")
        assert main("cache")[0] == 0
        assert main("cache", "--json")[0] == 0

    def test_links_are_replaced_and_never_followed(self, tmp_path: Path, main: Main, finished: Path) -> None:
        """A page that is a link leads out of its folder, or to a device."""
        (tmp_path / "precious").write_text("precious", encoding="utf-8")
        (finished / "README.md").unlink()
        (finished / "README.md").symlink_to(tmp_path / "precious")
        assert main("report", finished)[0] == 0
        assert (tmp_path / "precious").read_text(encoding="utf-8") == "precious"
        assert not (finished / "README.md").is_symlink()

    @pytest.fixture
    def finished(self, main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path) -> Path:
        assert main("run", tiny_folder, *PLAIN, "--text", text_file, "--out", tmp_path / "out")[0] == 0
        return tmp_path / "out"


@pytest.mark.parametrize("name", ["[bold].txt", "[red]a.txt", "\x1b[31mred.txt", "two\nlines.txt"])
def test_names_are_no_markup(main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text(text_file.read_text(encoding="utf-8"), encoding="utf-8")
    options = ["--length", 32, "--windows", 1, "--quiet"]
    status, out, err = main("measure", tiny_folder, "--text", file, *options)
    assert (status, err) == (0, "")
    assert "\x1b" not in out
    assert not name.isprintable() or name in out


@pytest.mark.parametrize("name", ["x" * 3000, "\x1b[2J" * 30, "a\nb", "[/]"])
def test_error_lines_are_short_and_printable(run_refused: Refused, name: str) -> None:
    line = run_refused("--text", name).rstrip("\n")
    assert len(line) < 500
    assert line.isprintable()


def test_every_reader_is_behind_the_door() -> None:
    """What lowrise itself made in this very run, or ships, may be read plainly; nothing else."""
    import lowrise

    allowed = {"reading.py", "recipe.py", "page_charts.py"}  # the door; what ships with lowrise or with bokeh
    allowed |= {"custom.py", "spelling.py", "steps.py", "own_formats.py"}  # what this run wrote
    allowed |= {"llama_cpp.py"}  # answers of a child and of its server on loopback, both started by this run
    allowed |= {"process.py"}  # what the system says of this process
    readers = ("json.load(", "yaml.safe_load", "yaml.load(", ".read_text(encoding", ".read_bytes()")
    source = Path(lowrise.__file__).parent
    found = {
        file.name
        for file in source.rglob("*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
        if any(reader in line for reader in readers)
    }
    assert found <= allowed
