"""Methods that compute the same are compiled once, in whichever process."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_export.compiler.compile import lower_methods
from crowdlearn_export.program import ahead
from crowdlearn_export.program.ahead import Task, compile_ahead
from crowdlearn_export.program.methods import Methods
from crowdlearn_export.program.slice_program import export_slices
from crowdlearn_export.stages.piece_stages import piece_stages
from crowdlearn_export.stages.stage import Stage
from crowdlearn_export.tracing.trace import neuron_graph
from torch import nn

SGD = Sgd(momentum=0.9)


class Repeated(nn.Module):
    """Blocks that differ in nothing, then in an activation, in a stride, in a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = self.block(2, nn.ReLU())
        self.alike = nn.ModuleList(self.block(6, nn.ReLU()) for _ in range(2))
        self.other = self.block(6, nn.LeakyReLU(0.1))
        self.added = self.block(6, nn.ReLU())
        self.head = nn.Linear(6, 3)

    @staticmethod
    def block(inputs: int, activation: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), activation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.alike:
            x = block(x)
        x = self.other(x)
        return self.head((x + self.added(x)).mean((2, 3)))


def stages_of(model: nn.Module, *shares: int) -> list[Stage]:
    """The stages of followers that own so many neurons of every hidden layer."""
    graph = neuron_graph(model, torch.zeros(2, 2, 8, 8))
    shapes = [[0, *(share for _ in graph.layers[1:-1]), 0] for share in shares]
    return [stage for owned in shapes for stage in piece_stages(graph, owned, SGD)]


def test_stages_are_of_one_kind_exactly_if_they_compute_the_same() -> None:
    stages = stages_of(Repeated(), 2)
    codes = defaultdict(set)
    for stage in stages:
        graph = lower_methods([stage.method])[stage.method.name]
        shapes = tuple(x.shape for x in stage.method.example), stage.method.batched
        constants = tuple((name, str(value)) for name, value in graph.named_buffers())
        codes[stage.kind].add((graph.code, shapes, constants))
    assert all(len(same) == 1 for same in codes.values())
    assert len({next(iter(same)) for same in codes.values()}) == len(codes)
    assert len(codes) < len(stages)


def test_names_make_no_difference_to_a_kind_and_attributes_do() -> None:
    class Renamed(Repeated):
        def __init__(self) -> None:
            super().__init__()
            self.beginning = self.stem
            del self.stem

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.__dict__["stem"] = self.beginning
            return super().forward(x)

    def kinds(model: nn.Module) -> set[str]:
        return {stage.kind for stage in stages_of(model, 2)}

    assert kinds(Renamed()) == kinds(Repeated())
    other = Repeated()
    other.alike[1][1].eps = 1e-3
    assert len(kinds(other) - kinds(Repeated())) == 2  # forward and backward


def task(folder: Path) -> Task:
    graph = neuron_graph(Repeated(), torch.zeros(2, 2, 8, 8))
    hidden = len(graph.layers) - 2
    return Task(graph, ((0, *[2] * hidden, 0),), SGD, Methods(folder, 5))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_helpers_leave_the_same_files_as_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_helpers", lambda jobs: 0)
    told: list[tuple[int, int]] = []
    compile_ahead(task(tmp_path / "alone"), lambda done, of: told.append((done, of)))
    count = len(task(tmp_path).stages())
    assert told == [(done, count) for done in (*range(count), count)]
    monkeypatch.setattr(ahead, "_helpers", lambda jobs: 1)
    stages = task(tmp_path).stages()
    helped = task(tmp_path / "helped")
    for stage in stages[: count // 2]:
        helped.methods.compiled(stage)
    compile_ahead(helped)
    assert files(tmp_path / "helped") == files(tmp_path / "alone")


def test_what_a_helper_cannot_do_is_done_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_helpers", lambda jobs: 1)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    compile_ahead(task(tmp_path))
    assert len(files(tmp_path)) == len(task(tmp_path).stages())


def test_a_damaged_method_is_compiled_anew(tmp_path: Path) -> None:
    stage, methods = stages_of(Repeated(), 2)[0], Methods(tmp_path / "methods", 5)
    compiled = methods.compiled(stage)
    (path,) = methods.folder.iterdir()
    whole = path.read_bytes()
    assert methods.kept(stage) == compiled
    for damage in (whole[:-1], whole[: len(whole) // 2], b"", b"[]\n", b"{}\n" + whole):
        path.write_bytes(damage)
        assert methods.kept(stage) is None
        assert methods.compiled(stage) == compiled


def test_shapes_come_back_in_their_order_and_from_the_cache(tmp_path: Path) -> None:
    graph = neuron_graph(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), torch.zeros(2, 4))
    shapes = [(4, 0, 3), (0, 6, 0), (4, 0, 3)]
    first = export_slices(graph, shapes, SGD, max_batch=5, cache=tmp_path)
    assert [tuple(layer.owned for layer in p.manifest.layers) for p in first] == shapes

    def refused(done: int, of: int) -> None:
        pytest.fail(f"compiled {done} of {of} again")

    again = export_slices(graph, shapes, SGD, max_batch=5, cache=tmp_path, on_method=refused)
    assert again == first


LIGHT = """
import sys
from pathlib import Path
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_export.doctor.verdict import trainable_graph
from crowdlearn_export.program.slice_program import export_slice
from torch import nn, randn
graph = trainable_graph(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)), randn(2, 6))
export_slice(graph, (6, 4, 3), Sgd(), max_batch=4, cache=Path(sys.argv[1]))
print([name for name in ("executorch.exir", "torch._dynamo") if name in sys.modules])
"""


def test_a_program_that_is_cached_imports_no_compiler(tmp_path: Path) -> None:
    found = [
        subprocess.run(
            [sys.executable, "-c", LIGHT, str(tmp_path)], capture_output=True, text=True, check=True
        ).stdout.splitlines()[-1]
        for _ in range(2)
    ]
    assert "executorch.exir" in found[0]
    assert found[1] == "[]"
