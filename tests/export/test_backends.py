"""Near the border between the backends a program has the one that was faster where it was exported."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_device.program.manifest_reader import read_manifest
from crowdlearn_export.compiler.compile import CompiledProgram, Method, compile_program
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.program.slice_program import (
    SliceProgram,
    cache_key,
    export_slice,
    load_cached,
    save_cached,
)
from crowdlearn_export.tracing.trace import neuron_graph
from torch import nn

SGD = Sgd(momentum=0.9)


@pytest.fixture(scope="module")
def graph() -> NeuronGraph:
    """Its first layer's products are near the border, its second layer's far below."""
    return neuron_graph(nn.Sequential(nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 3)), torch.zeros(2, 96))


@pytest.fixture(scope="module")
def measured(graph: NeuronGraph) -> SliceProgram:
    return export_slice(graph, [96, 0, 3], SGD, max_batch=9, measured=True)


def test_the_manifest_tells_what_was_measured_and_where(measured: SliceProgram) -> None:
    manifest = measured.manifest
    assert manifest.backends["loss"].portable_ms is None
    assert manifest.measured_on
    near = manifest.backends["forward_0"]
    assert near.portable_ms
    assert near.xnnpack_ms
    times = {"portable": near.portable_ms, "xnnpack": near.xnnpack_ms}
    assert times[near.backend] <= min(times.values()) / 0.9
    assert read_manifest(manifest.to_json()) == manifest


def test_by_size_the_same_network_gives_the_same_program(graph: NeuronGraph) -> None:
    first, second = (export_slice(graph, [0, 64, 0], SGD, max_batch=9) for _ in range(2))
    assert first == second
    assert not first.manifest.measured_on


def test_who_exports_second_gets_the_first_ones_program(measured: SliceProgram, tmp_path) -> None:
    """Whatever was faster this time: a run that goes on has the programs that it began with."""
    other = replace(measured, manifest=replace(measured.manifest, measured_on="another moment"))
    assert save_cached(tmp_path / "key", measured) == measured
    assert save_cached(tmp_path / "key", other) == measured
    (tmp_path / "key" / "program.pte").write_bytes(b"damaged")
    assert save_cached(tmp_path / "key", other) == other
    assert load_cached(tmp_path / "key") == other
    (tmp_path / "key" / "manifest.json").write_text("damaged")
    assert load_cached(tmp_path / "key") is None
    assert save_cached(tmp_path / "key", measured) == measured
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_program_that_cannot_be_kept_serves_all_the_same(measured: SliceProgram, tmp_path) -> None:
    (tmp_path / "key").write_text("another user's file")
    assert save_cached(tmp_path / "key", measured) == measured
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_another_name_of_the_same_network_is_no_other_program(graph: NeuronGraph) -> None:
    assert cache_key(replace(graph, name="another run")) == cache_key(graph)
    assert cache_key(replace(graph, frozen=("0.weight",))) != cache_key(graph)


def test_the_largest_batch_decides_and_not_the_example() -> None:
    """Products, elementwise operations and sums that are large for one of these batches alone."""
    weight = torch.randn(128, 96)

    def step(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = torch.tanh(x @ weight)
        return y, (y * y).sum(0)

    def program(rows: int, max_batch: int) -> CompiledProgram:
        method = Method("step", step, (torch.randn(rows, 128), weight), (0,))
        return compile_program([method], max_batch=max_batch)

    assert program(5, 4).backends["step"] == "portable"
    assert program(5, 400).backends["step"] == "xnnpack"
    assert program(5, 400) == program(17, 400)
    few, many = program(5, 10), program(5, 400)
    assert few.backends == many.backends
    assert few.operators > many.operators  # its tanh, product and sum are too small
