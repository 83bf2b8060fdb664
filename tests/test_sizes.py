"""Layers by hand, and how many go where a size is to be kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny
from lowrise.edit import count
from lowrise.errors import RecipeError
from lowrise.model.source import OpenModel, open_model
from lowrise.pipeline import sizing
from lowrise.pipeline.context import Run
from lowrise.pipeline.opening import layers_to_take_out
from lowrise.progress import Reporter
from lowrise.recipe import Recipe, build_recipe
from lowrise.sizes import bytes_of, count_of, named_layers

Main = Callable[..., tuple[int, str, str]]
QUIET = Reporter(quiet=True)
SMALL = ["--samples", "8", "--length", "32", "--device", "cpu"]


def test_layers_are_numbers_and_ranges_with_both_ends() -> None:
    assert named_layers("12-14,21") == [12, 13, 14, 21]
    assert named_layers(" 3 , 0-1") == [0, 1, 3]


@pytest.mark.parametrize(
    "text", ["", "x", "1,", "3-2", "1-3-5", "-1", "2,2", "1-3,2", "1.5", "0-99999999", "0-20000", "٣", "1-²"]
)
def test_what_names_no_layers(text: str) -> None:
    with pytest.raises(ValueError, match="layer"):
        named_layers(text)


def test_amounts_as_people_write_them() -> None:
    assert [count_of(text) for text in ("1.1B", "350m", "12K", "7")] == [1_100_000_000, 350_000_000, 12_000, 7]
    assert [bytes_of(text) for text in ("2GB", "1.5GiB", "500M", "10 kB", "64")] == [
        2 * 10**9,
        3 * 2**29,
        500 * 10**6,
        10_000,
        64,
    ]
    for text in ("", "B", "-1B", "1e9", "many", "0", "1.1Q", "9" * 400):
        with pytest.raises(ValueError, match="such as"):
            count_of(text)
        with pytest.raises(ValueError, match="such as"):
            bytes_of(text)


def test_a_size_takes_the_place_of_the_one_before_and_none_stands_beside_another() -> None:
    recipe = build_recipe({"preset": "tail", "remove": "3"}, {"keep_parameters": "1B"})
    assert (recipe.remove, recipe.keep_parameters) == (None, "1B")
    recipe = build_recipe({"keep_memory": "1GB"}, {"remove": "2"})
    assert (recipe.remove, recipe.keep_memory) == ("2", None)
    assert Recipe(keep_latency=0.5).remove is None
    assert Recipe(**Recipe(keep_latency=0.5).model_dump()) == Recipe(keep_latency=0.5)
    by_hand: Any = [3, 4]
    assert (Recipe(layers=by_hand).preset, Recipe(layers=by_hand).layers) == ("given", "3,4")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> OpenModel:
    """Of eight equal layers."""
    folder = tiny.save(tmp_path_factory.mktemp("model") / "llama", num_hidden_layers=8)
    return open_model(str(folder), device="cpu")


class TestNetLayers:
    def test_the_fewest_layers_that_leave_no_more_parameters(self, opened: OpenModel) -> None:
        decoder = opened.decoder
        layer = sum(p.numel() for p in decoder.layers[0].parameters())
        whole = decoder.parameters()
        for spare, n in ((0, 3), (1, 3), (-1, 4)):
            recipe = build_recipe({"preset": "tail", "keep_parameters": str(whole - 3 * layer + spare)})
            assert sizing.net_layers(recipe, opened, QUIET) == n
        in_bytes = {"keep_memory": f"{4 * (whole - 3 * layer)}B"}
        assert sizing.net_layers(build_recipe({"preset": "tail", **in_bytes}), opened, QUIET) == 3

    def test_a_network_counts_with_what_it_holds(self, opened: OpenModel) -> None:
        decoder = opened.decoder
        layer, d = sum(p.numel() for p in decoder.layers[0].parameters()), decoder.hidden_size
        network = 2 * d * 4 * d + 4 * d + d
        most = decoder.parameters() - 4 * layer + network
        settings = {"preset": "streamline-ffn", "keep_parameters": str(most)}
        assert sizing.net_layers(build_recipe(settings), opened, QUIET) == 3
        settings["keep_parameters"] = str(most - 1)
        assert sizing.net_layers(build_recipe(settings), opened, QUIET) == 4
        settings = {"preset": "streamline", "keep_parameters": str(decoder.parameters() - 3 * layer)}
        assert sizing.net_layers(build_recipe(settings), opened, QUIET) == 3

    def test_of_layers_of_several_sizes_the_smallest_are_counted(
        self, opened: OpenModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sizes = dict(zip(map(id, opened.decoder.layers), (50, 10, 20, 50, 50, 50, 50, 50), strict=True))
        for module in (sizing, count):
            monkeypatch.setattr(module, "size_of", lambda layer: sizes[id(layer)])
        whole = opened.decoder.parameters()
        for most, n in ((whole - 10, 1), (whole - 11, 2), (whole - 30, 2), (whole - 31, 3)):
            recipe = build_recipe({"preset": "tail", "keep_parameters": str(most)})
            assert sizing.net_layers(recipe, opened, QUIET) == n
        recipe = build_recipe({"preset": "random", "keep_parameters": str(whole - 60)})
        assert sizing.net_layers(recipe, opened, QUIET) == 3

    @pytest.mark.parametrize("select", ["cosine", "angular", "tail", "refit-span", "random", "lorp"])
    def test_a_map_counts_once_where_the_criterion_answers_one_span(
        self, opened: OpenModel, capfd: pytest.CaptureFixture[str], select: str
    ) -> None:
        """3 layers fewer and one map; of several spans there may be three maps, so that it takes a layer more."""
        decoder = opened.decoder
        layer, a_map = sum(p.numel() for p in decoder.layers[0].parameters()), decoder.hidden_size**2
        most = decoder.parameters() - 3 * layer + a_map
        settings = {"preset": "ghosted", "select": select, "keep_parameters": str(most)}
        n = sizing.net_layers(build_recipe(settings), opened, Reporter())
        said = capfd.readouterr().err
        if select in ("random", "lorp"):
            assert n == 4
            assert f"4 of 8 layers go, at most {most - layer + 3 * a_map:,} parameters left" in said
        else:
            assert n == 3
            assert f"3 of 8 layers go, {most:,} parameters left" in said

    def test_time_goes_with_the_layers_and_not_with_the_rest(
        self, opened: OpenModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """(2 + (8 - n)·1) / 10 ≤ F."""
        monkeypatch.setattr(sizing, "decode_times", lambda *_: (1.0, 2.0))
        for share, n in ((0.9, 1), (0.85, 2), (0.75, 3), (0.31, 7)):
            recipe = build_recipe({"preset": "tail", "keep_latency": share})
            assert sizing.net_layers(recipe, opened, QUIET) == n

    @pytest.mark.parametrize(
        ("preset", "share", "says"),
        [
            (
                "tail",
                0.1,
                "--keep-latency 0.1: expected a time that can be reached: with one layer left, at least 0.125",
            ),
            ("taylor", 0.5, "--keep-latency 0.5: expected at most 2 layers"),
        ],
    )
    def test_a_time_out_of_reach_is_refused_before_anything_is_timed(
        self, opened: OpenModel, monkeypatch: pytest.MonkeyPatch, preset: str, share: float, says: str
    ) -> None:
        monkeypatch.setattr(sizing, "decode_times", lambda *_: pytest.fail("timed"))
        recipe = build_recipe({"preset": preset, "keep_latency": share})
        with pytest.raises(RecipeError, match=says):
            layers_to_take_out(Run(recipe, QUIET), opened)

    def test_a_repair_of_many_gaps(self) -> None:
        for layers in range(2, 9):
            for n in range(1, layers):
                drops = sizing._many_gaps(layers, n, "none")
                gone = [layer for drop in drops for layer in range(drop.start, drop.stop)]
                assert len(gone) == len(set(gone)) == n
                assert len(drops) == min(n, layers - n + 1)  # the one below all that are kept is a gap too
                assert (drops[0].start > 0) == (n <= layers - n)
                assert max(gone) < layers
                assert all(drop.start - 1 not in gone for drop in drops)


def test_times_of_layers_and_rest_are_those_of_a_token() -> None:
    from lowrise.measure.layer_time import decode_times
    from lowrise.model.decoder import Decoder

    decoder = Decoder(tiny.model())
    layer, rest = decode_times(decoder, QUIET)
    assert layer > 0
    assert rest > 0
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in decoder.layers)


class TestCommand:
    @pytest.mark.parametrize("repair", ["none", "fold-cosine", pytest.param("refit", marks=pytest.mark.slow)])
    def test_layers_that_are_named_go_with_every_repair(
        self, main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path, repair: str
    ) -> None:
        asked = ["--layers", "1-2,4", "--repair", repair, "--text", text_file, "--windows", "1", *SMALL, "--quiet"]
        status, _, errors = main("run", tiny_folder, *asked, "--out", tmp_path / "out")
        assert status == 0, errors
        plan = json.loads((tmp_path / "out/lowrise/plan.json").read_text(encoding="utf-8"))
        assert [(edit["start"], edit["stop"]) for edit in plan["edits"]] == [(1, 3), (4, 5)]
        assert (plan["preset"], plan["layers_after"], plan["settings"]["layers"]) == ("given", 3, "1-2,4")
        status, _, errors = main("apply", tiny_folder, tmp_path / "out/lowrise/plan.json", "--windows", "1", "--quiet",
                                 "--device", "cpu", "--out", tmp_path / "again")  # fmt: skip
        assert status == 0, errors
        assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "out/model.safetensors").read_bytes()

    def test_a_size_is_said_recorded_and_replayed(
        self, main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path
    ) -> None:
        asked = ["--preset", "tail", "--keep-parameters", "60K", "--text", text_file, *SMALL, "--windows", "1"]
        status, _, errors = main("run", tiny_folder, *asked, "--out", tmp_path / "out")
        assert status == 0, errors
        plan = json.loads((tmp_path / "out/lowrise/plan.json").read_text(encoding="utf-8"))
        settings, left = plan["settings"], plan["parameters_after"]
        layer = (plan["parameters_before"] - left) // settings["removed"]
        assert left <= 60_000 < left + layer
        assert (settings["keep_parameters"], settings["remove"]) == ("60K", None)
        assert plan["layers_after"] == plan["model"]["layers"] - settings["removed"]
        assert f"--keep-parameters 60K: {settings['removed']} of 6 layers go, {left:,} parameters left" in errors
        status, _, errors = main("apply", tiny_folder, tmp_path / "out/lowrise/plan.json", "--windows", "1", "--quiet",
                                 "--device", "cpu", "--out", tmp_path / "again")  # fmt: skip
        assert status == 0, errors
        for name in ("model.safetensors", "lowrise/plan.json", "lowrise/recipe.yaml"):
            assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()

    @pytest.mark.parametrize(
        ("asked", "says"),
        [
            (["--layers", "2-9"], ("--layers", "layers from 0 to 5", "found layer 9")),
            (["--layers", "3-2"], ("--layers", "ranges from a lower to a higher layer", "'3-2'")),
            (["--layers", "2,1-3"], ("--layers", "every layer once, not layer 2 twice")),
            (["--layers", "0-5"], ("--layers", "a layer that is left", "all 6 layers")),
            (["--layers", "2", "--remove", "3"], ("--remove and --layers: expected one way",)),
            (["--layers", "2", "--preset", "tail"], ("presets that take layers by hand, found tail",)),
            (["--preset", "given"], ("--layers", "found none; name them")),
            (["--preset", "given", "--remove", "2"], ("--layers", "found a number of them, 2")),
            (["--keep-parameters", "1B"], ("--keep-parameters 1B", "less than the dense model has")),
            (["--keep-parameters", "10"], ("--keep-parameters 10", "with one layer left,")),
            (
                ["--preset", "lorp", "--keep-memory", "110KB"],
                ("--keep-memory 110KB: expected at most 4 layers", "found 5 layers to go; ask for more"),
            ),
            (["--keep-memory", "lots"], ("--keep-memory", "a size such as 2GB")),
            (["--keep-memory", "1KB"], ("--keep-memory 1KB", "with one layer left,", "kB")),
            (["--keep-latency", "1.5"], ("--keep-latency", "less than 1")),
            (["--keep-latency", "0.5", "--remove", "2"], ("--remove and --keep-latency: expected one way",)),
            (["--preset", "laco", "--keep-memory", "1GB", "--threshold", "0.5"], ("--keep-memory and --threshold",)),
        ],
    )  # fmt: skip
    def test_what_cannot_be(
        self, main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path, asked: list[str], says: tuple[str, ...]
    ) -> None:
        status, out, errors = main("plan", tiny_folder, *asked, "--text", text_file, *SMALL, "--quiet", "--out",
                                   tmp_path / "plan.json")  # fmt: skip
        assert (status, out) == (2, "")
        assert len(errors.splitlines()) == 1
        assert all(part in errors for part in says), errors

    def test_a_comparison_takes_sizes_as_layers(self, main: Main, tiny_folder: Path, tmp_path: Path) -> None:
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text("keep_parameters: 60K\n", encoding="utf-8")
        status, _, errors = main("compare", tiny_folder, "--presets", "tail", "--remove", "2", "--recipe", recipe,
                                 "--out", tmp_path / "compared")  # fmt: skip
        assert status == 2
        assert "sizes of a comparison as `remove`, found keep_parameters '60K'" in errors
