"""The gate of every export: what a program gives must be what float64 autograd gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from crowdlearn_device.executor import Executor
from crowdlearn_device.manifest import Port
from crowdlearn_device.wire import Array
from torch import Tensor

from .errors import ParityError
from .kinks import away_from_kinks, double
from .stages import Stage, example_inputs

PARITY = 1e-5
"""Largest relative error of an exported program against float64 autograd."""
FLOAT32 = 4
"""Times the error that autograd itself makes in float32, where that is more: batch norm over few samples,
layer upon layer, costs digits whoever computes it.
"""
SMALL = 5
"""The other batch that is tried beside the largest; over 2 samples batch norm leaves little but signs."""
CONTINUOUS = frozenset({"sum", "loss", "logits", "buffer"})
"""What does not jump where a ReLU or a maximum changes its mind."""


def check_parity(stages: Sequence[Stage], executor: Executor, max_batch: int) -> dict[str, float]:
    """The relative error of each method against float64 autograd, at a small and at the largest batch.

    Outputs of one role are compared as one vector: a gradient that is zero by cancellation has no scale of
    its own. Of weights it is the change that counts. Where no samples are found that are away from every
    kink, gradients are compared on half of them, or a quarter, and so on. Raises ParityError naming method
    and output.
    """
    worst: dict[str, float] = {}
    generator = torch.Generator().manual_seed(1)
    for stage in stages:
        batches = [min(SMALL, max_batch), max_batch] if stage.method.batched else [1]
        for most in dict.fromkeys(batches):
            for batch, inputs, away in _examples(stage, most, generator):
                for found in _errors(stage, executor, inputs):
                    for port, error, allowed in found:
                        if not (away or port.role in CONTINUOUS):
                            continue
                        if not error <= allowed:
                            raise ParityError(
                                f"{stage.method.name}: output {port.role} {port.name} differs from autograd "
                                f"by {error:.1e} (at most {allowed:.0e}) at batch {batch}; the model cannot "
                                "be exported with this lowering, please report it"
                            )
                        worst[stage.method.name] = max(worst.get(stage.method.name, 0.0), error)
    return worst


def _examples(
    stage: Stage, most: int, generator: torch.Generator
) -> Iterator[tuple[int, tuple[Tensor, ...], bool]]:
    """Inputs of `most` samples, and of fewer until they are away from every kink, or one alone is not."""
    batch, away = most, False
    while batch and not away:
        inputs, away = away_from_kinks(stage, example_inputs(stage.inputs, batch, generator), generator)
        yield batch, inputs, away
        batch //= 2


def _errors(
    stage: Stage, executor: Executor, inputs: Sequence[Tensor]
) -> Iterator[list[tuple[Port, float, float]]]:
    """The error of every output and what is allowed, on a first and on a repeated call: a program that leaves
    dirt behind is right only once.
    """
    expected = [x.numpy() for x in stage.reference(*double(inputs))]
    narrow = [x.numpy() for x in stage.reference(*inputs)]
    updates = stage.method.updates
    for _ in range(2):
        given: list[Any] = [x.numpy().copy() for x in inputs]
        returned = iter(executor.run(stage.method.name, given))
        outputs = [given[updates[i]] if i in updates else next(returned) for i in range(len(expected))]
        scales: dict[str, float] = {}
        errors = []
        for i, (port, exact, output) in enumerate(zip(stage.outputs, expected, outputs, strict=True)):
            if output.shape != exact.shape:
                raise ParityError(
                    f"{stage.method.name}: output {port.role} {port.name} has shape {output.shape}, "
                    f"autograd gives {exact.shape}"
                )
            before = inputs[updates[i]].double().numpy() if port.role == "parameter" else 0.0
            scales[port.role] = max(scales.get(port.role, 1e-30), _largest(exact - before))
            errors.append((port, _largest(output - exact), _largest(narrow[i] - exact)))
        worst = {role: max(n for port, _, n in errors if port.role == role) for role in scales}
        yield [
            (port, error / scales[port.role], max(PARITY, FLOAT32 * worst[port.role] / scales[port.role]))
            for port, error, _ in errors
        ]


def _largest(values: Array) -> float:
    return float(np.abs(values).max(initial=0))
