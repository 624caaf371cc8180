"""Every network of a generator trains like autograd, as one program and in pieces."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from crowdlearn_export.tracing.trace import neuron_graph

from tests.export.random_networks import ALL, FEW, Variety, cut, generated

from .test_sliced_training import assert_sliced_equals_whole

ONE_IN = 5
"""Networks of which one is a single program, and the others are cut."""
MANY, TOGETHER = 500, 25
ROUNDED = 1e-4
"""Of the largest weight, what float32 may differ by: batch norms one behind the other make more of errors."""


@pytest.mark.parametrize("seed", range(25))
def test_a_network_trains_like_autograd(seed: int, programs: Path) -> None:
    assert_trains(seed, FEW, seed % ONE_IN > 0, programs)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first", range(0, MANY, TOGETHER))
def test_every_network_trains_like_autograd(first: int, programs: Path) -> None:
    for seed in range(first, first + TOGETHER):
        for sliced in (False, True):
            assert_trains(seed, ALL, sliced, programs)


def assert_trains(seed: int, variety: Variety, sliced: bool, programs: Path) -> None:
    model, sample = generated(seed, variety)
    graph = neuron_graph(model, torch.zeros(2, *sample))
    counts = cut(graph, seed) if sliced else [[layer.neurons for layer in graph.layers]]
    try:
        assert_sliced_equals_whole(
            lambda: generated(seed, variety)[0],
            sample,
            counts,
            16,
            programs,
            ranked=sliced,
            relative=ROUNDED,
        )
    except AssertionError as error:
        error.add_note(f"network {seed} in {counts}: {model}")
        raise
