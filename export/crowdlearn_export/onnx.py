"""ONNX in, to be trained; ONNX and .pte out, to be used.

An imported model is a torch.fx graph of ordinary modules, so that it can be traced into a neuron graph
and sliced. Reading covers what trainable feed-forward networks are exported as; anything else is refused
by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from onnx import numpy_helper
from torch import Tensor, fx, nn

from .errors import ExportError, UnsupportedModule

LARGEST_FILE = 2 << 30
"""Bytes of the largest ONNX file that is read: protobuf's own limit."""
AGREEMENT = 1e-5
"""Largest relative difference between an exported model and PyTorch."""


@dataclass(frozen=True)
class _Node:
    """An ONNX node with its constant inputs looked up."""

    kind: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    constants: tuple[Tensor | None, ...]

    def weight(self, position: int) -> Tensor | None:
        """The constant at an input position; None where the input is absent. Raises where it is computed."""
        if position >= len(self.inputs) or not self.inputs[position]:
            return None
        value = self.constants[position]
        if value is None:
            raise UnsupportedModule(f"{self.kind}: input {position} must be a constant of the model")
        return value


def import_onnx(path: Path) -> nn.Module:
    """The model in an ONNX file, as a trainable module of one input and one output.

    Raises ExportError where the file is no valid ONNX, UnsupportedModule naming the operation without
    counterpart.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ExportError(f"{path} is larger than {LARGEST_FILE} bytes; it cannot be an ONNX model")
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ExportError(f"{path} cannot be read as ONNX: {error}") from error
    except Exception as error:
        if type(error).__name__ != "DecodeError":
            raise
        raise ExportError(f"{path} is not an ONNX file; export the model again") from error
    constants = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise UnsupportedModule(
            f"the ONNX model has {len(inputs)} inputs and {len(model.graph.output)} outputs; give one of each"
        )
    modules, graph = nn.ModuleDict(), fx.Graph()
    values: dict[str, fx.Node] = {inputs[0]: graph.placeholder("x")}
    for position, proto in enumerate(model.graph.node):
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
        if proto.op_type == "Constant":
            constants[proto.output[0]] = torch.from_numpy(numpy_helper.to_array(attributes["value"]).copy())
            continue
        given = tuple(proto.input)
        node = _Node(proto.op_type, given, attributes, tuple(constants.get(name) for name in given))
        values[proto.output[0]] = _place(graph, modules, values, node, f"m{position}")
    graph.output(values[model.graph.output[0].name])
    return fx.GraphModule(modules, graph)


def _place(
    graph: fx.Graph, modules: nn.ModuleDict, values: Mapping[str, fx.Node], node: _Node, name: str
) -> fx.Node:
    """One ONNX node in the graph, as a call of a module, or of a function where it has no state."""
    data = [values[i] for i in node.inputs if i in values]
    if not data:
        raise UnsupportedModule(f"{node.kind} of constants only; simplify the ONNX model first")
    if node.kind == "Add" and len(data) == 2:
        return graph.call_function(torch.add, tuple(data))
    if node.kind == "Reshape":
        shape = node.weight(1)
        if shape is None or len(shape) != 2 or (int(shape[1]) != -1 and int(shape[0]) not in (0, -1)):
            raise UnsupportedModule("Reshape: only one that flattens all but the batch can be trained")
        return graph.call_function(torch.flatten, (data[0], 1))
    if node.kind == "ReduceMean":
        return graph.call_method(
            "mean", (data[0], (2, 3)), {"keepdim": bool(node.attributes.get("keepdims", 1))}
        )
    if node.kind == "Identity":
        return data[0]
    maker = _MAKERS.get(node.kind)
    if maker is None:
        raise UnsupportedModule(
            f"{node.kind} has no trainable counterpart; known: {', '.join(sorted(_MAKERS))}"
        )
    modules[name] = maker(node)
    return graph.call_module(name, (data[0],))


def _loaded(module: nn.Module, **state: Tensor | None) -> nn.Module:
    with torch.no_grad():
        for name, value in state.items():
            if value is not None:
                getattr(module, name).copy_(value)
    return module


def _padding(node: _Node) -> tuple[int, int]:
    pads = list(node.attributes.get("pads", (0, 0, 0, 0)))
    automatic = node.attributes.get("auto_pad", b"NOTSET")
    if automatic not in (b"NOTSET", b"VALID") or len(pads) != 4 or pads[:2] != pads[2:]:
        raise UnsupportedModule(f"{node.kind}: padding must be explicit, two-dimensional and symmetric")
    return pads[0], pads[1]


def _pair(node: _Node, name: str) -> tuple[int, int]:
    a, b = node.attributes.get(name, (1, 1))
    return int(a), int(b)


def _convolution(node: _Node) -> nn.Module:
    weight, bias = node.weight(1), node.weight(2)
    if weight is None or weight.dim() != 4:
        raise UnsupportedModule("Conv: only two-dimensional ones can be trained")
    groups = int(node.attributes.get("group", 1))
    module = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        (weight.shape[2], weight.shape[3]),
        _pair(node, "strides"),
        _padding(node),
        _pair(node, "dilations"),
        groups,
        bias is not None,
    )
    return _loaded(module, weight=weight, bias=bias)


def _dense(node: _Node) -> nn.Module:
    weight, bias = node.weight(1), node.weight(2)
    if weight is None or node.attributes.get("transA", 0):
        raise UnsupportedModule(f"{node.kind}: the second input must be the weights")
    if not node.attributes.get("transB", 0):
        weight = weight.T
    weight = weight * float(node.attributes.get("alpha", 1.0))
    module = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    return _loaded(
        module, weight=weight, bias=None if bias is None else bias * node.attributes.get("beta", 1.0)
    )


class _Shift(nn.Module):
    """Adds one trainable value to every feature."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias.clone())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


def _shift(node: _Node) -> nn.Module:
    bias = next(c for c in node.constants if c is not None)
    return _Shift(bias)


def _batch_norm(node: _Node) -> nn.Module:
    weight, bias, mean, var = (node.weight(i) for i in range(1, 5))
    assert mean is not None
    momentum = 1 - float(node.attributes.get("momentum", 0.9))
    module = nn.BatchNorm2d(len(mean), float(node.attributes.get("epsilon", 1e-5)), momentum)
    return _loaded(module, weight=weight, bias=bias, running_mean=mean, running_var=var)


def _clip(node: _Node) -> nn.Module:
    low, high = node.weight(1), node.weight(2)
    if low is None or high is None:
        raise UnsupportedModule("Clip: both bounds must be given")
    return nn.ReLU6() if (float(low), float(high)) == (0.0, 6.0) else nn.Hardtanh(float(low), float(high))


def _pool(kind: type[nn.MaxPool2d] | type[nn.AvgPool2d]) -> Callable[[_Node], nn.Module]:
    def make(node: _Node) -> nn.Module:
        size, step, border = _pair(node, "kernel_shape"), _pair(node, "strides"), _padding(node)
        ceil = bool(node.attributes.get("ceil_mode", 0))
        if kind is nn.MaxPool2d:
            return nn.MaxPool2d(size, step, border, ceil_mode=ceil)
        inside = not node.attributes.get("count_include_pad", 0)
        return nn.AvgPool2d(size, step, border, ceil, not inside)

    return make


_MAKERS: dict[str, Callable[[_Node], nn.Module]] = {
    "Conv": _convolution,
    "Gemm": _dense,
    "MatMul": _dense,
    "Add": _shift,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "MaxPool": _pool(nn.MaxPool2d),
    "AveragePool": _pool(nn.AvgPool2d),
    "GlobalAveragePool": lambda node: nn.AdaptiveAvgPool2d(1),
    "Flatten": lambda node: nn.Flatten(int(node.attributes.get("axis", 1))),
    "Relu": lambda node: nn.ReLU(),
    "LeakyRelu": lambda node: nn.LeakyReLU(float(node.attributes.get("alpha", 0.01))),
    "Sigmoid": lambda node: nn.Sigmoid(),
    "Tanh": lambda node: nn.Tanh(),
    "HardSwish": lambda node: nn.Hardswish(),
    "HardSigmoid": lambda node: nn.Hardsigmoid(),
    "Gelu": lambda node: nn.GELU(node.attributes.get("approximate", b"none").decode()),
    "Dropout": lambda node: nn.Dropout(0.5),
    "Softmax": lambda node: nn.Softmax(int(node.attributes.get("axis", -1))),
}


def export_onnx(model: nn.Module, sample: Tensor, path: Path) -> float:
    """Write `model` for inference and return its largest relative difference from PyTorch in onnxruntime.

    `sample` is a batch of at least 2; the file takes any batch. Raises ExportError where the two disagree.
    """
    import onnxruntime

    program = torch.onnx.export(
        model.eval(), (sample,), dynamic_shapes=({0: torch.export.Dim("batch")},), dynamo=True, verbose=False
    )
    assert program is not None
    program.save(str(path))
    onnx.checker.check_model(onnx.load(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: sample.numpy()})[0]
    return _agreement(model, sample, found, "onnxruntime")


def export_pte(model: nn.Module, sample: Tensor, max_batch: int, path: Path) -> float:
    """Write `model` for inference on XNNPACK and return its largest relative difference from PyTorch.

    Raises ExportError where the two disagree.
    """
    from crowdlearn_device.executor import ExecuTorchExecutor

    shapes = ({0: torch.export.Dim("batch", min=1, max=max_batch)},)
    exported = torch.export.export(model.eval(), (sample,), dynamic_shapes=shapes)
    edge = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    pte = edge.to_executorch().buffer
    found = ExecuTorchExecutor(pte).run("forward", [sample.numpy()])[0]
    error = _agreement(model, sample, found, "ExecuTorch")
    path.write_bytes(pte)
    return error


def _agreement(model: nn.Module, sample: Tensor, found: np.ndarray, where: str) -> float:
    with torch.no_grad():
        expected = model.eval()(sample).numpy()
    error = float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))
    if not error <= AGREEMENT:
        raise ExportError(
            f"the exported model differs from PyTorch by {error:.1e} in {where} (at most {AGREEMENT:.0e}); "
            "it was not written for use, please report it"
        )
    return error
