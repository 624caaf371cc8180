"""How near the gradient of a model's compiled training step comes to that of float64 autograd."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from crowdlearn_device.program.executor import Executor
from torch import Tensor, nn

from crowdlearn_export.program.kinks import away_from_kinks_of, double
from crowdlearn_export.program.parity import allowed_error, relative_error
from crowdlearn_export.stages.train_step import TrainStep


def gradient_errors(model: nn.Module, step: TrainStep, executor: Executor) -> tuple[float, float]:
    """The relative errors of the step's gradient, on the first and on a repeated call, and of PyTorch's in
    float32: on samples of the example away from kinks, as far as there are some, and nothing is dropped.
    """
    exact = copy.deepcopy(model).double()
    for module in exact.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    rows = away_from_kinks_of(exact, step.method.example[len(step.state)])
    found = []
    for some in (rows, rows[::2], rows[1::2], rows[::3], rows[1::3]):
        # A wrong program is wrong on any samples; those next to a kink differ by chance.
        if len(some) < 2:
            break
        error, float32_error = _errors_on(some, exact, step, executor)
        found.append((error, float32_error))
        if error <= allowed_error(float32_error) < math.inf:
            break
    return min(found)


def _errors_on(rows: Tensor, exact: nn.Module, step: TrainStep, executor: Executor) -> tuple[float, float]:
    """The same on some rows of the example."""
    names = list(step.state)
    state = [tensor.numpy() for tensor in step.method.example[: len(names)]]
    batch = step.method.example[len(names) :]
    inputs, targets, _, *factors = (tensor[rows] if tensor.dim() else tensor for tensor in batch)
    narrow, exact = copy.deepcopy(exact).float(), copy.deepcopy(exact)
    for network, x in ((exact, double([inputs])[0]), (narrow, inputs)):
        torch.autograd.backward(nn.functional.cross_entropy(network(x), targets))
    gradients, in_float32 = (
        {name: p.grad.numpy() for name, p in network.named_parameters() if p.grad is not None}
        for network in (exact, narrow)
    )
    taken = [x.numpy() for x in (inputs, targets, torch.tensor(1.0), *factors)]
    errors = []
    for _ in range(2):
        given = [array.copy() for array in state]
        executor.run(step.method.name, [*given, *taken])
        old, new = (dict(zip(names, arrays, strict=True)) for arrays in (state, given))
        found = {name: old[name].astype(np.float64) - new[name] for name in gradients}
        errors.append(relative_error(found, gradients))
    return max(errors), relative_error(in_float32, gradients)
