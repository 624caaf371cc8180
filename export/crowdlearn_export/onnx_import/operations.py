"""The operations of an ONNX model as plain data, which the rules of the normal form replace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

Sizes = tuple[int | None, ...]
"""The shape of a value; None for a size that is not known, as the batch is."""


@dataclass(frozen=True)
class Operation:
    """A node of the model. `attributes` hold the defaults of its version, too; `name` is for messages."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    version: int = 0
    domain: str = ""
    folded: bool = False

    @property
    def output(self) -> str:
        """Return the name of its first output."""
        return self.outputs[0]

    @property
    def called(self) -> str:
        """Return the operation as messages call it."""
        return f"{self.kind} {self.name!r}" if self.name else self.kind


@dataclass(frozen=True)
class Graph:
    """A model of one input and one output: operations in an order in which they can run, constants by name,
    and the shapes of values as far as they are known.

    `origins` names the initializers that a constant was computed from.
    """

    input: str
    output: str
    operations: tuple[Operation, ...]
    constants: Mapping[str, NDArray[Any]]
    shapes: Mapping[str, Sizes]
    origins: Mapping[str, frozenset[str]]

    @property
    def readers(self) -> Counter[str]:
        """Return how many inputs of operations, or the model's output, each value is."""
        return Counter([self.output, *(name for each in self.operations for name in each.inputs)])

    def constant(self, operation: Operation, position: int) -> NDArray[Any] | None:
        """Return the constant at an input position; None if the input is absent or computed.

        It is of the file's dtype and shape [...].
        """
        if position >= len(operation.inputs):
            return None
        return self.constants.get(operation.inputs[position])

    def replaced(self, new: Mapping[str, Sequence[Operation]]) -> Graph:
        """Return the graph with other operations in the place of those that give these outputs."""
        operations = [op for each in self.operations for op in new.get(each.output, (each,))]
        return replace(self, operations=tuple(operations))

    def without(self, aliases: Mapping[str, str]) -> Graph:
        """Return the graph without the operations that give these values, which are others by another
        name.
        """

        def root(name: str) -> str:
            while name in aliases:
                name = aliases[name]
            return name

        operations = tuple(
            replace(each, inputs=tuple(map(root, each.inputs)))
            for each in self.operations
            if each.output not in aliases
        )
        return replace(self, operations=operations, output=root(self.output))

    def needed(self) -> Graph:
        """Return the graph without the operations that its output does not depend on."""
        wanted, kept = {self.output}, []
        for each in reversed(self.operations):
            if wanted.intersection(each.outputs):
                wanted.update(each.inputs)
                kept.append(each)
        return replace(self, operations=tuple(reversed(kept)))


def operation(node: onnx.NodeProto, opset: int) -> Operation:
    """Return a node as an operation, with the defaults of the opset's version."""
    given = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    version = 0
    if node.domain in ("", "ai.onnx") and onnx.defs.has(node.op_type):
        version = onnx.defs.get_schema(node.op_type, opset, "").since_version
        given = {**defaults(node.op_type, opset), **given}
    folded = any("FuseBatchNorm" in entry.value for entry in node.metadata_props)
    return Operation(
        node.op_type,
        tuple(node.input),
        tuple(node.output),
        given,
        node.name,
        version,
        node.domain,
        folded,
    )


def defaults(kind: str, opset: int) -> dict[str, Any]:
    """Return the default attributes of a kind of node; none if ONNX does not know it."""
    try:
        schema = onnx.defs.get_schema(kind, opset, "")
    except onnx.defs.SchemaError:
        return {}
    return {
        name: onnx.helper.get_attribute_value(attribute.default_value)
        for name, attribute in schema.attributes.items()
        if attribute.default_value.type != onnx.AttributeProto.UNDEFINED
    }


def is_scalar(value: NDArray[Any] | None) -> bool:
    """Return whether it is one number. The array is of any shape [...]."""
    return value is not None and np.size(value) == 1
