"""Options, recipes and text that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from refusals import PLAIN, Main, Refused


def test_the_options_that_these_tests_spoil_are_sound(
    main: Main, scratch: Path, place: Path, tiny_folder: Path, text_file: Path
) -> None:
    status, _, err = main("run", tiny_folder, *PLAIN, "--text", text_file, "--out", place / "out")
    assert (status, err) == (0, "")
    assert [path.name for path in place.iterdir()] == ["out"]
    assert not list(scratch.glob("lowrise-*"))


class TestCommandLine:
    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["rum"], ("rum",)),
            (["run"], ("MODEL", "a hub id, a folder or a .gguf file")),
            (["run", "--out", "OUT"], ("MODEL", "a hub id, a folder or a .gguf file", "found none")),
            (["run", "m", "--out", "OUT", "--presett", "x"], ("No such option", "--presett", "--preset")),
            (["run", "m", "--out", "OUT", "--samples", "many"], ("--samples", "many", "integer")),
            (["run", "m", "extra", "--out", "OUT"], ("extra",)),
            (["run", "m", "--out"], ("--out", "argument")),
            (["plan"], ("--out",)),
            (["apply", "--out", "OUT"], ("Missing argument",)),
            (["apply", "m", "--out", "OUT"], ("PLAN",)),
            (["measure"], ("Missing argument",)),
            (["presets", "--nonsense"], ("--nonsense",)),
        ],
        ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
    )
    def test_unusable(self, refused: Refused, place: Path, arguments: list[str], says: tuple[str, ...]) -> None:
        refused(*[str(place / "out") if argument == "OUT" else argument for argument in arguments], says=says)

    @pytest.mark.parametrize("remove", ["0", "-1", "6", "7", "1000", "2.5", "many", "", "nan", "inf"])
    def test_remove_that_is_no_count_from_1_to_all_but_one(self, run_refused: Refused, remove: str) -> None:
        run_refused("--remove", remove, says=("--remove: expected 1 to 5 of the 6 layers", f"found '{remove}'"))

    @pytest.mark.parametrize("remove", ["0%", "100%", "-5%", "101%", "99%", "1%", "nan%", "%", "many%", "50%%"])
    def test_remove_that_is_no_usable_share(self, run_refused: Refused, remove: str) -> None:
        run_refused("--remove", remove, says=("--remove: expected a share between 0% and 100%", f"found '{remove}'"))

    @pytest.mark.parametrize("preset", ["streamline-ffn", "streamline-swiglu"])
    def test_remove_that_leaves_a_published_network_alone(self, run_refused: Refused, preset: str) -> None:
        """A span of all layers has no layer left to hang the network on."""
        run_refused("--preset", preset, "--remove", 5, says=("--remove: expected", "found all 6 layers"))

    @pytest.mark.parametrize(
        ("name", "close"), [("streamlin", "did you mean streamline"), ("strealine-fnn", "streamline-ffn")]
    )
    def test_unknown_preset_is_answered_with_close_names(self, run_refused: Refused, name: str, close: str) -> None:
        run_refused("--preset", name, says=(f"'{name}'", "did you mean", close))

    def test_unknown_preset_like_none_is_answered_with_all(self, run_refused: Refused) -> None:
        run_refused("--preset", "qqqq", says=("'qqqq'", "streamline-none", "streamline-swiglu"))

    @pytest.mark.parametrize(
        ("option", "value", "says"),
        [
            ("--device", "warp", ("--device: expected a device of this machine", "'warp'")),
            ("--device", "cuda:99", ("--device: expected a device of this machine", "'cuda:99'")),
            ("--device", "meta", ("--device: expected a device of this machine", "'meta'")),
            ("--dtype", "float8", ("dtype", "'float32'", "'float8'")),
            ("--dtype", "int8", ("dtype", "'float32'", "'int8'")),
            ("--form", "paperr", ("form", "'portable'", "'paperr'")),
            ("--loss", "l1", ("loss", "'relative'", "'l1'")),
            ("--repair", "glue", ("repair", "'refit'", "'glue'")),
            ("--synthetic-share", "1", ("--synthetic-share", "less than 1")),
            ("--written", "1", ("--synthetic-share", "less than 1")),
            ("--effort", "0", ("--search-budget", "greater than or equal to 0.1")),
            (
                "--search-budget",
                "2",
                (
                    "--search-budget: expected presets that search with repair, found streamline-none, which does not",
                    "leave --search-budget out, or choose refit-span or refit",
                ),
            ),
            (
                "--form",
                "portable",
                ("--form: expected presets that put a network of two forms",),
            ),
            (
                "--loss",
                "relative",
                ("--loss: expected presets that train, found streamline-none, which does not",),
            ),
            ("--threshold", "0.5", ("--threshold: expected presets that search merges, found streamline-none",)),
            ("--norms", "merge", ("--norms: expected presets that search merges, found streamline-none",)),
            ("--layers", "2", ("--layers: expected presets that take layers by hand, found streamline-none",)),
            ("--samples", "0", ("samples", "greater than 0")),
            ("--length", "1", ("length", "greater than 1")),
            ("--windows", "0", ("windows", "greater than 0")),
            ("--seed", "-1", ("seed", "greater than or equal to 0")),
            ("--seed", "99999999999999999999", ("seed",)),
        ],
    )
    def test_wrong_value(self, run_refused: Refused, option: str, value: str, says: tuple[str, ...]) -> None:
        run_refused(option, value, says=says)

    def test_a_repair_where_a_network_is_put_back(self, run_refused: Refused) -> None:
        says = (
            "--repair prune-comp: expected a preset that puts nothing back",
            "found streamline, which puts a trained network back; leave --repair out, or choose fold or refit",
        )
        run_refused("--preset", "streamline", "--repair", "prune-comp", says=says)

    def test_more_layers_than_taylor_lets_go(self, run_refused: Refused) -> None:
        line = run_refused("--preset", "taylor", says=("--remove: expected at most 0 layers", "found 2; remove fewer"))
        assert "(the first 4 and last 2 of 6 layers always stay)" in line

    @pytest.mark.parametrize("preset", ["greedy-perplexity", "taylor", "tail", "random", "laco"])
    def test_avoid_massive_where_states_are_not_looked_at(self, run_refused: Refused, preset: str) -> None:
        says = (
            f"--avoid-massive: expected presets that choose by states, found {preset}, which does not",
            "leave --avoid-massive out, or choose another preset, such as angular",
        )
        assert len(run_refused("--preset", preset, "--avoid-massive", says=says)) < 200

    @pytest.mark.parametrize("size", ["lots", "-1", "4X", "G", "nan", "inf", "", "1e400", "4 potatoes"])
    def test_max_ram_that_is_no_size(self, run_refused: Refused, size: str) -> None:
        run_refused("--max-ram", size, says=("--max-ram: expected a size such as 800M or 4G", f"found '{size}'"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "MODEL", "--text", "LONG"],
        ["run", "MODEL", "--eval-text", "LONG"],
        ["run", "MODEL", "--dataset", "LONG"],
        ["run", "--recipe", "LONG"],
        ["apply", "MODEL", "LONG"],
        ["apply", "LONG", "PLAN"],
        ["measure", "MODEL", "--dense", "LONG"],
        ["measure", "MODEL", "--tasks", "piqa", "--task-dir", "LONG"],
        ["measure", "LONG"],
        ["observe", "LONG"],
        ["compare", "LONG"],
        ["compare", "MODEL", "--out", "LONG"],
        ["report", "LONG"],
    ],
    ids=" ".join,
)
def test_every_path_may_be_longer_than_paths_can_be(
    refused: Refused, place: Path, tiny_folder: Path, tiny_plan: dict[str, Any], arguments: list[str], tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(tiny_plan), encoding="utf-8")
    stands_for = {"MODEL": tiny_folder, "LONG": tmp_path / ("x" * 300), "PLAN": plan}
    out = [] if arguments[0] in ("measure", "report") or "--out" in arguments else ["--out", place / "out"]
    more = {"run": ["--remove", "2"], "compare": ["--remove", "2", "--presets", "laco", "--quiet"]}
    given = [stands_for.get(word, word) for word in arguments]
    refused(*given, *out, *more.get(arguments[0], []), says=("too long",))


class TestRecipe:
    @pytest.mark.parametrize(
        ("content", "says"),
        [
            ("sampels: 3\n", ("recipe.yaml", "the unknown key 'sampels'", "did you mean samples")),
            ("training: {learning_rat: 0.1}\n", ("recipe.yaml", "'training.learning_rat'", "learning_rate")),
            ("samples: many\n", ("recipe.yaml: samples", "integer", "'many'")),
            ("samples: 0\n", ("recipe.yaml: samples", "greater than 0", "found 0")),
            ("training: 3\n", ("recipe.yaml: training", "found 3")),
            ("text: {a: 1}\n", ("recipe.yaml: text", "list", "found {'a': 1}; correct the value")),
            ("training: {learning_rate: -1}\n", ("recipe.yaml: training.learning_rate", "greater than 0", "-1")),
            (
                "training: {learning_rate: 1.0e-6}\n",
                ("recipe.yaml: training", "min_learning_rate must not exceed learning_rate"),
            ),
            ("remove: true\n", ("recipe.yaml: remove",)),
            ("text: words.txt\n", ("recipe.yaml: text", "list", "words.txt")),
            ("network: transformer\n", ("recipe.yaml: network", "'swiglu'", "transformer")),
            ("{preset: tail, network: layer}\n", ("`network: none` with `select: tail`, which puts nothing back",)),
            ("select: angles\n", ("recipe.yaml: select", "'angular'", "angles")),
            ("preset: streamlined\n", ("preset 'streamlined'", "did you mean streamline")),
            ("preset: [streamline]\n", ("preset",)),
            ("1: 2\n", ("recipe.yaml", "keys that are words")),
            ("", ("recipe.yaml", "a mapping of keys to values")),
            ("- samples\n", ("recipe.yaml", "a mapping of keys to values", "found list")),
            ("samples: [1\n", ("recipe.yaml", "expected YAML")),
            ("model: !!python/object/apply:os.getcwd []\n", ("recipe.yaml", "expected YAML")),
        ],
        ids=lambda value: repr(value) if isinstance(value, str) else "",
    )
    def test_unusable(
        self, refused: Refused, place: Path, tmp_path: Path, content: str, says: tuple[str, ...], tiny_folder: Path
    ) -> None:
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(content, encoding="utf-8")
        refused("run", tiny_folder, "--quiet", "--recipe", recipe, "--out", place / "out", says=says)

    def test_missing(self, run_refused: Refused, tmp_path: Path) -> None:
        run_refused("--recipe", tmp_path / "none.yaml", says=("none.yaml", "No such file"))

    def test_a_folder(self, run_refused: Refused, tmp_path: Path) -> None:
        run_refused("--recipe", tmp_path, says=(tmp_path, "directory"))

    def test_bytes_that_are_no_text(self, run_refused: Refused, tmp_path: Path) -> None:
        (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00\x80")
        run_refused("--recipe", tmp_path / "bytes.yaml", says=("bytes.yaml", "expected YAML"))


def test_recipe_written_by_a_run_can_be_read_again(tmp_path: Path) -> None:
    """What the tests above call sound: a full recipe is accepted as it stands."""
    from lowrise.recipe import Recipe, build_recipe, read_recipe

    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(Recipe().model_dump()), encoding="utf-8")
    assert build_recipe(read_recipe(file)) == Recipe()


class TestText:
    @pytest.mark.parametrize("option", ["--text", "--eval-text"])
    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (None, ("No such file",)),
            (b"", ("found an empty file",)),
            (b" \n\t\n", ("found an empty file",)),
            (b"caf\xe9 au lait", ("UTF-8", "byte 3")),
            (b"far too short", ("at least one window of 32 tokens", " tokens;")),
        ],
        ids=["missing", "empty", "blank", "not UTF-8", "shorter than a window"],
    )
    def test_unusable(
        self,
        refused: Refused,
        place: Path,
        tmp_path: Path,
        tiny_folder: Path,
        text_file: Path,
        option: str,
        content: bytes | None,
        says: tuple[str, ...],
    ) -> None:
        bad = tmp_path / "bad.txt"
        if content is not None:
            bad.write_bytes(content)
        good = [] if option == "--text" else ["--text", text_file]
        refused("run", tiny_folder, *PLAIN, *good, option, bad, "--out", place / "out", says=("bad.txt", *says))

    def test_a_folder(self, refused: Refused, place: Path, tmp_path: Path, tiny_folder: Path) -> None:
        refused("run", tiny_folder, *PLAIN, "--text", tmp_path, "--out", place / "out", says=(tmp_path, "directory"))

    def test_one_window_leaves_none_to_hold_out(
        self, refused: Refused, place: Path, tiny_folder: Path, text_file: Path
    ) -> None:
        """Without --eval-text the run measures on held-out calibration windows, so it needs two."""
        refused(
            "run", tiny_folder, *PLAIN, "--samples", 1, "--text", text_file, "--out", place / "out", says=("window",)
        )

    def test_a_network_cannot_be_trained_on_one_window(self, run_refused: Refused, text_file: Path) -> None:
        """Training needs a window to learn from and one to hold out."""
        run_refused("--preset", "streamline", "--samples", 1, "--eval-text", text_file, says=("window",))

    def test_measured_text_too_short(self, refused: Refused, tiny_folder: Path, short_text: Path) -> None:
        refused("measure", tiny_folder, "--quiet", "--text", short_text, says=("short.txt", "one window of 128 tokens"))

    def test_dataset_that_is_not_there(self, refused: Refused, place: Path, tiny_folder: Path) -> None:
        refused(
            "run", tiny_folder, *PLAIN, "--dataset", "nobody/nothing", "--out", place / "out", says=("nobody/nothing",)
        )
