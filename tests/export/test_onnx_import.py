"""Every kind of ONNX node is imported as onnxruntime computes it, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from crowdlearn_export.errors import UnsupportedModule
from crowdlearn_export.onnx_import.modules import MAKERS
from crowdlearn_export.onnx_import.reader import import_onnx
from onnx import helper, numpy_helper

MAPS, VECTORS, SIGNALS = (3, 4, 7, 6), (5, 8), (2, 4, 9)
IMAGE_BIAS = np.arange(4, dtype=np.float32).reshape(4, 1, 1)


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).uniform(0.1, 1, shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def statistics() -> list[np.ndarray]:
    return [numbers(n) for n in (4, 4, 4, 4)]


# Kind, shape of the input, further inputs, attributes, opset.
RIGHT = [
    ("Conv", MAPS, [numbers(6, 2, 3, 3), numbers(6)], {"group": 2, "strides": [2, 1], "pads": [1, 2, 1, 2]}),
    ("Conv", MAPS, [numbers(6, 4, 3, 2)], {"dilations": [2, 1], "kernel_shape": [3, 2]}),
    ("Conv", MAPS, [numbers(6, 4, 3, 2)], {"auto_pad": "VALID"}),
    ("Conv", MAPS, [numbers(6, 4, 3, 3)], {"auto_pad": "SAME_UPPER"}),
    ("Conv", MAPS, [numbers(6, 4, 3, 3)], {"auto_pad": "SAME_LOWER", "strides": [2, 1]}),
    ("Gemm", VECTORS, [numbers(8, 3), numbers(3)], {"alpha": 0.5, "beta": 2.0}),
    ("Gemm", VECTORS, [numbers(3, 8), numbers(1, 3)], {"transB": 1}),
    ("Gemm", VECTORS, [numbers(3, 8), numbers(1)], {"transB": 1}),
    ("MatMul", VECTORS, [numbers(8, 3)], {}),
    ("MatMul", SIGNALS, [numbers(9, 3)], {}),
    ("Add", MAPS, [IMAGE_BIAS], {}),
    ("BatchNormalization", MAPS, statistics(), {"epsilon": 0.1, "momentum": 0.5}),
    ("BatchNormalization", (5, 4), statistics(), {"epsilon": 0.1}),
    ("BatchNormalization", SIGNALS, statistics(), {}),
    ("Clip", VECTORS, [np.float32(-0.5), np.float32(0.25)], {}),
    ("Clip", VECTORS, [np.float32(0)], {}),
    ("Clip", VECTORS, [], {"min": 0.0, "max": 6.0}, 10),
    ("Clip", VECTORS, [], {"min": 0.0}, 10),
    ("Squeeze", (3, 4, 1, 1), [ints(2, 3)], {}),
    ("MaxPool", MAPS, [], {"kernel_shape": [2, 3], "strides": [2, 1], "pads": [1, 1, 1, 1]}),
    ("MaxPool", MAPS, [], {"kernel_shape": [2, 2], "dilations": [2, 3]}),
    ("MaxPool", MAPS, [], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", MAPS, [], {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 1, 1, 1]}),
    ("AveragePool", MAPS, [], {"kernel_shape": [3, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("AveragePool", MAPS, [], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("GlobalAveragePool", MAPS, [], {}),
    ("ReduceMean", MAPS, [ints(1)], {}),
    ("ReduceMean", MAPS, [ints(-1, 2)], {"keepdims": 0}),
    ("ReduceMean", MAPS, [], {"axes": [1, 3]}, 13),
    ("Flatten", MAPS, [], {}),
    ("Flatten", MAPS, [], {"axis": -3}),
    ("Reshape", MAPS, [ints(0, -1)], {}),
    ("Reshape", MAPS, [ints(-1, 168)], {}),
    ("Reshape", MAPS, [ints(-1, 168)], {"allowzero": 1}),
    ("Identity", VECTORS, [], {}),
    ("Relu", VECTORS, [], {}),
    ("LeakyRelu", VECTORS, [], {}),
    ("LeakyRelu", VECTORS, [], {"alpha": 0.3}),
    ("Elu", VECTORS, [], {}),
    ("Elu", VECTORS, [], {"alpha": 0.3}),
    ("Selu", VECTORS, [], {}),
    ("Softplus", VECTORS, [], {}),
    ("Mish", VECTORS, [], {}),
    ("Sigmoid", VECTORS, [], {}),
    ("Tanh", VECTORS, [], {}),
    ("HardSwish", VECTORS, [], {}),
    ("HardSigmoid", VECTORS, [], {"alpha": 1 / 6}),
    ("Gelu", VECTORS, [], {}),
    ("Gelu", VECTORS, [], {"approximate": "tanh"}),
    ("Dropout", VECTORS, [np.float32(0.3)], {"seed": 3}),
    ("Softmax", MAPS, [], {"axis": 1}),
    ("Softmax", VECTORS, [], {}, 11),
]
REFUSED = [
    ("Conv", MAPS, [numbers(6, 4, 3, 3)], {"pads": [0, 0, 1, 1]}, "symmetric"),
    ("Conv", MAPS, [numbers(6, 4, 2, 2)], {"auto_pad": "SAME_UPPER"}, "explicit"),
    ("Conv", SIGNALS, [numbers(6, 4, 3)], {}, "two-dimensional"),
    ("Gemm", (8, 5), [numbers(8, 3)], {"transA": 1}, "weights"),
    ("Gemm", VECTORS, [numbers(8, 3), numbers(5, 3)], {}, "one bias for each feature"),
    ("MatMul", SIGNALS, [numbers(2, 9, 3)], {}, "a matrix"),
    ("BatchNormalization", MAPS, statistics(), {"spatial": 0}, "spatial = 0", 8),
    ("Clip", VECTORS, [np.float32(1)], {}, "both bounds"),
    ("MaxPool", MAPS, [], {"kernel_shape": [2, 2], "storage_order": 1}, "storage_order"),
    ("MaxPool", SIGNALS, [], {"kernel_shape": [2]}, "two-dimensional"),
    ("MaxPool", MAPS, [], {"kernel_shape": [2, 2], "pads": [0, 2, 0, 2]}, "half"),
    ("AveragePool", MAPS, [], {"kernel_shape": [2, 2], "dilations": [2, 2]}, "dilations"),
    ("GlobalAveragePool", SIGNALS, [], {}, "channels"),
    ("ReduceMean", MAPS, [], {}, "axes"),
    ("ReduceMean", MAPS, [], {"noop_with_empty_axes": 1}, "noop_with_empty_axes"),
    ("Flatten", MAPS, [], {"axis": 2}, "axis = 2"),
    ("Flatten", MAPS, [], {"axis": 0}, "axis = 0"),
    ("Reshape", MAPS, [ints(-1, 6)], {}, "all but the batch"),
    ("Reshape", MAPS, [ints(84, -1)], {}, "all but the batch"),
    ("Reshape", MAPS, [ints(0, 168)], {"allowzero": 1}, "allowzero"),
    ("Reshape", MAPS, [ints(0, 4, 42)], {}, "all but the batch"),
    ("HardSigmoid", VECTORS, [], {}, r"alpha = 0\.2"),
    ("HardSigmoid", VECTORS, [], {"alpha": 1 / 6, "beta": 0.4}, r"beta = 0\.4"),
    ("Softsign", VECTORS, [], {}, "no trainable counterpart"),
    ("Selu", VECTORS, [], {"alpha": 2.0}, "alpha = 2"),
]


def write(
    folder: Path, nodes: list[onnx.NodeProto], given: list[object], shape: tuple[int, ...], opset: int = 20
) -> Path:
    """A model of these nodes, from x to y, with the constants c1, c2 and so on."""
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", *shape[1:]])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    constants = [numpy_helper.from_array(np.asarray(c), f"c{i}") for i, c in enumerate(given, 1)]
    graph = helper.make_graph(nodes, "graph", [x], [y], constants)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("of.mine", 1)]
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opsets, ir_version=9))
    model.graph.output[0].type.tensor_type.shape.SetInParent()  # every output must have one
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def node(kind: str, count: int, attributes: dict[str, Any]) -> onnx.NodeProto:
    return helper.make_node(
        kind, ["x", *(f"c{i + 1}" for i in range(count))], ["y"], "the-node", **attributes
    )


def compare(path: Path, shape: tuple[int, ...]) -> torch.nn.Module:
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    model = import_onnx(path).eval()
    (expected,) = session.run(None, {"x": x})
    torch.testing.assert_close(model(torch.from_numpy(x)).detach(), torch.from_numpy(expected))
    return model


@pytest.mark.parametrize("case", RIGHT, ids=lambda case: f"{case[0]}-{case[3]}")
def test_a_node_computes_what_onnxruntime_does(tmp_path, case):
    kind, shape, given, attributes, *opset = case
    compare(write(tmp_path, [node(kind, len(given), attributes)], given, shape, *opset), shape)


def test_every_kind_of_node_is_compared():
    assert {case[0] for case in RIGHT} - {"Squeeze"} == set(MAKERS) - {"Swish"}


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case[0]}-{case[3]}")
def test_what_would_be_wrong_is_refused_with_the_name_of_the_node(tmp_path, case):
    kind, shape, given, attributes, words, *opset = case
    path = write(tmp_path, [node(kind, len(given), attributes)], given, shape, *opset)
    with pytest.raises(UnsupportedModule, match=f"{kind} 'the-node': .*{words}"):
        import_onnx(path)


def test_a_dropout_keeps_its_ratio(tmp_path):
    path = write(tmp_path, [node("Dropout", 1, {})], [np.float32(0.3)], VECTORS)
    assert compare(path, VECTORS).m0.p == pytest.approx(0.3)
    path = write(tmp_path, [node("Dropout", 0, {"ratio": 0.2})], [], VECTORS, 10)
    assert compare(path, VECTORS).m0.p == pytest.approx(0.2)


@pytest.mark.parametrize("value", [{"value_float": 2.0}, {"value_floats": [2.0] * 8}])
def test_a_constant_is_read_however_it_is_written(tmp_path, value):
    nodes = [helper.make_node("Constant", [], ["c"], **value), helper.make_node("Add", ["x", "c"], ["y"])]
    compare(write(tmp_path, nodes, [], VECTORS), VECTORS)


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([helper.make_node("Constant", [], ["y"], value_float=2.0)], "output y"),
        ([helper.make_node("Constant", [], ["y"], value_string="a")], "value_string"),
        ([helper.make_node("Relu", ["c1"], ["y"])], "output y is a constant"),
        ([helper.make_node("Add", ["x", "c1"], ["y"])], "it cannot be built"),
        (
            [
                helper.make_node("Dropout", ["x"], ["d", "mask"]),
                helper.make_node("Identity", ["mask"], ["y"]),
            ],
            "side output",
        ),
        ([helper.make_node("Relu", ["x"], ["y"], domain="of.mine")], "domain of.mine"),
    ],
)
def test_what_is_no_module_is_refused(tmp_path, nodes, words):
    path = write(tmp_path, nodes, [ints(*range(8))], VECTORS)
    with pytest.raises(UnsupportedModule, match=words):
        import_onnx(path)


def test_an_output_that_is_a_weight_is_refused(tmp_path):
    path = write(tmp_path, [], [numbers(3)], VECTORS)
    model = onnx.load(path)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("c1", onnx.TensorProto.FLOAT, [3]))
    onnx.save(model, path)
    with pytest.raises(UnsupportedModule, match="output c1 is a constant"):
        import_onnx(path)
