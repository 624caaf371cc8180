"""Models come in as ONNX, and go out as ONNX and .pte, unchanged."""

from __future__ import annotations

import pytest
import torch
from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_export.errors import ExportError
from crowdlearn_export.onnx_import.reader import import_onnx
from crowdlearn_export.program import deploy
from crowdlearn_export.program.deploy import export_onnx, export_pte
from crowdlearn_export.tracing.trace import neuron_graph
from torch import nn


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
        self.body = nn.Conv2d(4, 4, 3, 1, 1, groups=4, bias=False)
        self.head = nn.Linear(4 * 4 * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head((torch.sigmoid(self.body(x)) + x).flatten(1))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(6, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU6())
        self.second, self.head = nn.Conv2d(4, 6, 3, 1, 1), nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.second(self.body(x)) + x)
        return self.head(x.mean((2, 3)))


@pytest.fixture(params=[Network, Residual])
def model(request) -> nn.Module:
    torch.manual_seed(0)
    network = request.param()
    network(torch.randn(8, 3, 8, 8))
    return network.eval()


def test_onnx_there_and_back_is_the_same_trainable_network(model, tmp_path):
    x = torch.randn(4, 3, 8, 8)
    export_onnx(model, x[:2], tmp_path / "model.onnx")
    back = import_onnx(tmp_path / "model.onnx").eval()
    torch.testing.assert_close(back(x), model(x), rtol=1e-5, atol=1e-5)
    assert any(p.requires_grad for p in back.parameters())
    assert len(neuron_graph(back, x).layers) == len(neuron_graph(model, x).layers)


@pytest.mark.parametrize("most", [4, 32])
def test_pte_for_inference_agrees_with_pytorch_at_any_batch(model, most, tmp_path):
    assert export_pte(model, torch.randn(2, 3, 8, 8), most, tmp_path / "model.pte") <= 1e-5
    executor = ExecuTorchExecutor((tmp_path / "model.pte").read_bytes())
    for rows in {1, 2, 3, min(8, most), most - 1, most}:  # 3 and 8 are other sizes, too
        x = torch.randn(rows, 3, 8, 8)
        (found,) = executor.run("forward", [x.numpy()])
        torch.testing.assert_close(torch.from_numpy(found), model(x).detach(), rtol=1e-5, atol=1e-5)


def test_what_is_no_onnx_is_refused(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"\xff\xfe not a model")
    with pytest.raises(ExportError, match=r"bad\.onnx"):
        import_onnx(tmp_path / "bad.onnx")


def test_a_file_that_would_disagree_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(deploy, "AGREEMENT", -1.0)
    path = tmp_path / "model.onnx"
    path.write_bytes(b"the one before")
    with pytest.raises(ExportError, match="differs from PyTorch"):
        export_onnx(nn.Linear(3, 2), torch.randn(2, 3), path)
    assert path.read_bytes() == b"the one before"
    assert list(tmp_path.iterdir()) == [path]
