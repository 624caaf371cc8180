"""How near the gradient of a model's compiled training step comes to that of float64 autograd."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_device.program.executor import Executor
from crowdlearn_device.program.manifest import LOSS, Port
from crowdlearn_device.protocol.frames import Array
from crowdlearn_device.protocol.targets import TargetSpec
from torch import Tensor, nn

from crowdlearn_export.compiler.method import Method
from crowdlearn_export.graph.weights import arrays_of, neurons_first
from crowdlearn_export.losses.base import Loss
from crowdlearn_export.program.kinks import away_from_kinks_of, double
from crowdlearn_export.program.parity import allowed_error, relative_error
from crowdlearn_export.stages.piece_stages import piece_stages
from crowdlearn_export.tracing.in_float64 import InFloat64
from crowdlearn_export.tracing.undropped import Undropped

from .verdict import trainable_graph

Gradients = Mapping[str, Array]


@dataclass(frozen=True)
class Objective:
    """A loss, the targets that it takes, and the samples that it is tried on."""

    loss: Loss
    spec: TargetSpec
    inputs: Tensor
    outputs: int

    @property
    def targets(self) -> Tensor:
        """Return targets for the samples: every class in turn, or numbers between 0 and 1.

        They are int64 [B] or float32 [B, ...].
        """
        rows = torch.arange(len(self.inputs))
        if self.spec.are_classes:
            ahead = torch.arange(prod(self.spec.shape)).reshape(self.spec.shape)
            return (rows.reshape(-1, *(1 for _ in self.spec.shape)) + ahead) % self.outputs
        drawn = torch.Generator().manual_seed(0)
        return torch.rand(len(rows), *self.spec.shape, generator=drawn)

    def mean(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a mini-batch, as PyTorch computes it. Scores are float32 [B, outputs]."""
        numbers = targets if self.spec.are_classes else targets.to(scores.dtype)
        return self.loss.reference(scores, numbers) / self.spec.weight(targets.numpy())


@dataclass(frozen=True)
class Step:
    """A whole training step as methods; how its gradient is read, and how a model's is laid out like it.

    `gradients` runs the program on some rows of the example, [rows] int64, and returns the gradient.
    """

    methods: Sequence[Method]
    gradients: Callable[[Executor, Tensor], Gradients]
    laid_out: Callable[[Mapping[str, Tensor]], Gradients]


def step_of(model: nn.Module, of: Objective) -> Step:
    """Return the step of a model as a device runs it that holds all of it."""
    inputs, targets = of.inputs, of.targets
    graph = trainable_graph(model, inputs, loss=of.loss, pieces=1)
    stages = piece_stages(graph, [layer.neurons for layer in graph.layers], Sgd(), of.loss)
    ports = next(stage.spec for stage in stages if stage.spec.name == LOSS)
    arrays = arrays_of(graph, model.state_dict())
    samples = inputs.reshape(len(inputs), graph.layers[0].neurons, *graph.layers[0].sum_shape)

    def given(port: Port, rows: Tensor) -> Array:
        if port.name:
            return arrays[port.name]
        if port.role == "sum":
            return samples[rows].numpy()
        if port.role == "labels":
            return targets[rows].numpy()
        if port.role == "scale":
            return np.array(1.0 / of.spec.weight(targets[rows].numpy()), np.float32)
        return np.ones((len(rows), *(int(size) for size in port.shape[1:])), np.float32)

    def gradients(executor: Executor, rows: Tensor) -> Gradients:
        outputs = executor.run(LOSS, [given(port, rows) for port in ports.inputs])
        found = zip(ports.outputs, outputs, strict=True)
        return {port.name: values for port, values in found if port.role == "gradient"}

    def laid_out(found: Mapping[str, Tensor]) -> Gradients:
        state = neurons_first(graph, {**model.state_dict(), **found})
        return {array: state[array].numpy() for array in state if array in found}

    return Step([stage.method for stage in stages], gradients, laid_out)


def gradient_errors(model: nn.Module, step: Step, of: Objective, executor: Executor) -> tuple[float, float]:
    """Return the relative errors of the step's gradient, on the first and on a repeated call, and of
    PyTorch's in float32: on samples of the example away from kinks, as far as there are some, and nothing is
    dropped.
    """
    exact = copy.deepcopy(model).double()
    with Undropped():
        rows = away_from_kinks_of(exact, of.inputs)
    found = []
    for some in (rows, rows[::2], rows[1::2], rows[::3], rows[1::3]):
        # A wrong program is wrong on any samples; those next to a kink differ by chance.
        if len(some) < 2:
            break
        error, float32_error = _errors_on(some, exact, step, of, executor)
        found.append((error, float32_error))
        if error <= allowed_error(float32_error) < math.inf:
            break
    return min(found)


def _errors_on(
    rows: Tensor, exact: nn.Module, step: Step, of: Objective, executor: Executor
) -> tuple[float, float]:
    """Return the same on some rows of the example."""
    narrow, exact = copy.deepcopy(exact).float(), copy.deepcopy(exact)
    wide = double([of.inputs[rows]])[0]
    for network, x, kind in ((exact, wide, InFloat64()), (narrow, of.inputs[rows], nullcontext())):
        with Undropped(), kind:
            torch.autograd.backward(of.mean(network(x), of.targets[rows]))
    gradients, in_float32 = (
        step.laid_out({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
        for network in (exact, narrow)
    )
    errors = []
    for _ in range(2):
        found = step.gradients(executor, rows)
        errors.append(relative_error({name: found[name] for name in gradients}, gradients))
    return max(errors), relative_error(in_float32, gradients)
