"""The normal form of an ONNX model: one way to write each thing that slices.

Exporters write one network in many ways, and the same exporter in another at another opset. Rules replace
these ways by one, each a function from graph to graph, so that the reader has to know few operations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from .activations import name_activations
from .folding import folded
from .operations import Graph, Operation

WINDOWED = ("Conv", "MaxPool", "AveragePool")
RESHAPES = ("Reshape", "Flatten", "Squeeze")
SAME = (b"SAME_UPPER", b"SAME_LOWER")
MADE_UP = re.compile(r"val_\d+")
"""The names that torch's exporter gives constants that are no parameters."""


def normal_form(model: onnx.ModelProto) -> Graph:
    """Return the model's graph in normal form. Raises UnsupportedModule for a model that is no graph of one
    input and one output.
    """
    graph = folded(model)
    for rule in RULES:
        graph = rule(graph).needed()
    return graph


def _without_identities(graph: Graph) -> Graph:
    """Drop Identity, and all outputs but the first of Dropout and batch norm, whatever mode they are in."""
    aliases = {
        each.output: each.inputs[0]
        for each in graph.operations
        if each.kind == "Identity" and each.inputs[0] not in graph.constants
    }
    return graph.without(aliases)


def _in_training(graph: Graph) -> Graph:
    """Drop the training mode of batch norms and dropouts: their modules have one."""
    new = {}
    for each in graph.operations:
        if each.kind == "BatchNormalization":
            attributes = {k: v for k, v in each.attributes.items() if k not in ("training_mode", "spatial")}
            if each.attributes.get("spatial", 1) == 1:
                new[each.output] = [replace(each, attributes=attributes, outputs=each.outputs[:1])]
        elif each.kind == "Dropout":
            new[each.output] = [replace(each, inputs=each.inputs[:2], outputs=each.outputs[:1])]
    kept = {name for each in graph.operations for name in (*each.inputs, graph.output)}
    return graph.replaced(
        {name: ops for name, ops in new.items() if not kept.intersection(_side_outputs(graph, name))}
    )


def _side_outputs(graph: Graph, output: str) -> tuple[str, ...]:
    return next(each.outputs[1:] for each in graph.operations if each.output == output)


def _flattened(graph: Graph) -> Graph:
    """Make Flatten of reshapes, however many, that leave one axis beside the batch; drop those that change no
    shape.
    """
    by_output = {each.output: each for each in graph.operations if each.kind in RESHAPES}
    new: dict[str, Sequence[Operation]] = {}
    aliases = {}
    for each in by_output.values():
        source = each.inputs[0]
        while source in by_output:
            source = by_output[source].inputs[0]
        before, after = graph.shapes.get(source), graph.shapes.get(each.output)
        if not before or not after or None in (*before[1:], *after[1:]):
            continue
        if before == after:
            aliases[each.output] = source
        elif len(after) == 2 and after == (before[0], prod(size or 1 for size in before[1:])):
            flat = Operation("Flatten", (source,), each.outputs, {"axis": 1}, each.name, each.version)
            new[each.output] = [flat]
    return graph.replaced(new).without(aliases)


def _padded(graph: Graph) -> Graph:
    """Write padding that is the same on both sides as numbers of the window that reads it."""
    return _merged_pads(
        graph.replaced(
            {
                each.output: [_explicit(graph, each)]
                for each in graph.operations
                if each.kind in WINDOWED and each.attributes.get("auto_pad") in SAME
            }
        )
    )


def _explicit(graph: Graph, each: Operation) -> Operation:
    """Return a window with automatic padding, with numbers if they are the same on both sides."""
    sizes, weight = graph.shapes.get(each.inputs[0]), graph.constant(each, 1)
    kernel = each.attributes.get("kernel_shape", weight.shape[2:] if weight is not None else None)
    if sizes is None or kernel is None or None in sizes[2:]:
        return each
    ones = (1,) * len(kernel)
    strides, dilations = (each.attributes.get(name, ones) for name in ("strides", "dilations"))
    pads = []
    for size, window, stride, dilation in zip(sizes[2:], kernel, strides, dilations, strict=True):
        assert size is not None
        pads.append(max((-(-size // stride) - 1) * stride + dilation * (window - 1) + 1 - size, 0))
    if any(pad % 2 for pad in pads):
        return each
    half = [pad // 2 for pad in pads]
    attributes = {**each.attributes, "auto_pad": b"NOTSET", "pads": [*half, *half]}
    return replace(each, attributes=attributes)


def _merged_pads(graph: Graph) -> Graph:
    """Merge zeros around maps into the convolution, or the mean, that reads them."""
    readers = graph.readers
    new: dict[str, Sequence[Operation]] = {}
    by_output = {each.output: each for each in graph.operations}
    for each in graph.operations:
        pad = by_output.get(each.inputs[0]) if each.inputs else None
        if pad is None or pad.kind != "Pad" or each.kind not in ("Conv", "AveragePool"):
            continue
        border = _zeros_around(graph, pad)
        own = list(each.attributes.get("pads", ()))
        if border is None or readers[pad.output] > 1 or each.attributes.get("auto_pad") in SAME:
            continue
        if each.kind == "AveragePool" and (any(own) or each.attributes.get("ceil_mode", 0)):
            continue
        pads = [a + b for a, b in zip(own or [0] * len(border), border, strict=True)]
        attributes = {**each.attributes, "pads": pads}
        if each.kind == "AveragePool" and any(border):
            attributes["count_include_pad"] = 1
        new[pad.output] = ()
        new[each.output] = [replace(each, inputs=(pad.inputs[0], *each.inputs[1:]), attributes=attributes)]
    return graph.replaced(new)


def _zeros_around(graph: Graph, pad: Operation) -> list[int] | None:
    """Return the pads of H and W, begins before ends; None for another kind of padding."""
    given = graph.constant(pad, 1)
    pads = list(pad.attributes.get("pads", ())) if given is None else [int(size) for size in given]
    value = graph.constant(pad, 2)
    number = pad.attributes.get("value", 0.0) if value is None else float(np.asarray(value).item())
    if pad.attributes.get("mode") != b"constant" or number or len(pad.inputs) > 3:
        return None
    if len(pads) != 8 or any(pads[:2]) or any(pads[4:6]):
        return None
    return [*pads[2:4], *pads[6:]]


def _with_biases(graph: Graph) -> Graph:
    """Make a product of samples and weights Gemm, and a number added to each of its features its bias."""
    graph = graph.replaced(
        {
            each.output: [_gemm(each)]
            for each in graph.operations
            if each.kind == "MatMul" and _rank(graph, each.inputs[0]) == 2 and _is_matrix(graph, each)
        }
    )
    readers = graph.readers
    by_output = {each.output: each for each in graph.operations}
    new: dict[str, Sequence[Operation]] = {}
    for add in graph.operations:
        parts = [name for name in add.inputs if name not in graph.constants]
        if add.kind != "Add" or len(parts) != 1 or len(add.inputs) != 2:
            continue
        (bias,) = (name for name in add.inputs if name in graph.constants)
        product = by_output.get(parts[0])
        if product is None or readers[product.output] > 1 or product.output in new:
            continue
        if product.kind not in ("Gemm", "Conv") or _has_bias(product):
            continue
        if not _one_each(graph.constants[bias], graph.shapes.get(product.output), product.kind):
            continue
        new[product.output] = ()
        attributes = {**product.attributes, "beta": 1.0} if product.kind == "Gemm" else product.attributes
        merged = replace(
            product,
            inputs=(*product.inputs[:2], bias),
            outputs=add.outputs,
            attributes=attributes,
            name=product.name or add.name,
        )
        new[add.output] = [merged]
    return graph.replaced(new)


def _without_zero_biases(graph: Graph) -> Graph:
    """Drop the zeros that an exporter writes as the bias of a convolution that has none."""
    return graph.replaced(
        {
            each.output: [replace(each, inputs=each.inputs[:2])]
            for each in graph.operations
            if each.kind == "Conv" and _is_made_up(graph, each)
        }
    )


def _is_made_up(graph: Graph, conv: Operation) -> bool:
    bias = graph.constant(conv, 2)
    if bias is None or bias.any():
        return False
    name = conv.inputs[2]
    return graph.origins.get(name) != frozenset({name}) or MADE_UP.fullmatch(name) is not None


def _has_bias(product: Operation) -> bool:
    return len(product.inputs) > 2 and bool(product.inputs[2])


def _gemm(each: Operation) -> Operation:
    attributes = {"transA": 0, "transB": 0, "alpha": 1.0, "beta": 1.0}
    return replace(each, kind="Gemm", attributes=attributes)


def _is_matrix(graph: Graph, each: Operation) -> bool:
    weight = graph.constant(each, 1)
    return weight is not None and weight.ndim == 2 and each.inputs[0] not in graph.constants


def _rank(graph: Graph, name: str) -> int:
    return len(graph.shapes.get(name) or ())


def _one_each(bias: NDArray[Any], shape: Sequence[int | None] | None, kind: str) -> bool:
    """Return whether the constant is one number for each feature, or for each channel of a map."""
    if shape is None or shape[1] is None:
        return False
    positions = (1,) * (len(shape) - 2)
    sizes = bias.shape if bias.ndim < len(shape) else bias.shape[1:]
    return bias.ndim <= len(shape) and bias.size == shape[1] and sizes == (shape[1], *positions)


Rule = Callable[[Graph], Graph]
RULES: tuple[Rule, ...] = (
    _in_training,
    _flattened,
    _padded,
    name_activations,
    _without_identities,
    _without_zero_biases,
    _with_biases,
)
"""All rules, in the order in which they are applied."""
