"""Every network of a generator trains like autograd, as one program and in pieces."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from crowdlearn_export.graph.memory_curves import MemoryUse
from crowdlearn_export.lowering import backend
from crowdlearn_export.program.slice_program import export_slice
from crowdlearn_export.tracing.trace import neuron_graph

from tests.export.random_networks import ALL, FEW, Variety, cut, generated

from .test_sliced_training import SGD, assert_sliced_equals_whole

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


@pytest.mark.parametrize(("seed", "memory"), list(enumerate(get_args(MemoryUse))))
def test_a_program_is_right_whatever_xnnpack_takes(
    seed: int, memory: MemoryUse, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_exports(seed, memory, monkeypatch)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("memory", get_args(MemoryUse))
@pytest.mark.parametrize("first", range(0, MANY // 10, TOGETHER))
def test_every_program_is_right_whatever_xnnpack_takes(
    first: int, memory: MemoryUse, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(first, first + TOGETHER):
        assert_exports(seed, memory, monkeypatch)


def assert_exports(seed: int, memory: MemoryUse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Export a network as one program that gives XNNPACK all that it can take, however small: parts of every
    form come up. Exporting compares with float64.
    """
    for name, least in {"WORTHWHILE": 0, "LARGE": 1, "LARGE_OF_DEAR": 1, "LARGE_SUM": 1, "APART": 64}.items():
        monkeypatch.setattr(backend, name, least)
    model, sample = generated(seed, ALL)
    graph = neuron_graph(model, torch.zeros(2, *sample))
    whole = [layer.neurons for layer in graph.layers]
    export_slice(graph, whole, SGD, max_batch=16, memory=memory)


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
