"""The whole network's program predicts what PyTorch predicts in evaluation mode, weights in slice order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_export.graph.weights import arrays_of
from crowdlearn_export.program.inference import MAX_BATCH, export_inference
from crowdlearn_export.tracing.trace import neuron_graph
from torch import nn

from .test_sliced_training import Residual, convolutional, depthwise, mlp, orders


def dropping() -> nn.Module:
    maps = (nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6, affine=False), nn.ReLU(), nn.Dropout2d(0.4))
    return nn.Sequential(
        *maps, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 8), nn.Dropout(0.5), nn.ReLU6(), nn.Linear(8, 4)
    )


@pytest.mark.parametrize("build", [mlp, convolutional, Residual, depthwise, dropping])
def test_the_whole_network_predicts_as_in_pytorch(build, tmp_path):
    torch.manual_seed(2)
    model = build()
    shape = (12,) if build is mlp else (2, 8, 8)
    for _ in range(5):  # running statistics of their own
        model(torch.randn(16, *shape) * 1.5 + 0.3)
    model.eval()
    graph = neuron_graph(build(), torch.zeros(2, *shape))
    program = export_inference(graph, tmp_path)
    arrays = arrays_of(graph, model.state_dict(), orders(graph))
    executor = ExecuTorchExecutor(export_inference(graph, tmp_path).pte)
    (method,) = program.manifest.methods
    for rows in (1, 7, MAX_BATCH):
        x = torch.randn(rows, *shape)
        samples = x.numpy().reshape(rows, *(int(size) for size in method.inputs[0].shape[1:]))
        (logits,) = executor.run("predict", [samples, *(arrays[port.name] for port in method.inputs[1:])])
        expected = model(x).detach().numpy()
        assert float(np.abs(logits - expected).max()) <= 1e-5 * float(np.abs(expected).max())
