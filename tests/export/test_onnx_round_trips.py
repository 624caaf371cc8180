"""Everything that slices, exported by torch in each of its ways and at several opsets, imports and slices
again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from crowdlearn_export.errors import UnsupportedModule
from crowdlearn_export.graph.activations import ACTIVATIONS
from crowdlearn_export.onnx_import.reader import import_onnx, read_onnx
from crowdlearn_export.tracing.trace import neuron_graph
from torch import Tensor, nn
from torch.onnx import TrainingMode

MAPS, VECTORS = (2, 8, 8), (7,)


class Maps(nn.Module):
    """Convolutions of each kind, pools of each kind, a residual, and what flattens without knowing sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding="same", bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, dilation=1, groups=6, bias=False)
        self.norm2 = nn.BatchNorm2d(6, momentum=0.3)
        self.point = nn.Conv2d(6, 6, 1)
        self.narrow = nn.AvgPool2d(3, 1, 1)
        self.dense = nn.Linear(6 * 2 * 2, 5, bias=False)
        self.norm3 = nn.BatchNorm1d(5)
        self.drop, self.head = nn.Dropout(0.25), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.norm(self.stem(x)))
        x = x + self.point(F.hardswish(self.norm2(self.depthwise(x))))
        x = F.adaptive_avg_pool2d(self.narrow(F.max_pool2d(x, 3, 2, 1)), 2)
        x = x.view(x.size(0), -1)
        return self.head(self.drop(torch.tanh(self.norm3(self.dense(x)))))


class Pooled(nn.Module):
    """A mean over maps, squeezed."""

    def __init__(self, mean: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.mean = nn.Conv2d(2, 6, 3, stride=2, bias=False), mean
        self.hidden, self.head = nn.Linear(6, 4), nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sigmoid(self.hidden(self.mean(F.silu(self.conv(x))))))


def activated(kind: type[nn.Module], *given: object) -> nn.Module:
    return nn.Sequential(
        nn.Linear(7, 6), kind(*given), nn.Linear(6, 5, bias=False), kind(*given), nn.Linear(5, 3)
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "maps": (Maps, MAPS),
    "mean": (lambda: Pooled(lambda x: x.mean((2, 3))), MAPS),
    "pooled and squeezed": (
        lambda: Pooled(lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1)),
        MAPS,
    ),
    "pooled and flattened": (lambda: Pooled(lambda x: torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)), MAPS),
    "reshaped": (lambda: Pooled(lambda x: F.max_pool2d(x, 3).reshape(-1, 6)), MAPS),
    **{
        f"{kind.__name__}{given or ''}": (lambda kind=kind, given=given: activated(kind, *given), VECTORS)
        for kind, *given in (
            *((each.module,) for each in ACTIVATIONS),
            (nn.LeakyReLU, 0.3),
            (nn.ELU, 0.5),
            (nn.Softplus, 2.5),
            (nn.GELU, "tanh"),
        )
    },
}
WAYS = [
    *(("torchscript", opset, mode) for opset in (11, 14, 17, 20) for mode in ("eval", "training")),
    *(("dynamo", 20, mode) for mode in ("eval", "unoptimized")),
]
SLOW_WAYS = [("dynamo", opset, mode) for opset in (18, 21) for mode in ("eval", "unoptimized")]
FOLDS = {"torchscript eval", "dynamo eval"}


def export(
    model: nn.Module, sample: Tensor, path: Path, way: tuple[str, int, str], *, any_batch: bool = True
) -> None:
    """Write the model, whose running statistics an export in training mode moves."""
    exporter, opset, mode = way
    if exporter == "torchscript":
        torch.onnx.export(
            model,
            (sample,),
            str(path),
            dynamo=False,
            opset_version=opset,
            training=TrainingMode.TRAINING if mode == "training" else TrainingMode.EVAL,
            input_names=["x"],
            dynamic_axes={"x": {0: "batch"}} if any_batch else None,
        )
        return
    program = torch.onnx.export(
        copy.deepcopy(model).eval(),
        (sample,),
        dynamo=True,
        opset_version=opset,
        dynamic_shapes=({0: torch.export.Dim("batch")},) if any_batch else None,
        optimize=mode == "eval",
        verbose=False,
    )
    assert program is not None
    program.save(str(path))


def built(name: str) -> tuple[nn.Module, Tensor]:
    make, shape = MODELS[name]
    torch.manual_seed(0)
    model = make()
    with torch.no_grad():
        for each in model.modules():
            if isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d):
                each.running_mean.normal_()
                each.running_var.uniform_(0.5, 2)
                each.weight.normal_()
                each.bias.normal_()
    return model, torch.randn(3, *shape)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "way",
    [*WAYS, *(pytest.param(way, marks=pytest.mark.nightly) for way in SLOW_WAYS)],
    ids=lambda way: " ".join(map(str, way)),
)
def test_what_slices_slices_again(tmp_path: Path, way: tuple[str, int, str]) -> None:
    for name in MODELS:
        model, sample = built(name)
        export(model, sample, tmp_path / "model.onnx", way)
        read = read_onnx(tmp_path / "model.onnx")
        found, expected = neuron_graph(read.module, sample), neuron_graph(model, sample)
        with torch.no_grad():
            torch.testing.assert_close(
                read.module.eval()(sample), model.eval()(sample), rtol=1e-4, atol=1e-5, msg=name
            )
        assert [layer.neurons for layer in found.layers] == [layer.neurons for layer in expected.layers], name
        norms = [op for layer in expected.layers for op in layer.ops if op.kind == "batch_norm"]
        told = [note for note in read.notes if "folded" in note]
        if norms and f"{way[0]} {way[2]}" in FOLDS:
            assert told, f"{name}: the folded norms are told"
        elif norms:
            assert found.parameters == expected.parameters, name
            assert not told


@pytest.mark.filterwarnings("ignore")
def test_a_batch_that_is_fixed_in_the_file_is_any_batch(tmp_path: Path) -> None:
    model, sample = built("maps")
    export(model, sample, tmp_path / "model.onnx", ("torchscript", 17, "training"), any_batch=False)
    imported = import_onnx(tmp_path / "model.onnx").eval()
    five = torch.randn(5, *MAPS)
    with torch.no_grad():
        torch.testing.assert_close(imported(five), model.eval()(five), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_weights_that_two_layers_read_are_told_and_refused_if_asked(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(7, 7), nn.Tanh(), nn.Linear(7, 7), nn.Tanh(), nn.Linear(7, 3))
    model[2].weight = model[0].weight
    for way in (("torchscript", 17, "eval"), ("dynamo", 20, "eval")):
        export(model, torch.randn(3, 7), tmp_path / "model.onnx", way)
        (note,) = read_onnx(tmp_path / "model.onnx").notes
        assert "is the weights of m0 (Gemm" in note
        assert "and m2 (Gemm" in note
        with pytest.raises(UnsupportedModule, match=r"trained apart.*export the model with a copy"):
            import_onnx(tmp_path / "model.onnx", refuse_shared=True)


def test_equal_weights_that_an_exporter_merged_are_told_through_another_name(tmp_path: Path) -> None:
    weight = onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    nodes = [
        onnx.helper.make_node("Identity", ["w"], ["v"]),
        onnx.helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        onnx.helper.make_node("Tanh", ["h"], ["t"]),
        onnx.helper.make_node("MatMul", ["t", "v"], ["y"], "second"),
    ]
    sizes = [onnx.helper.make_tensor_value_info(name, 1, ["batch", 4]) for name in "xy"]
    graph = onnx.helper.make_graph(nodes, "g", sizes[:1], sizes[1:], [weight])
    opset = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "model.onnx")
    (note,) = read_onnx(tmp_path / "model.onnx").notes
    assert note.startswith("w is the weights of m0 (Gemm 'first') and m2 (Gemm 'second')")
