"""The validation split: who is in it, which epoch it chooses, and when training ends by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crowdlearn_device.data.dataset import Dataset
from crowdlearn_host.common.files import read_lines
from crowdlearn_host.common.toml_files import parse_config
from crowdlearn_host.coordinator.storage.run_folder import load_model_state
from crowdlearn_host.errors import ConfigError, Interrupted
from crowdlearn_host.runs.checks.checked import check
from crowdlearn_host.runs.data import load_split, to_npz, validated
from crowdlearn_host.runs.interrupt import Interrupt
from crowdlearn_host.runs.results.trained_model import evaluated
from crowdlearn_host.runs.simulated import simulate_run
from crowdlearn_host.spec.run_spec import RunSpec
from crowdlearn_host.spec.simulated import Simulation, simulation_of
from crowdlearn_host.spec.validation import ValidationSection

NAN = float("nan")


@pytest.mark.parametrize(
    ("metric", "patience", "values", "best", "ended"),
    [
        ("loss", 0, [3, 1, 2, 2, 2], 1, None),
        ("loss", 2, [3, 1, 2], 1, None),
        ("loss", 2, [3, 1, 2, 2], 1, 4),
        ("loss", 2, [3, 1, 2, 2, 0], 1, 4),  # an epoch behind the end counts no more
        ("accuracy", 1, [0.5, 0.5], 0, 2),
        ("r2", 2, [0.1, 0.3, 0.2, 0.4], 3, None),
        ("loss", 2, [NAN, NAN, 1, NAN, NAN], 2, 5),
        ("loss", 1, [NAN, NAN], 0, 2),
    ],
)
def test_the_best_epoch_and_the_end(
    metric: Any, patience: int, values: list[float], best: int, ended: int | None
) -> None:
    section = ValidationSection(metric=metric, patience=patience)
    assert (section.best(values), section.ended(values)) == (best, ended)


def test_nobody_trains_on_the_samples_that_validate() -> None:
    data = Dataset(np.arange(50, dtype=np.float32)[:, None], np.arange(50) % 5)
    train, held = validated("", ValidationSection(share=0.2), data, seed=3)
    assert train is not None
    assert held is not None
    assert (len(train), len(held)) == (40, 10)
    assert {*train.inputs[:, 0]} | {*held.inputs[:, 0]} == {*range(50)}
    again, other = (validated("", ValidationSection(share=0.2), data, seed=seed)[1] for seed in (3, 4))
    assert np.array_equal(held.inputs, again.inputs)  # type: ignore[union-attr]
    assert not np.array_equal(held.inputs, other.inputs)  # type: ignore[union-attr]


def spec(**values: Any) -> RunSpec:
    own = {"model": "mlp:64-12-10", "data": "digits", "group": {"pieces": 1}, "fleet": {"virtual": 2}}
    training = {"epochs": 6, "batch": 64, "wire": "float32", "kernels": "by_size", "learning_rate": 0.4}
    return parse_config({**own, "training": training, **values}, RunSpec, "the test")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"validation": {}}, "no validation.npz"),
        ({"validation": {"share": 0.0005}}, "too few"),
        ({"validation": {"share": 0.1, "metric": "rmse"}}, r"'rmse' is not defined .* loss, accuracy"),
        ({"validation": {"share": 0.1}, "checkpoints": {"evaluate": "never"}}, "chooses among epochs"),
        ({"validation": {"share": 0.1}, "device_data": "/sdcard/x"}, "they are on the phones"),
        ({"validation": {"share": 0.9}}, "share"),
        ({"validation": {"share": 0.1}, "sharing": {"theta": 0.0}}, "theta = 0 shares nothing"),
    ],
)
def test_a_validation_that_is_impossible_is_refused_before_anything_compiles(
    values: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        check(spec(**values))


def test_the_file_of_the_data_folder_validates(tmp_path: Path) -> None:
    for split in ("train", "test"):
        data = load_split("digits", split)  # type: ignore[arg-type]
        (tmp_path / f"{split}.npz").write_bytes(to_npz(data))
    (tmp_path / "validation.npz").write_bytes(to_npz(load_split("digits", "test").subset(np.arange(9))))
    checked = check(spec(data=str(tmp_path), validation={}))
    assert checked.validation is not None
    assert (len(checked.validation), len(checked.train or ())) == (9, 1437)


def simulated(simulation: Simulation, run: Path, stop_after: int = 0) -> list[tuple[str, Any]]:
    events: list[tuple[str, Any]] = []
    interrupt = Interrupt()

    def listen(event: str, fields: dict[str, Any]) -> None:
        events.append((event, fields))
        if event == "round" and fields["round"] + 1 == stop_after:
            interrupt.ask()

    simulate_run(simulation, run, listen, interrupt)
    return events


OWN = """
def missed(scores, targets):
    return float((scores.argmax(1) != targets).mean())

def broken(scores, targets):
    return scores[:, 99].mean()

def accuracy(scores, targets):
    return 0.0
"""


def test_a_metric_of_ones_own_is_one_of_every_evaluation(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    values = spec(
        training={"epochs": 1, "batch": 256, "wire": "float32"},
        validation={"share": 0.1},
        metrics={"own": [f"{tmp_path}/own.py:missed"]},
    )
    simulated(simulation_of(values), tmp_path / "run")
    told = evaluated(tmp_path / "run", None)
    assert told.metrics["missed"] == pytest.approx(1 - (told.accuracy or 0))
    (row,) = read_lines(tmp_path / "run/metrics.jsonl")
    assert row["validation"]["missed"] == pytest.approx(1 - row["validation"]["accuracy"])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("broken", r"broken fails on scores \[8, 10\]"),
        ("accuracy", "there is a metric 'accuracy' already"),
        ("gone", "cannot be imported"),
    ],
)
def test_metrics_that_cannot_be_computed_are_refused_before_anything_compiles(
    tmp_path: Path, name: str, told: str
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    with pytest.raises(ConfigError, match=told):
        check(spec(metrics={"own": [f"{tmp_path}/own.py:{name}"]}))


def test_a_simulation_ends_early_with_its_best_epoch_however_often_it_stops(tmp_path: Path) -> None:
    values = spec(
        training={"epochs": 9, "batch": 256, "wire": "float32", "learning_rate": 2.5, "seed": 1},
        validation={"share": 0.1, "patience": 2},
    )
    wanted = simulation_of(values)
    events = simulated(wanted, tmp_path / "whole")
    losses = [row["validation"]["loss"] for row in read_lines(tmp_path / "whole/metrics.jsonl")]
    section = ValidationSection(patience=2)
    assert len(losses) < 9
    assert len(losses) == section.ended(losses)
    assert events[-1][0] == "chosen"
    assert events[-1][1]["epoch"] == section.best(losses) < len(losses) - 1
    with pytest.raises(Interrupted):
        simulated(wanted, tmp_path / "twice", stop_after=2)
    simulated(wanted, tmp_path / "twice")
    one, two = (load_model_state(tmp_path / name) for name in ("whole", "twice"))
    assert all(bool((one[name] == two[name]).all()) for name in one)
    assert evaluated(tmp_path / "whole", None).samples == 360
    simulated(wanted, tmp_path / "whole")  # it is over: the same again
    assert json.loads((tmp_path / "whole/inputs.json").read_text())["given"]["validation data"]
