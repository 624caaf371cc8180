"""An ONNX model in, to be trained.

An imported model is a torch.fx graph of ordinary modules, so that it can be traced into a neuron graph
and sliced. Reading covers what trainable feed-forward networks are exported as; anything else is refused
by name.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, fx, nn

from crowdlearn_export.errors import ExportError, UnsupportedModule

from .modules import MAKERS, Node

LARGEST_FILE = 2 << 30
"""Bytes of the largest ONNX file that is read: protobuf's own limit."""
DOMAINS = ("", "ai.onnx")
CONSTANTS: dict[str, Callable[[Any], Any]] = {
    "value": numpy_helper.to_array,
    "value_float": np.float32,
    "value_floats": lambda numbers: np.array(numbers, np.float32),
    "value_int": np.int64,
    "value_ints": lambda numbers: np.array(numbers, np.int64),
}
"""How the attributes of a Constant are read."""


def import_onnx(path: Path) -> nn.Module:
    """The model in an ONNX file, as a trainable module of one input and one output.

    Raises ExportError where the file is no valid ONNX, UnsupportedModule naming the operation without
    counterpart.
    """
    model = _read(path)
    reading = _Reading(model)
    for position, proto in enumerate(model.graph.node):
        try:
            reading.add(proto, f"m{position}")
        except Exception as error:  # an attribute or a constant may have any value
            named = f"{proto.op_type} {proto.name!r}" if proto.name else proto.op_type
            reason = str(error) if isinstance(error, UnsupportedModule) else f"it cannot be built: {error}"
            raise UnsupportedModule(f"{named}: {reason}") from error
    return reading.module()


def _read(path: Path) -> onnx.ModelProto:
    """The file's model, checked, with the shapes of its values. Raises ExportError."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ExportError(f"{path} is larger than {LARGEST_FILE} bytes; it cannot be an ONNX model")
        model = onnx.load(path)
        onnx.checker.check_model(model)
        return onnx.shape_inference.infer_shapes(model)
    except (OSError, ValueError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{path} cannot be read as ONNX: {error}") from error
    except Exception as error:
        if type(error).__name__ != "DecodeError":
            raise
        raise ExportError(f"{path} is not an ONNX file; export the model again") from error


class _Reading:
    """The module that grows node by node, and what is known of the values so far."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._versions = [entry.version for entry in model.opset_import if entry.domain in DOMAINS]
        self._constants = {t.name: _tensor(numpy_helper.to_array, t) for t in graph.initializer}
        inputs = [value.name for value in graph.input if value.name not in self._constants]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise UnsupportedModule(
                f"the ONNX model has {len(inputs)} inputs and {len(graph.output)} outputs; give one of each"
            )
        self._output = graph.output[0].name
        self._shapes = {value.name: _shape(value) for value in (*graph.input, *graph.value_info)}
        self._modules, self._graph = nn.ModuleDict(), fx.Graph()
        self._values: dict[str, fx.Node] = {inputs[0]: self._graph.placeholder("x")}

    def add(self, proto: onnx.NodeProto, name: str) -> None:
        """Read a node: a constant, or a call of a module `name`. Raises UnsupportedModule, and others."""
        kind, output = proto.op_type, proto.output[0]
        if proto.domain not in DOMAINS:
            raise UnsupportedModule(f"it is of domain {proto.domain}; those of ONNX itself can be trained")
        if kind == "Constant":
            (attribute,) = proto.attribute
            if attribute.name not in CONSTANTS:
                raise UnsupportedModule(f"{attribute.name} is not numbers")
            given = onnx.helper.get_attribute_value(attribute)
            self._constants[output] = _tensor(CONSTANTS[attribute.name], given)
            return
        if kind not in MAKERS:
            raise UnsupportedModule(f"no trainable counterpart; known: {', '.join(sorted(MAKERS))}")
        data = [self._values[i] for i in proto.input if i in self._values]
        strange = [i for i in proto.input if i and i not in self._values and i not in self._constants]
        if strange:
            raise UnsupportedModule(f"its input {strange[0]} is a side output of another node")
        if not data:
            raise UnsupportedModule("it computes from constants only; simplify the ONNX model first")
        node = self._node(proto)
        if kind == "Add" and len(data) == 2:
            self._values[output] = self._graph.call_function(torch.add, tuple(data))
            return
        self._modules[name] = MAKERS[kind].make(node)
        self._values[output] = self._graph.call_module(name, (data[0],))

    def _node(self, proto: onnx.NodeProto) -> Node:
        """The node with the defaults of its version. Raises UnsupportedModule for an attribute that its
        maker does not read, unless it has its default.
        """
        schema = onnx.defs.get_schema(proto.op_type, max(self._versions), "")
        attributes = {
            name: onnx.helper.get_attribute_value(attribute.default_value)
            for name, attribute in schema.attributes.items()
            if attribute.default_value.type != onnx.AttributeProto.UNDEFINED
        }
        for attribute in proto.attribute:
            value = onnx.helper.get_attribute_value(attribute)
            if attribute.name not in MAKERS[proto.op_type].reads and value != attributes.get(attribute.name):
                raise UnsupportedModule(f"{attribute.name} = {value} cannot be trained")
            attributes[attribute.name] = value
        constants = tuple(self._constants.get(name) for name in proto.input)
        shape = self._shapes.get(proto.input[0])
        return Node(tuple(proto.input), attributes, constants, shape, schema.since_version)

    def module(self) -> nn.Module:
        """The whole model. Raises UnsupportedModule."""
        if self._output not in self._values:
            raise UnsupportedModule(f"the output {self._output} is a constant, or a side output of a node")
        self._graph.output(self._values[self._output])
        return fx.GraphModule(self._modules, self._graph)


def _tensor(read: Callable[[Any], Any], given: Any) -> Tensor:
    try:
        return torch.from_numpy(np.array(read(given)))
    except TypeError as error:
        raise UnsupportedModule(f"{getattr(given, 'name', 'a constant')}: {error}") from error


def _shape(value: onnx.ValueInfoProto) -> tuple[int | None, ...] | None:
    """A value's sizes as far as they are known; None where even their number is not."""
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return tuple(size.dim_value if size.HasField("dim_value") else None for size in kind.shape.dim)
