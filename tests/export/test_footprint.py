"""What programs take of memory is known before a piece is exported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_export.graph.memory_curves import MemoryUse
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.program import footprint as module
from crowdlearn_export.program.footprint import footprint
from crowdlearn_export.program.slice_program import export_slice
from crowdlearn_export.tracing.trace import neuron_graph
from torch import nn

MICRO_BATCH = 7


def test_a_region_takes_what_its_exported_program_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = neuron_graph(nn.Sequential(nn.Linear(6, 5)), torch.zeros(2, 6), "one layer")
    found = footprint(graph, MICRO_BATCH, tmp_path, regions=[0])
    program = export_slice(graph, [6, 5], Sgd(momentum=0.9), max_batch=MICRO_BATCH + 1)
    larger = max(found.regions[0], found.step)
    assert larger == program.manifest.arena_bytes + program.manifest.workspace_bytes

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it is known")

    monkeypatch.setattr("crowdlearn_export.compiler.compile.compile_program", refuse)
    assert footprint(graph, MICRO_BATCH, tmp_path, regions=[0]) == found
    none = footprint(graph, MICRO_BATCH, tmp_path)
    assert (none.regions, none.step) == ({}, 0.0)


def test_with_less_memory_a_region_takes_what_that_program_takes(tmp_path: Path) -> None:
    layers = (nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU())
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(6 * 6 * 6, 3))
    graph = neuron_graph(model, torch.zeros(2, 2, 6, 6), "convolutions")
    owned = [layer.neurons for layer in graph.layers]
    bytes_of: dict[str, float] = {}
    uses: tuple[MemoryUse, ...] = ("least", "fastest")
    for memory in uses:
        found = footprint(graph, MICRO_BATCH, tmp_path, regions=[0], memory=memory)
        program = export_slice(graph, owned, Sgd(momentum=0.9), max_batch=MICRO_BATCH + 1, memory=memory)
        bytes_of[memory] = max(found.regions[0], found.step)
        assert bytes_of[memory] == pytest.approx(
            program.manifest.arena_bytes + program.manifest.workspace_bytes, rel=0.15
        )
    assert bytes_of["least"] < bytes_of["fastest"]


class Shortcut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 4).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.stem(x))
        return self.head(torch.tanh(self.two(torch.tanh(self.one(x))) + x))


def test_a_region_that_gives_errors_to_others_is_another_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a frozen stem nobody asks for the errors of its shortcut."""
    compiled = []

    def note(graph: NeuronGraph, owned: Sequence[int], *_: object, **__: object) -> tuple[int, int]:
        if owned[0] == owned[1] == 0:
            compiled.append(graph.taught)
        return 1, 1

    monkeypatch.setattr(module, "_compiled", note)
    frozen = Shortcut()
    frozen.stem.requires_grad_(False)
    for model in (Shortcut(), frozen):
        compiled.clear()
        graph = neuron_graph(model, torch.zeros(2, 6))
        footprint(graph, MICRO_BATCH, tmp_path, regions=[2])
        assert graph.taught in compiled
