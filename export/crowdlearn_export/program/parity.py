"""The gate of every export: the outputs of a program must be those of float64 autograd."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from crowdlearn_device.program.executor import Executor
from crowdlearn_device.program.manifest import Port
from crowdlearn_device.protocol.frames import Array
from torch import Tensor

from crowdlearn_export.errors import ParityError
from crowdlearn_export.stages.stage import Stage, example_inputs
from crowdlearn_export.tracing.in_float64 import InFloat64

from .kinks import FLOAT32, away_from_kinks, away_in_float32, double

PARITY = 1e-5
"""Largest relative error of an exported program against float64 autograd, or FLOAT32 times the error that
autograd itself makes in float32, where that is more: batch norm over few samples, layer upon layer, costs
digits in any implementation.
"""
SMALL = 5
"""The other batch that is tried beside the largest; over 2 samples batch norm leaves little but signs."""
FEWEST = 3
"""Samples that are not halved any more."""
DRAWS = 5
"""The draws of samples that are tried before a program is called wrong."""
CONTINUOUS = frozenset({"sum", "loss", "logits", "buffer"})
"""The roles of outputs that do not jump where a ReLU or a maximum takes the other side."""


def check_parity(stages: Sequence[Stage], executor: Executor, max_batch: int) -> dict[str, float]:
    """Return the relative error of each method against float64 autograd, at a small and at the largest batch.

    Outputs of one role are compared as one vector: a gradient that is zero by cancellation has no scale of
    its own. Of weights it is the change that counts. A wrong program is wrong on every draw; on one that is
    right, samples next to a kink may take the other side by chance. So what differs is drawn again. If no
    samples are found away from every kink, or from what float32 itself takes for one, half of them are tried.
    Raises ParityError naming method and output.
    """
    worst: dict[str, float] = {}
    generator = torch.Generator().manual_seed(1)
    for stage in stages:
        batches = [min(SMALL, max_batch), max_batch] if stage.method.batched else [1]
        errors = [_compared(stage, executor, batch, generator) for batch in dict.fromkeys(batches)]
        worst[stage.method.name] = max(errors)
    return worst


def _compared(stage: Stage, executor: Executor, batch: int, generator: torch.Generator) -> float:
    """Return the largest error on `batch` samples, or on fewer. Raises ParityError if it is too large."""
    away, refused = False, None
    inputs: tuple[Tensor, ...] = ()
    for _ in range(DRAWS):
        inputs, away = away_from_kinks(stage, example_inputs(stage.inputs, batch, generator), generator)
        found = [one for call in _errors(stage, executor, inputs) for one in call]
        refused = next(
            ((port, error, most) for port, error, most in found if not error <= most < math.inf), None
        )
        if refused is None:
            return max((error for _, error, _ in found), default=0.0)
    assert refused is not None
    port, error, most = refused
    if batch > FEWEST and port.role not in CONTINUOUS and not (away and away_in_float32(stage, inputs)):
        return _compared(stage, executor, max(batch // 2, FEWEST), generator)
    raise ParityError(
        f"{stage.method.name}: output {port.role} {port.name} differs from autograd by {error:.1e} (at most "
        f"{most:.0e}) at batch {batch}; the model cannot be exported with this lowering, please report it"
    )


def _errors(
    stage: Stage, executor: Executor, inputs: Sequence[Tensor]
) -> Iterator[list[tuple[Port, float, float]]]:
    """Yield the error of every output and what is allowed, on a first and on a repeated call: a program that
    leaves dirt behind is right only once.
    """
    with InFloat64():
        wide = stage.reference(*double(inputs))
    expected = [x.numpy() for x in wide]
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
            (port, error / scales[port.role], allowed_error(worst[port.role] / scales[port.role]))
            for port, error, _ in errors
        ]


def allowed_error(float32_error: float) -> float:
    """Return the largest error that passes where float32 autograd makes this one."""
    return max(PARITY, FLOAT32 * float32_error)


def relative_error(found: Mapping[str, Array], exact: Mapping[str, Array]) -> float:
    """Return the largest difference over the largest exact value; infinite where a number is not finite.

    Arrays are of one shape [...].
    """
    scale = max(1e-30, *(_largest(value) for value in exact.values()))
    errors = [_largest(found[name] - value) / scale for name, value in exact.items()]
    return max(errors) if all(map(math.isfinite, (scale, *errors))) else math.inf


def _largest(values: Array) -> float:
    return float(np.abs(values).max(initial=0))
