"""Near the border between the backends a program has both forms of a method, and its device chooses."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from crowdlearn_device.errors import ProgramError
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_device.program import kernels
from crowdlearn_device.program.executor import ExecuTorchExecutor, ProgramStore
from crowdlearn_device.program.kernels import ChoosingExecutor, KernelChoice
from crowdlearn_device.program.manifest import BackendChoice
from crowdlearn_device.program.manifest_reader import read_manifest
from crowdlearn_device.program.verification import verify_for
from crowdlearn_export.compiler.compile import compile_program
from crowdlearn_export.compiler.method import CompiledProgram, Method
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
def both(graph: NeuronGraph) -> SliceProgram:
    return export_slice(graph, [96, 0, 3], SGD, max_batch=9, either=True)


def test_a_method_near_the_border_is_there_in_both_forms(both: SliceProgram) -> None:
    manifest = both.manifest
    assert manifest.backends["loss"] == BackendChoice("portable")
    assert manifest.backends["forward_0"] == BackendChoice("portable", "forward_0_on_xnnpack")
    assert {method.name for method in manifest.methods} == {"forward_0", "backward_0", "loss"}
    assert read_manifest(manifest.to_json()) == manifest
    assert manifest.parity is not None
    assert set(manifest.parity) == {"forward_0", "backward_0", "loss"}
    assert b"XnnpackBackend" in both.pte
    verify_for(manifest, both.pte)
    missing = {**manifest.backends, "forward_0": BackendChoice("portable", "forward_0_elsewhere")}
    with pytest.raises(ProgramError, match="does not have method forward_0_elsewhere"):
        verify_for(replace(manifest, backends=missing), both.pte)
    with pytest.raises(ProgramError, match="another form, 'loss', of no method"):
        read_manifest(replace(manifest, backends={"forward_0": BackendChoice("xnnpack", "loss")}).to_json())


@pytest.fixture
def store(both: SliceProgram, tmp_path: Path) -> ProgramStore:
    for name, content in both.files().items():
        (tmp_path / name).write_bytes(content)
    return ProgramStore(tmp_path)


def test_a_device_times_both_forms_once_and_runs_what_it_chose(
    both: SliceProgram, store: ProgramStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = store.executor(both.manifest)
    assert isinstance(executor, ChoosingExecutor)
    assert set(executor.choice.methods) == {"forward_0", "backward_0"}
    for name, timed in executor.choice.methods.items():
        times = {"portable": timed.portable_ms, "xnnpack": timed.xnnpack_ms}
        suggested = both.manifest.backends[name].backend
        assert times[timed.backend] <= min(times.values()) / (
            kernels.CLEARLY if timed.backend == suggested else 1
        )
    written = tmp_path / f"{both.manifest.sha256}.kernels"
    assert KernelChoice.from_json(written.read_text()) == executor.choice
    forms = {name: replace(timed, backend="xnnpack") for name, timed in executor.choice.methods.items()}
    written.write_text(replace(executor.choice, methods=forms).to_json())

    ran: list[str] = []

    def counting(self: ExecuTorchExecutor, method: str, inputs: Any, *, borrowed: bool = False) -> Any:
        ran.append(method)
        return run(self, method, inputs, borrowed=borrowed)

    run = ExecuTorchExecutor.run
    monkeypatch.setattr(ExecuTorchExecutor, "run", counting)
    chosen = store.executor(both.manifest)
    assert ran == []  # as is written
    method = both.manifest.method("forward_0")
    rng = np.random.default_rng(0)
    shapes = [[9 if size == "B" else int(size) for size in port.shape] for port in method.inputs]
    arrays = [rng.standard_normal(shape, np.float32) for shape in shapes]
    (found,) = chosen.run("forward_0", arrays)
    assert ran == ["forward_0_on_xnnpack"]
    np.testing.assert_allclose(found, arrays[0] @ arrays[1], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("text", ["", "{}", '{"version": 0}', '{"version": 1, "methods": []}', "[1]"])
def test_what_is_no_choice_is_made_anew(
    both: SliceProgram, store: ProgramStore, tmp_path: Path, text: str
) -> None:
    written = tmp_path / f"{both.manifest.sha256}.kernels"
    written.write_text(text)
    with pytest.raises(ValueError):
        KernelChoice.from_json(text)
    executor = store.executor(both.manifest)
    assert isinstance(executor, ChoosingExecutor)
    assert KernelChoice.from_json(written.read_text()) == executor.choice


def test_nothing_is_timed_under_an_emulator(
    both: SliceProgram, store: ProgramStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "emulated", lambda: True)
    executor = store.executor(both.manifest)
    assert isinstance(executor, ChoosingExecutor)
    assert executor.choice == KernelChoice(platform.machine(), True)


def test_by_size_the_same_network_gives_the_same_program(graph: NeuronGraph) -> None:
    first, second = (export_slice(graph, [0, 64, 0], SGD, max_batch=9) for _ in range(2))
    assert first == second
    assert not any(choice.other for choice in first.manifest.backends.values())


def test_who_exports_second_gets_the_first_ones_program(both: SliceProgram, tmp_path) -> None:
    """Whatever was faster this time: a run that goes on has the programs that it began with."""
    other = replace(both, manifest=replace(both.manifest, max_batch=8))
    assert save_cached(tmp_path / "key", both) == both
    assert save_cached(tmp_path / "key", other) == both
    (tmp_path / "key" / "program.pte").write_bytes(b"damaged")
    assert save_cached(tmp_path / "key", other) == other
    assert load_cached(tmp_path / "key") == other
    (tmp_path / "key" / "manifest.json").write_text("damaged")
    assert load_cached(tmp_path / "key") is None
    assert save_cached(tmp_path / "key", both) == both
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_program_that_cannot_be_kept_serves_all_the_same(both: SliceProgram, tmp_path) -> None:
    (tmp_path / "key").write_text("another user's file")
    assert save_cached(tmp_path / "key", both) == both
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
