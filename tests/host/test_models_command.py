"""crowdlearn import and export-model, as a user runs them: a trained model leaves as ONNX and comes back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_host.cli import build
from crowdlearn_host.models.named import build_model
from safetensors.torch import save_file
from typer.testing import CliRunner

MODEL = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.body, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 10)

    def forward(self, x):
        x = self.stem(x)
        return self.head((self.body(x) + x).mean((2, 3)))

def net():
    return Net()
"""
CONFIG = """
name = "exported"
model = "net.py:net"
data = "digits"
input_shape = [1, 8, 8]
"""


def test_a_trained_residual_network_is_exported_and_imported(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(MODEL)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text(CONFIG)
    (run / "run.db").touch()
    (run / "inputs.json").write_text(json.dumps({"config_folder": str(tmp_path), "given": {}}))
    model = build_model("net.py:net", 7)
    model(torch.randn(16, 1, 8, 8))  # running statistics of its own
    save_file(model.state_dict(), run / "model.safetensors")
    invoke("export-model", run, "--onnx", "out.onnx", "--pte", "out.pte")
    x = torch.randn(3, 1, 8, 8)
    expected = model.eval()(x).detach().numpy()
    onnx.checker.check_model(onnx.load("out.onnx"))
    session = onnxruntime.InferenceSession("out.onnx", providers=["CPUExecutionProvider"])
    near(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0], expected)
    near(ExecuTorchExecutor((tmp_path / "out.pte").read_bytes()).run("forward", [x.numpy()])[0], expected)
    assert "folded 1 batch norms" in invoke("import", "out.onnx", "--to", "back.py")
    back = build_model("back.py:build", 0)
    near(back.eval()(x).detach().numpy(), expected)
    assert any(parameter.requires_grad for parameter in back.parameters())


def invoke(*arguments: object) -> str:
    command = [str(argument) for argument in arguments]
    result = CliRunner().invoke(build(command[:1]), command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def near(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
