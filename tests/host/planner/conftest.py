from __future__ import annotations

from typing import Any

import pytest
import torch
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_host.models.named import mlp
from crowdlearn_host.planner.problem.fleet import Fleet


@pytest.fixture(scope="session")
def graph() -> NeuronGraph:
    return neuron_graph(mlp((40, 24, 16, 12, 4)), torch.zeros(1, 40), "small")


def fleet(*classes: dict[str, Any]) -> Fleet:
    """Classes with whatever a test does not care about filled in."""
    return Fleet.model_validate({"class": [{"macs_per_second": 1e6, **kind} for kind in classes]})
