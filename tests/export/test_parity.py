"""The gate lets a right program through, whatever side its samples take at a kink, and no wrong one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_device.protocol.frames import Array
from crowdlearn_export.errors import ParityError
from crowdlearn_export.program.parity import check_parity
from crowdlearn_export.stages.piece_stages import piece_stages
from crowdlearn_export.stages.stage import Stage
from crowdlearn_export.tracing.trace import neuron_graph
from torch import nn


class Eager:
    """Runs stages as they are written, in float32, with their weights' gradients off by a factor."""

    def __init__(self, stages: Sequence[Stage], factor: float) -> None:
        self._stages = {stage.method.name: stage for stage in stages}
        self._factor = factor

    def run(self, method: str, inputs: Sequence[Array], *, borrowed: bool = False) -> list[Array]:
        stage, given = self._stages[method], [torch.from_numpy(x) for x in inputs]
        outputs = []
        for position, (port, value) in enumerate(
            zip(stage.outputs, stage.method.function(*given), strict=True)
        ):
            if port.role == "gradient":
                value = value * self._factor
            if position in stage.method.updates:
                given[stage.method.updates[position]].copy_(value)
            else:
                outputs.append(value.numpy())
        return outputs


def eager(stages: Sequence[Stage], factor: float) -> Any:
    return Eager(stages, factor)


def whole_network() -> tuple[Stage, ...]:
    model = nn.Sequential(
        *(nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)),
    )
    graph = neuron_graph(model, torch.zeros(2, 2, 16, 16))
    return piece_stages(graph, [layer.neurons for layer in graph.layers], Sgd(momentum=0.9))


def test_a_right_program_passes():
    stages = whole_network()
    errors = check_parity(stages, eager(stages, 1.0), 16)
    assert errors.keys() == {"loss", "train_step"}
    assert max(errors.values()) <= 1e-5


def test_a_gradient_that_is_a_little_off_is_refused_by_name():
    stages = whole_network()
    with pytest.raises(ParityError, match="loss: output gradient"):
        check_parity(stages, eager(stages, 1.0001), 16)
