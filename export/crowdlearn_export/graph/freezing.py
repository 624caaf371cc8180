"""What of a model rests while the rest of it learns, as in transfer learning, and how devices hold it.

The model says so as it does to PyTorch: parameters with requires_grad=False, and batch norms and dropouts in
evaluation mode in a model that is in training mode.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import nn

from crowdlearn_export.errors import UnsupportedModule

from .neuron_graph import Edge, FrozenAs, Layer, LocalOp, NeuronGraph
from .shape import array_specs
from .weights import arrays_of, state_of

STATISTICS = ("running_mean", "running_var")


def to_training(model: nn.Module, resting: Collection[str]) -> None:
    """Put a model into training mode, but for the modules named."""
    model.train()
    for name in resting:
        model.get_submodule(name).training = False


def resting_modules(model: nn.Module) -> set[str]:
    """Return the modules in evaluation mode of a model that is in training mode: one that is not is trained
    altogether.
    """
    named = model.named_modules(remove_duplicate=False)
    return {name for name, module in named if model.training and not module.training}


def freeze(graph: NeuronGraph, model: nn.Module, resting: Collection[str]) -> NeuronGraph:
    """Return the graph of a model with what rests in it named, and counted apart from what learns. `resting`
    names its modules that stay in evaluation mode.
    """
    parameters = model.named_parameters(remove_duplicate=False)
    frozen = {name for name, parameter in parameters if not parameter.requires_grad}
    layers = tuple(
        replace(layer, ops=tuple(_op(op, layer, frozen, resting) for op in layer.ops))
        for layer in graph.layers
    )
    edges = tuple(_edge(edge, frozen) for edge in graph.edges)
    names = [f"{edge.module}.weight" for edge in edges if edge.buffers]
    for layer in layers:
        for op in layer.ops:
            names += sorted(frozen.intersection(_learnable(op)))
            if op.attributes.get("fixed"):
                names += [f"{op.module}.{name}" for name in STATISTICS]
    return replace(graph, layers=layers, edges=edges, frozen=tuple(sorted(names)))


def _op(op: LocalOp, layer: Layer, frozen: Collection[str], resting: Collection[str]) -> LocalOp:
    floats = layer.neurons * sum(name in frozen for name in _learnable(op))
    if op.kind == "batch_norm" and op.module in resting:
        op = replace(op, attributes={**op.attributes, "fixed": True})
    return replace(op, parameters=op.parameters - floats, buffers=op.buffers + floats)


def _learnable(op: LocalOp) -> tuple[str, ...]:
    """Return the arrays of an operation that learn unless they are frozen."""
    if op.kind == "bias":
        return (f"{op.module}.bias",)
    if op.kind == "batch_norm" and op.attributes.get("affine", True):
        return f"{op.module}.weight", f"{op.module}.bias"
    return ()


def _edge(edge: Edge, frozen: Collection[str]) -> Edge:
    if not edge.module or f"{edge.module}.weight" not in frozen:
        return edge
    return replace(edge, parameters=0, buffers=edge.parameters)


@torch.no_grad()
def hold_frozen(graph: NeuronGraph, model: nn.Module, frozen_as: FrozenAs) -> NeuronGraph:
    """Return the graph of a model whose frozen weights devices hold as `frozen_as`, and round these weights
    in the model: every device, evaluation and export has the same ones.

    Raises UnsupportedModule if there are none, or one is too large for the type.
    """
    if frozen_as == "float32":
        return graph
    held = replace(graph, frozen_as=frozen_as)
    narrow = [spec.name for spec in array_specs(held) if spec.frozen and spec.shape]
    if not narrow:
        raise UnsupportedModule(
            f"no weights of the model are frozen, which devices would hold as {frozen_as}; leave "
            "training.frozen out, or freeze some with requires_grad_(False)"
        )
    state = model.state_dict()
    rounded = state_of(held, arrays_of(held, state), state)
    for name in narrow:
        if not torch.isfinite(rounded[name]).all():
            raise UnsupportedModule(
                f"{name} has a weight that {frozen_as} cannot hold; leave training.frozen out"
            )
        state[name].copy_(rounded[name])
    return held
