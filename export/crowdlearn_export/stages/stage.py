"""A stage: a method of a piece as a pure tensor function, with its ports and what it must agree with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from crowdlearn_device.program.manifest import Dim, MethodSpec, Port
from torch import Tensor

from crowdlearn_export.compiler.method import Method
from crowdlearn_export.graph.held.base import SPACING
from crowdlearn_export.graph.held.integers import LARGEST

POSITIVE = ("mask", "scale", "rate", "second_moment", "factor", "clip")
"""The roles of ports whose numbers are not negative."""
FEWEST = 5
"""Samples of an example, if no other size is as large. Arenas are planned for at least as many."""


@dataclass(frozen=True)
class Stage:
    """A method to be compiled, and its entry in a manifest. `reference` computes the same by torch autograd.
    Stages of one `kind` compute the same in the same shapes, whatever their layers are called.
    """

    method: Method
    spec: MethodSpec
    reference: Callable[..., tuple[Tensor, ...]]
    kind: str

    @property
    def inputs(self) -> tuple[Port, ...]:
        return self.spec.inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        """Return what the function gives: the program's outputs, then what it writes over its inputs."""
        return (*self.spec.outputs, *(self.spec.inputs[i] for i in self.method.updates.values()))


def as_stage(
    spec: MethodSpec,
    function: Callable[..., tuple[Tensor, ...]],
    reference: Callable[..., tuple[Tensor, ...]],
    kind: str,
    updates: Mapping[int, int] | None = None,
) -> Stage:
    """Return a stage whose example has a batch unlike its other sizes. Tensors are of the ports' shapes
    [B, ...].
    """
    batched = tuple(i for i, port in enumerate(spec.inputs) if port.shape and port.shape[0] == "B")
    example = example_inputs(spec.inputs, _example_batch(spec.inputs), torch.Generator())
    return Stage(Method(spec.name, function, example, batched, updates or {}), spec, reference, kind)


def kind_of(what: Mapping[str, Any]) -> str:
    """Name a kind of stage by everything that its function depends on."""
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()


def numbered(ports: Sequence[Port], modules: Sequence[str], edges: Sequence[int]) -> list[Port]:
    """Return ports that tell modules and edges by their places in these lists, and no layer."""

    def name(of: Port) -> str:
        module = max((each for each in modules if of.name.startswith(f"{each}.")), key=len, default="")
        return f"{modules.index(module)}{of.name.removeprefix(module)}" if of.name else ""

    return [
        replace(p, name=name(p), layer=-1, edge=edges.index(p.edge) if p.edge >= 0 else -1) for p in ports
    ]


def _example_batch(ports: Sequence[Port]) -> int:
    """Return a batch unlike every other dimension: tracing takes equal sizes for the same size."""
    taken = {dim for port in ports for dim in port.shape}
    return next(batch for batch in range(FEWEST, FEWEST + len(taken) + 1) if batch not in taken)


def _fan(shape: Sequence[Dim]) -> float:
    """Return how large weights of this shape are, for sums about as large as what is summed."""
    sizes = [int(dim) for dim in shape]
    return float((max(sizes) / prod(sizes)) ** 0.5)


def example_inputs(ports: Sequence[Port], batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Draw random inputs of the right shapes; variances and masks are positive, labels are 0 or 1, and
    weights so small that sums stay about as large from layer to layer. Each is of its port's shape [B, ...].
    """
    values = []
    fans = {port.name + SPACING: _fan(port.shape) for port in ports if port.dtype == "int8"}
    for port in ports:
        shape = tuple(batch if dim == "B" else int(dim) for dim in port.shape)
        if port.dtype == "int8":
            values.append(torch.randint(-LARGEST, LARGEST + 1, shape, generator=generator, dtype=torch.int8))
            continue
        if port.name in fans:
            drawn = 0.5 + torch.rand(shape, generator=generator)
            values.append(drawn * fans[port.name] / LARGEST)
            continue
        if port.role == "labels":
            drawn = torch.randint(0, 2, shape, generator=generator)
            values.append(drawn if port.dtype == "int64" else drawn.float() * 0.9 + 0.05)
            continue
        if port.dtype == "int64":
            values.append(torch.randint(0, 2, shape, generator=generator))
            continue
        drawn = torch.randn(shape, generator=generator)
        if port.role in ("parameter", "frozen") and len(shape) > 1:
            drawn *= _fan(shape)
        positive = port.role in POSITIVE or port.name.endswith("running_var")
        values.append((drawn.abs() if positive else drawn).to(getattr(torch, port.dtype)))
    return tuple(values)
