"""Folding: what an ONNX model computes from constants and from shapes, as constants.

Exporters compute the target of a reshape from the shape of its input, cast bounds, and transpose weights.
The batch, which is any number, is made a number that the model holds nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from crowdlearn_export.errors import UnsupportedModule

from .operations import Graph, Operation, Sizes, operation

DOMAINS = ("", "ai.onnx")
DRAWN = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
FIRST_BATCH = 1009
"""The batch at which the search for one that is no other size begins."""
LARGEST_SHAPE = 64
"""Elements of a constant that shapes may be computed from."""


def folded(model: onnx.ModelProto) -> Graph:
    """Return the model's graph with everything computed that needs no samples.

    Raises UnsupportedModule for several inputs or outputs, and for a constant that is no tensor of numbers.
    """
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    constants = {each.name: _array(each) for each in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise UnsupportedModule(
            f"the ONNX model has {len(inputs)} inputs and {len(model.graph.output)} outputs; give one of each"
        )
    opset = max((each.version for each in model.opset_import if each.domain in DOMAINS), default=1)
    batch = _unlike(model, constants)
    origins: dict[str, frozenset[str]] = {name: frozenset({name}) for name in constants}
    nodes = list(model.graph.node)
    while True:
        shapes = _shapes(model, nodes, constants, inputs[0], batch)
        left = [node for node in nodes if not _fold(node, opset, constants, origins, shapes)]
        if len(left) == len(nodes):
            break
        nodes = left
    operations = tuple(operation(node, opset) for node in nodes)
    known = {
        name: tuple(None if size == batch and not axis else size for axis, size in enumerate(sizes))
        for name, sizes in shapes.items()
    }
    constants = {name: _any_batch(value, batch) for name, value in constants.items()}
    return Graph(inputs[0], model.graph.output[0].name, operations, constants, known, origins).needed()


def _any_batch(value: NDArray[Any], batch: int) -> NDArray[Any]:
    """Return a shape with the batch left open."""
    if value.dtype != np.int64 or value.ndim != 1 or not value.size or value[0] != batch:
        return value
    rest = value[1:]
    return np.concatenate([[0 if -1 in rest else -1], rest])


def _fold(
    node: onnx.NodeProto,
    opset: int,
    constants: dict[str, NDArray[Any]],
    origins: dict[str, frozenset[str]],
    shapes: Mapping[str, Sizes],
) -> bool:
    """Compute the node, if it needs no samples, into `constants`; whether that was so."""
    if node.domain not in DOMAINS or node.op_type in DRAWN:
        return False
    given = [name for name in node.input if name]
    if node.op_type == "Constant":
        values = [_constant(operation(node, opset), node)]
    elif node.op_type == "Shape" and given[0] not in constants:
        sizes = shapes.get(given[0])
        if sizes is None or None in sizes:
            return False
        bounds = operation(node, opset).attributes
        values = [np.array(sizes[bounds.get("start", 0) : bounds.get("end")], np.int64)]
    elif node.op_type == "CastLike" and given[0] in constants:
        values = [constants[given[0]].astype(np.float32)]  # like samples, which are float32
    elif all(name in constants for name in given) and not any(each.g.node for each in node.attribute):
        values = _evaluated(node, opset, constants)
    else:
        return False
    for name, value in zip(node.output, values, strict=False):
        constants[name] = value
        origins[name] = frozenset().union(*(origins.get(source, ()) for source in given))
    return True


def _constant(read: Operation, node: onnx.NodeProto) -> NDArray[Any]:
    for name, value in read.attributes.items():
        if name == "value":
            return _array(value)
        if name in ("value_float", "value_floats"):
            return np.array(value, np.float32)
        if name in ("value_int", "value_ints"):
            return np.array(value, np.int64)
    raise UnsupportedModule(f"Constant: {node.attribute[0].name} is not numbers")


def _evaluated(node: onnx.NodeProto, opset: int, constants: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    names = list(dict.fromkeys(name for name in node.input if name))
    values = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(constants[name].dtype), constants[name].shape
        )
        for name in names
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = onnx.helper.make_graph([node], "constants", values, outputs)
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        found = ReferenceEvaluator(made).run(None, {name: constants[name] for name in names})
    except Exception as error:  # an attribute or a constant may have any value
        named = f"{node.op_type} {node.name!r}" if node.name else node.op_type
        raise UnsupportedModule(f"{named}: it cannot be computed from its constants: {error}") from error
    return [np.asarray(value) for value in found]


def _shapes(
    model: onnx.ModelProto,
    nodes: list[onnx.NodeProto],
    constants: Mapping[str, NDArray[Any]],
    entry: str,
    batch: int,
) -> dict[str, Sizes]:
    """Return the shapes of all values for this batch; weights take part by their shapes alone."""
    known = [value for value in model.graph.input if value.name not in constants]
    inputs = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in known]
    for value in inputs:
        sizes = value.type.tensor_type.shape.dim
        if value.name == entry and len(sizes) and not sizes[0].HasField("dim_value"):
            sizes[0].dim_value = batch
    small = {name: value for name, value in constants.items() if value.size <= LARGEST_SHAPE}
    inputs += [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
        )
        for name, value in constants.items()
        if name not in small
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "shapes",
        inputs,
        [onnx.ValueInfoProto(name=value.name) for value in model.graph.output],
        [numpy_helper.from_array(value, name) for name, value in small.items()],
    )
    made = onnx.helper.make_model(graph, opset_imports=list(model.opset_import))
    made.ir_version = model.ir_version
    found = onnx.shape_inference.infer_shapes(made, data_prop=True).graph
    shapes: dict[str, Sizes] = {}
    for value in (*found.input, *found.value_info, *found.output):
        kind = value.type.tensor_type
        if kind.HasField("shape"):
            shapes[value.name] = tuple(
                size.dim_value if size.HasField("dim_value") else None for size in kind.shape.dim
            )
    return shapes


def _unlike(model: onnx.ModelProto, constants: Mapping[str, NDArray[Any]]) -> int:
    """Return a batch that is no size and no whole number of the model."""
    taken = {size for value in constants.values() for size in value.shape}
    taken |= {size.dim_value for value in model.graph.input for size in value.type.tensor_type.shape.dim}
    for node in model.graph.node:
        for each in node.attribute:
            taken.update((each.i, *each.ints))
            if each.HasField("t") and each.t.data_type == onnx.TensorProto.INT64:
                taken.update(numpy_helper.to_array(each.t).flatten().tolist())
    for value in constants.values():
        if value.dtype == np.int64:
            taken.update(value.flatten().tolist())
    return next(batch for batch in range(FIRST_BATCH, FIRST_BATCH + len(taken) + 1) if batch not in taken)


def _array(tensor: onnx.TensorProto) -> NDArray[Any]:
    try:
        return np.array(numpy_helper.to_array(tensor))
    except (TypeError, ValueError) as error:
        raise UnsupportedModule(f"{tensor.name or 'a constant'}: {error}") from error
