"""Combinations of uploads that few wrong ones cannot move."""

from __future__ import annotations

import numpy as np
import pytest
from crowdlearn_device.sharing.update import Update
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.methods.slicenet.combining import COMBINATIONS, most_wrong
from crowdlearn_host.methods.slicenet.window import Window
from crowdlearn_host.spec.simulation import SimulationConfig


@pytest.mark.parametrize("name", COMBINATIONS)
@pytest.mark.parametrize("count", range(1, 10))
def test_combinations_are_those_of_the_uploads_that_are_there(name: str, count: int) -> None:
    rng = np.random.default_rng(count)
    uploads = rng.normal(size=(9, 50)).astype(np.float32)
    found = COMBINATIONS[name].of(uploads, np.full(50, count))
    there = np.sort(uploads[:count].astype(np.float64), axis=0)
    cut = int(0.25 * count)
    expected = {
        "mean": there.mean(0),
        "trimmed": there[cut : count - cut].mean(0),
        "median": np.median(there, axis=0),
    }
    assert np.abs(found - expected[name]).max() < 1e-6


@pytest.mark.parametrize("name", ["trimmed", "median"])
def test_so_many_wrong_uploads_do_not_move_the_global_model(name: str) -> None:
    groups, right = 9, np.random.default_rng(0).normal(size=(9, 30)).astype(np.float32)
    wrong = most_wrong(name, groups)
    assert wrong == {"trimmed": 2, "median": 4}[name]
    window = Window(np.zeros(30, np.float32), groups)
    window.combine(COMBINATIONS[name])
    for group in range(groups):
        values = np.full(30, 1e6, np.float32) if group < wrong else right[group]
        window.apply(Update(group, 0, np.arange(30, dtype=np.uint32), values))
    honest = right[wrong:]
    assert (window.average() >= honest.min(0)).all()
    assert (window.average() <= honest.max(0)).all()


def test_the_mean_stays_as_it_was_and_sums_reveal_no_median() -> None:
    window = Window(np.zeros(3, np.float32), 2)
    window.apply(Update(0, 0, np.arange(3, dtype=np.uint32), np.ones(3, np.float32)))
    before = window.average().copy()
    window.combine(COMBINATIONS["mean"])
    assert (window.average() == before).all()
    with pytest.raises(ConfigError, match="sums alone"):
        SimulationConfig.model_validate(
            {"devices": 16, "group": 2, "sharing": {"secure": True, "combine": "median"}}
        )
