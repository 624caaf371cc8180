"""The programs that every runtime is tried with, and their inputs: one of each kind that phones run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_device.program.replay import Arrays, replay_arrays
from crowdlearn_export.compiler.compile import compile_program
from crowdlearn_export.compiler.method import Method
from crowdlearn_export.graph.freezing import hold_frozen
from crowdlearn_export.graph.neuron_graph import FrozenAs
from crowdlearn_export.graph.shape import piece_shape
from crowdlearn_export.program.inference import inference_stage
from crowdlearn_export.stages.piece_stages import piece_stages
from crowdlearn_export.stages.train_step import train_step
from crowdlearn_export.tracing.trace import neuron_graph
from torch import Tensor, nn
from torch.nn import functional

BATCH = 6
SGD = Sgd(momentum=0.9, weight_decay=1e-3)


@dataclass(frozen=True)
class Program:
    """A .pte, inputs of its methods (METHOD/in0, ...) and what ExecuTorch's own bindings make of them.

    `exact` has the same arrays, computed in float64 by PyTorch.
    """

    name: str
    pte: bytes
    operators: tuple[str, ...]
    inputs: Arrays
    expected: Arrays
    exact: Arrays

    def save(self, folder: Path) -> None:
        """NAME.pte, and NAME.npz with the inputs."""
        (folder / f"{self.name}.pte").write_bytes(self.pte)
        with (folder / f"{self.name}.npz").open("wb") as file:
            np.savez(file, allow_pickle=False, **self.inputs)

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(name.rpartition("/")[0] for name in self.inputs))


def dense() -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(12, 9), nn.BatchNorm1d(9), nn.ReLU()),
        *(nn.Linear(9, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 4)),
    )


def resting() -> nn.Module:
    """The same with its first layers frozen."""
    model = dense()
    for first, _ in zip(model.children(), range(3), strict=False):
        first.eval().requires_grad_(False)
    return model


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 4))


def convolutional() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 8, 3, padding=1), nn.SiLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)),
    )


class Residual(nn.Module):
    """One block with an identity around two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.first, self.norm = nn.Conv2d(6, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.second, self.head = nn.Conv2d(4, 6, 3, padding=1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.second(torch.relu(self.norm(self.first(x)))) + x)
        return self.head(x.mean((2, 3)))


def depthwise() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 1), nn.BatchNorm2d(6), nn.ReLU6()),
        *(nn.Conv2d(6, 6, 3, 2, 1, groups=6, bias=False), nn.BatchNorm2d(6), nn.SiLU()),
        *(nn.Conv2d(6, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)),
    )


class Transformer(nn.Module):
    """One layer of self-attention over rows of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(1))


SHAPES = {
    "dense": (dense, (12,)),
    "conv": (convolutional, (2, 8, 8)),
    "residual": (Residual, (2, 6, 6)),
    "depthwise": (depthwise, (2, 8, 8)),
}


STEPS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "transformer": (Transformer, (5, 8)),
    "plain": (plain, (12,)),
}
"""Networks of which a step is the only method."""
NARROW: dict[str, FrozenAs] = {"halves": "float16", "codes": "int8"}
"""Networks whose frozen weights are held in fewer bytes, by name."""


def programs(names: Sequence[str] = (*SHAPES, "transformer", *NARROW)) -> Iterator[Program]:
    """For each sliced network its pieces, the whole, and its prediction; for those of STEPS a step; and a
    whole network for each type of NARROW.
    """
    for name in names:
        torch.manual_seed(0)
        if name in STEPS:
            model, shape = STEPS[name]
            x, targets = torch.randn(BATCH, *shape), torch.arange(BATCH) % 4
            step = train_step(model(), functional.cross_entropy, x, targets, SGD)
            rate = torch.tensor(0.05)
            method = Method(
                step.method.name,
                step.method.function,
                (*step.state.values(), x, targets, rate),
                step.method.batched,
                step.method.updates,
            )
            yield _program(name, [method])
            continue
        if name in NARROW:
            model = resting()
            graph = hold_frozen(neuron_graph(model, torch.randn(BATCH, 12)), model, NARROW[name])
            whole = piece_stages(graph, [layer.neurons for layer in graph.layers], SGD)
            yield _program(name, [stage.method for stage in whole])
            continue
        make, shape = SHAPES[name]
        graph = neuron_graph(make().train(), torch.randn(BATCH, *shape))
        neurons = [layer.neurons for layer in graph.layers]
        hidden = [0, *neurons[1:-1], 0]
        ends = [neurons[0], *(0 for _ in hidden[1:-1]), neurons[-1]]
        for part, owned in (("dominator", ends), ("follower", hidden), ("whole", neurons)):
            stages = piece_stages(graph, owned, SGD)
            yield _program(f"{name}-{part}", [stage.method for stage in stages])
        stage = inference_stage(graph, piece_shape(graph, neurons))
        yield _program(f"{name}-predict", [stage.method])


def _program(name: str, methods: Sequence[Method]) -> Program:
    compiled = compile_program(methods, max_batch=BATCH)
    inputs = {
        f"{method.name}/in{number}": tensor.detach().contiguous().numpy().copy()
        for method in methods
        for number, tensor in enumerate(method.example)
    }
    expected = replay_arrays(ExecuTorchExecutor(compiled.pte), inputs)
    return Program(name, compiled.pte, compiled.operators, inputs, expected, _exact(methods))


def _exact(methods: Sequence[Method]) -> Arrays:
    found: Arrays = {}
    for method in methods:
        given = [tensor.double() if tensor.is_floating_point() else tensor for tensor in method.example]
        results = method.function(*given)
        outputs = [x for position, x in enumerate(results) if position not in method.updates]
        for number, output in enumerate(outputs):
            found[f"{method.name}/out{number}"] = output.detach().numpy()
        after = {target: results[position] for position, target in method.updates.items()}
        for number, tensor in enumerate(given):
            found[f"{method.name}/after{number}"] = after.get(number, tensor).detach().numpy()
    return found
