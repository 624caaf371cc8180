"""The stages of a piece as pure tensor functions, one per layer and direction, with the ports they need.

A stage takes what enters its neurons (sums, or errors on their way back) and gives what leaves them. Arrays
are laid out with the owned neurons first: the weights of an edge are [source neurons, ...], since they belong
to the source neuron's owner.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from crowdlearn_device.manifest import ArraySpec, EdgeSpec, LayerSpec, MethodSpec, Port
from torch import Tensor

from .compile import Method
from .errors import UnsupportedModule
from .graph import Edge, Layer, NeuronGraph
from .layers import run_edge, run_local

MATCHED = ("identity", "depthwise")
_vjp: Any = torch.func.vjp  # its annotation leaves out has_aux


@dataclass(frozen=True)
class Optimizer:
    """SGD with momentum and weight decay as torch.optim.SGD defines them; the learning rate is an input."""

    momentum: float = 0.0
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Stage:
    """A method and what its inputs are, and its outputs with what it updates in place. `reference` computes
    the same by torch autograd.
    """

    method: Method
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    reference: Callable[..., tuple[Tensor, ...]]

    @property
    def spec(self) -> MethodSpec:
        """The method as a manifest tells it."""
        given = (port for i, port in enumerate(self.outputs) if i not in self.method.updates)
        return MethodSpec(self.method.name, self.inputs, tuple(given))


def layer_specs(graph: NeuronGraph, owned: Sequence[int]) -> tuple[LayerSpec, ...]:
    """Raises UnsupportedModule for dropout that a mask per neuron does not cover."""
    specs = []
    for layer, count in zip(graph.layers, owned, strict=True):
        drops = [op for op in layer.ops if op.kind == "dropout"]
        if len(drops) > 1:
            raise UnsupportedModule(
                f"{drops[1].module} (Dropout): one dropout a layer can be sliced; merge the two"
            )
        probability = float(drops[0].attributes["p"]) if drops else 0.0  # type: ignore[arg-type]
        if probability and layer.sum_shape and not drops[0].attributes.get("whole_neuron"):
            raise UnsupportedModule(
                f"{drops[0].module} (Dropout) on a feature map: use Dropout2d, which drops whole channels"
            )
        specs.append(LayerSpec(layer.neurons, count, layer.sum_shape, probability))
    return tuple(specs)


def edge_specs(graph: NeuronGraph) -> tuple[EdgeSpec, ...]:
    return tuple(EdgeSpec(e.source, e.target, e.kind in MATCHED) for e in graph.edges)


def array_specs(graph: NeuronGraph) -> tuple[ArraySpec, ...]:
    """Every array of the model by the layer whose owner keeps it; `shape` is one neuron's part."""
    arrays: list[ArraySpec] = []

    def add(name: str, layer: int, shape: tuple[int, ...], trained: bool) -> None:
        offset = 0
        if arrays:
            last = arrays[-1]
            offset = last.offset + graph.layers[last.layer].neurons * prod(last.shape)
        arrays.append(ArraySpec(name, layer, shape, trained, offset))

    for layer in graph.layers:
        for op in layer.ops:
            if op.kind == "bias":
                add(f"{op.module}.bias", layer.index, (), True)
            if op.kind == "batch_norm":
                if op.attributes.get("affine", True):
                    add(f"{op.module}.weight", layer.index, (), True)
                    add(f"{op.module}.bias", layer.index, (), True)
                add(f"{op.module}.running_mean", layer.index, (), False)
                add(f"{op.module}.running_var", layer.index, (), False)
        for edge in graph.outgoing(layer.index):
            if edge.kind != "identity":
                add(f"{edge.module}.weight", layer.index, _weight_shape(graph, edge), True)
    return tuple(arrays)


def _weight_shape(graph: NeuronGraph, edge: Edge) -> tuple[int, ...]:
    source, target = graph.layers[edge.source], graph.layers[edge.target]
    if edge.kind == "dense":
        return (*source.output_shape, target.neurons)
    kernel: Any = edge.attributes["kernel"]
    return (1, *kernel) if edge.kind == "depthwise" else (target.neurons, *kernel)


def to_neurons_first(edge: Edge, source: Layer, weight: Tensor) -> Tensor:
    """A module's weight, [targets, ...], as [source neurons, ...]."""
    if edge.kind == "depthwise":
        return weight
    if edge.kind == "conv":
        return weight.transpose(0, 1)
    return weight.T.reshape(source.neurons, *source.output_shape, weight.shape[0])


def from_neurons_first(edge: Edge, source: Layer, weight: Tensor) -> Tensor:
    """The inverse of `to_neurons_first`."""
    if edge.kind == "depthwise":
        return weight
    if edge.kind == "conv":
        return weight.transpose(0, 1)
    return weight.reshape(source.neurons * source.output_floats, -1).T


def array_port(role: str, array: ArraySpec, owned: int) -> Port:
    return Port(role, (owned, *array.shape), name=array.name, layer=array.layer)


def mask_port(layer: Layer, owned: int) -> Port:
    return Port("mask", ("B", owned, *(1 for _ in layer.sum_shape)), layer=layer.index)


def drops(layer: Layer) -> bool:
    """Whether the layer takes a dropout mask."""
    return any(op.kind == "dropout" and op.attributes["p"] for op in layer.ops)


class LayerStages:
    """Builds the methods of one layer for a piece that owns `owned` of its neurons."""

    def __init__(
        self, graph: NeuronGraph, index: int, owned: Sequence[int], arrays: Sequence[ArraySpec]
    ) -> None:
        self.graph, self.layer, self.owned = graph, graph.layers[index], owned[index]
        self.edges = [(e, edge) for e, edge in enumerate(graph.edges) if edge.source == index]
        mine = [a for a in arrays if a.layer == index]
        self.trained = [array_port("parameter", a, self.owned) for a in mine if a.trained]
        self.buffers = [array_port("buffer", a, self.owned) for a in mine if not a.trained]
        self.sum = Port("sum", ("B", self.owned, *self.layer.sum_shape), layer=index)
        self.mask = [mask_port(self.layer, self.owned)] if drops(self.layer) else []

    def _edge_port(self, role: str, e: int, edge: Edge) -> Port:
        target = self.graph.layers[edge.target]
        neurons = self.owned if edge.kind in MATCHED else target.neurons
        return Port(role, ("B", neurons, *target.sum_shape), layer=edge.target, edge=e)

    def _products(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """From [sums, parameters, buffers, mask] to the products on each edge, and the new buffers."""
        names = [port.name for port in (*self.trained, *self.buffers)]
        arrays = dict(zip(names, inputs[1 : 1 + len(names)], strict=True))
        mask = inputs[1 + len(names)] if self.mask else None
        x, buffers = run_local(self.layer, inputs[0], arrays, mask)
        return [run_edge(edge, x, arrays.get(f"{edge.module}.weight")) for _, edge in self.edges], buffers

    @property
    def _inputs(self) -> tuple[Port, ...]:
        return (self.sum, *self.trained, *self.buffers, *self.mask)

    def forward(self) -> Stage:
        def function(*inputs: Tensor) -> tuple[Tensor, ...]:
            products, buffers = self._products(inputs)
            return (*products, *buffers)

        outputs = (*(self._edge_port("sum", e, edge) for e, edge in self.edges), *self.buffers)
        return as_stage(f"forward_{self.layer.index}", function, self._inputs, outputs, function)

    def backward(self) -> Stage:
        first = 1 if self.layer.index == 0 else 0  # nobody asks for the error of the data
        differentiated = 1 + len(self.trained)
        taken = len(self._inputs)
        inputs = (*self._inputs, *(self._edge_port("error", e, edge) for e, edge in self.edges))

        def products(values: Sequence[Tensor], rest: Sequence[Tensor]) -> tuple[Tensor, ...]:
            return tuple(self._products((*values, *rest))[0])

        def function(*given: Tensor) -> tuple[Tensor, ...]:
            rest, errors = given[differentiated:taken], given[taken:]
            _, vjp = _vjp(
                lambda *values: products((*given[:first], *values), rest), *given[first:differentiated]
            )
            return tuple(vjp(tuple(errors)))

        def reference(*given: Tensor) -> tuple[Tensor, ...]:
            leaves = [x.detach().requires_grad_() for x in given[:differentiated]]
            out = products(leaves, given[differentiated:taken])
            return torch.autograd.grad(out, leaves[first:], given[taken:])

        error = [replace(self.sum, role="error")] if first == 0 else []
        gradients = [replace(port, role="gradient") for port in self.trained]
        return as_stage(f"backward_{self.layer.index}", function, inputs, (*error, *gradients), reference)


def as_stage(
    name: str,
    function: Callable[..., tuple[Tensor, ...]],
    inputs: tuple[Port, ...],
    outputs: tuple[Port, ...],
    reference: Callable[..., tuple[Tensor, ...]],
    updates: Mapping[int, int] | None = None,
) -> Stage:
    """A stage whose example has a batch unlike its other sizes."""
    batched = tuple(i for i, port in enumerate(inputs) if port.shape and port.shape[0] == "B")
    example = example_inputs(inputs, _example_batch(inputs), torch.Generator())
    method = Method(name, function, example, batched, updates or {})
    return Stage(method, inputs, outputs, reference)


def _example_batch(ports: Sequence[Port]) -> int:
    """A batch unlike every other dimension: tracing takes equal sizes for the same size."""
    taken = {dim for port in ports for dim in port.shape}
    return next(batch for batch in range(5, len(taken) + 6) if batch not in taken)


def example_inputs(
    ports: Sequence[Port], batch: int, generator: torch.Generator, classes: int = 2
) -> tuple[Tensor, ...]:
    """Random inputs of the right shapes; variances and masks are positive, labels are below `classes`, and
    weights so small that sums stay about as large from layer to layer.
    """
    values = []
    for port in ports:
        shape = tuple(batch if dim == "B" else int(dim) for dim in port.shape)
        if port.role == "labels":
            values.append(torch.randint(0, classes, shape, generator=generator))
            continue
        drawn = torch.randn(shape, generator=generator)
        if port.role == "parameter" and len(shape) > 1:
            drawn *= (max(shape) / drawn.numel()) ** 0.5
        positive = port.role in ("mask", "scale", "rate") or port.name.endswith("running_var")
        values.append(drawn.abs() if positive else drawn)
    return tuple(values)
