"""An ONNX model in, to be trained.

An imported model is a torch.fx graph of ordinary modules, so that it can be traced into a neuron graph
and sliced. It is put into a normal form first (`onnx_import`). Reading covers what trainable feed-forward
networks are exported as; anything else is refused by name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from crowdlearn_device.platform.files import not_to_read
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from crowdlearn_export.errors import ExportError, UnsupportedModule

from .modules import MAKERS, Node
from .normal_form import normal_form
from .operations import Graph, Operation, defaults

LARGEST_FILE = 2 << 30
"""Bytes of the largest ONNX file that is read: protobuf's own limit."""
DOMAINS = ("", "ai.onnx")
WEIGHTS = {"Conv": (1, 2), "Gemm": (1, 2), "MatMul": (1,), "Add": (0, 1), "BatchNormalization": (1, 2)}
"""The inputs of each kind of node that are trained."""
FOLDED_NAME = re.compile(r"onnx::Conv_\d+")
"""The names that TorchScript's exporter gives the weights of a convolution that it folded a batch norm
into.
"""
KEEP_BATCH_NORMS = (
    "export it with torch.onnx.export(..., dynamo=False, training=torch.onnx.TrainingMode.TRAINING), "
    "or with dynamo=True, optimize=False"
)


@dataclass(frozen=True)
class Imported:
    """A trainable module, and notes: how it may differ from the model that was exported."""

    module: nn.Module
    notes: tuple[str, ...]


def import_onnx(path: Path, *, refuse_shared: bool = False) -> nn.Module:
    """Return the model in an ONNX file, as a trainable module of one input and one output.

    Raises ExportError if the file is no valid ONNX, UnsupportedModule naming the operation without
    counterpart, or with `refuse_shared` the weights that two operations read.
    """
    return read_onnx(path, refuse_shared=refuse_shared).module


def read_onnx(path: Path, *, refuse_shared: bool = False) -> Imported:
    """Return the same with notes."""
    model = _read(path)
    graph = normal_form(model)
    reading = _Reading(graph, max(entry.version for entry in model.opset_import if entry.domain in DOMAINS))
    for position, operation in enumerate(graph.operations):
        try:
            reading.add(operation, f"m{position}")
        except Exception as error:  # an attribute or a constant may have any value
            reason = str(error) if isinstance(error, UnsupportedModule) else f"it cannot be built: {error}"
            raise UnsupportedModule(f"{operation.called}: {reason}") from error
    module = reading.module()
    shared = reading.shared()
    if refuse_shared and shared:
        raise UnsupportedModule(f"{shared[0]}; export the model with a copy for each, or allow it")
    return Imported(module, (*shared, *_folded_norms(graph)))


def _folded_norms(graph: Graph) -> list[str]:
    """Return what exporting for inference did to batch norms, if it can be seen."""
    convolutions = [each for each in graph.operations if each.kind == "Conv"]
    norms = [each for each in graph.operations if each.kind == "BatchNormalization"]
    folded = [
        each
        for each in graph.operations
        if each.folded or (each.kind == "Conv" and FOLDED_NAME.fullmatch(each.inputs[1]))
    ]
    if folded:
        return [
            f"the export folded {len(folded)} batch norms into weights and left {len(norms)}: "
            f"what is trained is another network; {KEEP_BATCH_NORMS}"
        ]
    if convolutions and not norms and all(len(each.inputs) > 2 for each in convolutions):
        return [
            f"none of the {len(convolutions)} convolutions has a batch norm; if the model has some, "
            f"its export folded them: {KEEP_BATCH_NORMS}"
        ]
    return []


def _read(path: Path) -> onnx.ModelProto:
    """Return the file's model, checked. Raises ExportError."""
    try:
        if why := not_to_read(path, LARGEST_FILE):
            raise ExportError(f"{path} {why}; it cannot be an ONNX model")
        model = onnx.load(path)
        onnx.checker.check_model(model)
        onnx.shape_inference.infer_shapes(model)
        return model
    except (OSError, ValueError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{path} cannot be read as ONNX: {error}") from error
    except Exception as error:
        if type(error).__name__ != "DecodeError":
            raise
        raise ExportError(f"{path} is not an ONNX file; export the model again") from error


class _Reading:
    """The module that grows operation by operation, and what is known of the values so far."""

    def __init__(self, graph: Graph, opset: int) -> None:
        self._source, self._opset = graph, opset
        self._modules, self._graph = nn.ModuleDict(), fx.Graph()
        self._values: dict[str, fx.Node] = {graph.input: self._graph.placeholder("x")}
        self._trained: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, operation: Operation, name: str) -> None:
        """Read an operation as a call of a module `name`. Raises UnsupportedModule, and others."""
        kind, output = operation.kind, operation.output
        if operation.domain not in DOMAINS:
            raise UnsupportedModule(
                f"it is of domain {operation.domain}; those of ONNX itself can be trained"
            )
        if kind not in MAKERS:
            raise UnsupportedModule(f"no trainable counterpart; known: {', '.join(sorted(MAKERS))}")
        constants = self._source.constants
        data = [self._values[i] for i in operation.inputs if i in self._values]
        strange = [i for i in operation.inputs if i and i not in self._values and i not in constants]
        if strange:
            raise UnsupportedModule(f"its input {strange[0]} is a side output of another node")
        node = self._node(operation)
        if kind == "Add" and len(data) == 2:
            self._values[output] = self._graph.call_function(torch.add, tuple(data))
            return
        self._modules[name] = MAKERS[kind].make(node)
        self._values[output] = self._graph.call_module(name, (data[0],))
        for position in WEIGHTS.get(kind, ()):
            if position < len(operation.inputs):
                for origin in self._source.origins.get(operation.inputs[position], ()):
                    self._trained[origin].append(f"{name} ({operation.called})")

    def shared(self) -> list[str]:
        """Return the weights that several operations read, in words."""
        return [
            f"{origin} is the weights of {' and '.join(readers)}, which are trained apart, each with a copy"
            for origin, readers in self._trained.items()
            if len(readers) > 1
        ]

    def _node(self, operation: Operation) -> Node:
        """Return the operation with its constants. Raises UnsupportedModule for an attribute that its maker
        does not read, unless it has its default.
        """
        usual = defaults(operation.kind, self._opset)
        for name, value in operation.attributes.items():
            if name not in MAKERS[operation.kind].reads and value != usual.get(name):
                raise UnsupportedModule(f"{name} = {value} cannot be trained")
        constants = tuple(
            _tensor(value) if (value := self._source.constants.get(name)) is not None else None
            for name in operation.inputs
        )
        shape = self._source.shapes.get(operation.inputs[0])
        return Node(operation.inputs, operation.attributes, constants, shape, operation.version)

    def module(self) -> nn.Module:
        """Return the whole model. Raises UnsupportedModule."""
        output = self._source.output
        if output not in self._values:
            raise UnsupportedModule(f"the output {output} is a constant, or a side output of a node")
        self._graph.output(self._values[output])
        return fx.GraphModule(self._modules, self._graph)


def _tensor(value: NDArray[Any]) -> Tensor:
    try:
        return torch.from_numpy(value.copy())
    except TypeError as error:
        raise UnsupportedModule(f"a constant: {error}") from error
