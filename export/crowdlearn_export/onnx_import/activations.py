"""Activations by their values: operations between one value and numbers are taken for the activation whose
curve they have. Exporters write it in many ways (x * Sigmoid(x), a GELU of Erf, Clip from 0 to 6).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .operations import Graph, Operation, is_scalar

NEAR, FAR = 12.0, 1e4
"""The curve is compared densely up to NEAR, sparsely up to FAR."""
OVERFLOWS = 80.0
"""The value beyond which a formula with exponentials may give no number where the activation gives one."""
AGREEMENT = 2e-6
"""Largest difference of two equal curves, whose numbers are float32 in the file."""

_FAR = torch.logspace(1, 4, 40, dtype=torch.float64)
GRID = torch.cat([-_FAR.flip(0), torch.linspace(-NEAR, NEAR, 2401, dtype=torch.float64), _FAR])

_Curve = Callable[[Sequence[Tensor], Mapping[str, Any]], Tensor]


def _clamped(x: Tensor, low: float | None, high: float | None) -> Tensor:
    return x.clamp(low, high) if low is not None or high is not None else x


CURVES: dict[str, _Curve] = {
    "Relu": lambda x, a: F.relu(x[0]),
    "LeakyRelu": lambda x, a: F.leaky_relu(x[0], a["alpha"]),
    "Elu": lambda x, a: F.elu(x[0], a["alpha"]),
    "Selu": lambda x, a: F.elu(x[0], a["alpha"]) * a["gamma"],
    "Softplus": lambda x, a: F.softplus(x[0], a.get("beta", 1.0)),
    "Mish": lambda x, a: F.mish(x[0]),
    "Sigmoid": lambda x, a: torch.sigmoid(x[0]),
    "Tanh": lambda x, a: torch.tanh(x[0]),
    "Erf": lambda x, a: torch.erf(x[0]),
    "Exp": lambda x, a: torch.exp(x[0]),
    "Neg": lambda x, a: -x[0],
    "Abs": lambda x, a: x[0].abs(),
    "Reciprocal": lambda x, a: 1 / x[0],
    "HardSwish": lambda x, a: F.hardswish(x[0]),
    "HardSigmoid": lambda x, a: (x[0] * a["alpha"] + a["beta"]).clamp(0, 1),
    "Gelu": lambda x, a: F.gelu(x[0], approximate=a["approximate"].decode()),
    "Swish": lambda x, a: x[0] * torch.sigmoid(x[0] * a.get("alpha", 1.0)),
    "Add": lambda x, a: x[0] + x[1],
    "Sub": lambda x, a: x[0] - x[1],
    "Mul": lambda x, a: x[0] * x[1],
    "Div": lambda x, a: x[0] / x[1],
    "Pow": lambda x, a: x[0] ** x[1],
    "Greater": lambda x, a: (x[0] > x[1]).double(),
    "Where": lambda x, a: torch.where(x[0] != 0, x[1], x[2]),
    "Min": lambda x, a: torch.minimum(x[0], x[-1]),
    "Max": lambda x, a: torch.maximum(x[0], x[-1]),
}
"""The operations that may be part of an activation, in float64."""


def _known(curve: Tensor) -> dict[tuple[str, Any], Tensor]:
    """Return the activations that slices have, by kind of node and attributes, and of what values."""
    slope, depth = float(curve[(GRID + 1).abs().argmin()]) * -1, -float(curve[0])
    at_zero = float(curve[GRID.abs().argmin()])
    sharpness = math.log(2) / at_zero if at_zero > 0 else 1.0
    return {
        ("Identity", ()): GRID,
        ("Relu", ()): F.relu(GRID),
        ("Clip", (("min", 0.0), ("max", 6.0))): F.relu6(GRID),
        ("Sigmoid", ()): torch.sigmoid(GRID),
        ("Tanh", ()): torch.tanh(GRID),
        ("Elu", (("alpha", depth),)): F.elu(GRID, depth),
        ("Selu", ()): F.selu(GRID),
        ("Softplus", (("beta", sharpness),)): F.softplus(GRID, sharpness),
        ("Mish", ()): F.mish(GRID),
        ("Swish", ()): F.silu(GRID),
        ("Gelu", (("approximate", b"none"),)): F.gelu(GRID),
        ("Gelu", (("approximate", b"tanh"),)): F.gelu(GRID, approximate="tanh"),
        ("HardSwish", ()): F.hardswish(GRID),
        ("HardSigmoid", (("alpha", 1 / 6), ("beta", 0.5))): F.hardsigmoid(GRID),
        ("LeakyRelu", (("alpha", slope),)): F.leaky_relu(GRID, slope),
    }


def recognised(curve: Tensor) -> tuple[str, dict[str, Any]] | None:
    """Return the kind of node and the attributes of the activation with these values on GRID; None if there
    is none. Values are float64 [n].
    """
    for (kind, attributes), values in _known(curve).items():
        near = (curve - values).abs() <= AGREEMENT * (1 + values.abs())
        if bool((near | (curve.isnan() & (GRID.abs() > OVERFLOWS))).all()):
            return kind, dict(attributes)
    return None


def name_activations(graph: Graph) -> Graph:
    """Return the graph with one operation for each activation."""
    position = 0
    while position <= len(graph.operations):
        # Every value may be the input of activations; those before it are one operation each by now.
        root = graph.operations[position - 1].output if position else graph.input
        changed = _named(graph, root)
        if changed is None:
            position += 1
        else:
            graph = changed
    return graph


def _named(graph: Graph, root: str) -> Graph | None:
    """Return the graph with the longest activation of `root` as one operation; None if all are so."""
    curves, members = _closure(graph, root)
    readers = graph.readers
    for last in reversed(members):
        region = _region(last, members)
        inside = [name for each in region for name in each.inputs]
        hidden = [each.output for each in region if each is not last]
        if any(readers[name] != inside.count(name) for name in hidden):
            continue  # somebody else reads what lies between
        found = recognised(curves[last.output])
        if found is None or (len(region) == 1 and (last.kind, len(last.inputs)) == (found[0], 1)):
            continue
        kind, attributes = found
        named = Operation(kind, (root,), last.outputs[:1], attributes, last.name, last.version)
        return graph.replaced({**dict.fromkeys(hidden, ()), last.output: (named,)})
    return None


def _closure(graph: Graph, root: str) -> tuple[dict[str, Tensor], list[Operation]]:
    """Return what is computed of `root` and numbers alone: values on GRID, and the operations."""
    curves, members = {root: GRID}, []
    for each in graph.operations:
        data = [name for name in each.inputs if name and name not in graph.constants]
        if not data or not curves.keys() >= set(data):
            continue
        constants = [graph.constants[name] for name in each.inputs if name in graph.constants]
        if not all(is_scalar(value) for value in constants):
            continue
        if (values := _values(graph, each, curves)) is not None:
            curves[each.output] = values
            members.append(each)
    return curves, members


def _values(graph: Graph, each: Operation, curves: Mapping[str, Tensor]) -> Tensor | None:
    """Return what the operation gives on GRID; None if it is of another kind."""
    if each.kind in ("Identity", "Cast") and _is_float(each):
        return curves[each.inputs[0]]
    given = [
        curves[name] if name in curves else torch.tensor(float(graph.constants[name].item())).double()
        for name in each.inputs
        if name
    ]
    if each.kind == "Clip":
        bounds = [graph.constant(each, position) for position in (1, 2)]
        numbers = [None if value is None else float(value.item()) for value in bounds]
        for position, name in enumerate(("min", "max")):
            numbers[position] = each.attributes.get(name, numbers[position])
        return _clamped(given[0], *numbers)
    if each.kind not in CURVES or (each.kind in ("Min", "Max") and len(given) > 2):
        return None
    return CURVES[each.kind](given, each.attributes)


def _is_float(each: Operation) -> bool:
    return each.attributes.get("to", 1) == 1


def _region(last: Operation, members: Sequence[Operation]) -> list[Operation]:
    """Return the operations that `last` depends on, and itself."""
    wanted, region = {last.output}, []
    for each in reversed(members):
        if each.output in wanted:
            wanted.update(each.inputs)
            region.append(each)
    return region[::-1]
