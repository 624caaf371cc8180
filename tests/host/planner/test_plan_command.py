"""crowdlearn plan, as a user runs it."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch
from crowdlearn_export.errors import UnsupportedModule
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_host.cli import build
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.methods.slicenet.window import window_bytes
from crowdlearn_host.models.named import mlp
from crowdlearn_host.planner.balanced import balanced
from crowdlearn_host.planner.drawing import draw_plan
from crowdlearn_host.planner.plan import load_plan
from typer.testing import CliRunner

FLEET = """
[[class]]
name = "hub"
count = 1
samples = 300
macs_per_second = 1e9
max_macs = 2000

[[class]]
name = "low"
count = 6
macs_per_second = 1e6
max_seconds = 0.0009
"""
MODEL = "mlp:40-24-16-12-4"


@pytest.fixture
def fleet_file(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.toml"
    path.write_text(FLEET)
    return path


def run(*arguments: object) -> str:
    result = CliRunner().invoke(build(["plan"]), ["plan", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_the_table_shows_pieces_certificate_and_budgets(fleet_file: Path) -> None:
    output = run(MODEL, "--fleet", fleet_file, "--no-baselines")
    for word in ("dominator", "low", "lower bound", "proven", "compute"):
        assert word in output


def test_the_saved_plan_is_read_back_and_the_drawing_is_a_picture(fleet_file: Path, tmp_path: Path) -> None:
    saved, drawn = tmp_path / "plan.json", tmp_path / "plan.svg"
    output = run(MODEL, "--fleet", fleet_file, "--no-baselines", "--json", "--save", saved, "--plot", drawn)
    plan = load_plan(saved, neuron_graph(mlp((40, 24, 16, 12, 4)), torch.zeros(1, 40), MODEL))
    assert len(json.loads(output)["pieces"]) == len(plan.pieces)
    assert ElementTree.parse(drawn).getroot().tag.endswith("svg")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("--group-size", "99"), "groups of 99 devices, and the fleet has"), (("--plot", "p.gif"), "as SVG")],
)
def test_a_group_larger_than_the_fleet_and_a_picture_of_another_kind_are_refused(
    fleet_file: Path, arguments: tuple[str, str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        run(MODEL, "--fleet", fleet_file, *arguments)
    assert not Path("p.gif").exists()


@pytest.mark.parametrize("model", ["mlp:40-4", "mlp:40-2-4"])
def test_fewer_hidden_neurons_than_followers_print_nothing_but_json(
    fleet_file: Path, model: str, capfd: pytest.CaptureFixture[str]
) -> None:
    json.loads(run(model, "--fleet", fleet_file, "--json", "--seconds", 2))
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([MODEL, "--shape", "3x0"], "--shape"),
        ([MODEL, "--shape", "a"], "--shape"),
    ],
)
def test_a_wrong_shape_is_named(fleet_file: Path, arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run(*arguments, "--fleet", fleet_file)


def test_a_shape_that_slices_do_not_take_is_named(fleet_file: Path) -> None:
    with pytest.raises(UnsupportedModule, match=r"\(3, 4, 4, 4\) cannot be sliced"):
        run(MODEL, "--shape", "3x4x4x4", "--fleet", fleet_file)


def test_a_wrong_fleet_is_told_in_the_file_s_words(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(FLEET + 'max_memory = "1 MiX"\n')
    with pytest.raises(ConfigError, match="MiX"):
        run(MODEL, "--fleet", path)


@pytest.mark.parametrize("pieces", [1, 5, 20])
def test_drawings_name_every_piece(pieces: int) -> None:
    graph = neuron_graph(mlp((40, 24, 16, 12, 4)), torch.zeros(1, 40), "small <net>")
    picture = draw_plan(balanced(graph, pieces), graph)
    ElementTree.fromstring(picture)
    assert picture.count("<title>") >= pieces


def test_the_window_of_several_groups_is_told(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(FLEET.replace("count = 1", "count = 2").replace("count = 6", "count = 12"))
    output = run(MODEL, "--fleet", path, "--no-baselines", "--group-size", 7, "--seconds", 5)
    weights = sum(p.numel() for p in mlp((40, 24, 16, 12, 4)).parameters())
    assert "the host's window" in output
    on_disk, _ = window_bytes(weights, 2)
    assert on_disk == 2 * 4 * weights
