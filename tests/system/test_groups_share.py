"""Several groups in one server, sharing every epoch, compute what the simulation computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from crowdlearn_export.trace import neuron_graph
from crowdlearn_export.weights import state_of
from crowdlearn_host.models import build_model
from crowdlearn_host.sharing.flat import flatten
from crowdlearn_host.simulation.config import SimulationConfig
from crowdlearn_host.simulation.engine import global_weights, prepare, run
from crowdlearn_host.simulation.workers import InProcess
from crowdlearn_host.training.config import TrainConfig
from crowdlearn_host.training.data import load_split

from .sockets import train_on_sockets

pytestmark = pytest.mark.system
MODEL = "mlp:64-16-8-10"
# A window that forgets nothing: in which order groups upload is then of no consequence.
SHARING = {"theta": 0.5, "tau": 0.1, "omega": 6, "values": "float32"}
TRAINING = {"epochs": 3, "batch": 48, "learning_rate": 0.05, "momentum": 0.9, "wire": "float32"}


async def test_real_groups_end_with_the_simulated_weights(tmp_path):
    config = TrainConfig.model_validate(
        {
            "data": "digits",
            "model": MODEL,
            "group": {"pieces": 2, "groups": 2, "rotation": "full"},
            "sharing": {**SHARING, "synchronous": True},
            "training": {**TRAINING, "micro_batch": TRAINING["batch"]},
        }
    )
    server, events = await train_on_sockets(tmp_path, config, 4)
    assert [group.phase for group in server.groups] == ["done", "done"]
    assert not [fields for event, fields in events if event in ("fault", "refused")]

    train, test = load_split("digits", "train"), load_split("digits", "test")
    dealt = np.array_split(np.random.default_rng(0).permutation(len(train)), 4)
    simulated = SimulationConfig.model_validate(
        {"model": MODEL, "devices": 4, "group": 2, "sharing": SHARING, "training": TRAINING}
    )
    setting = prepare(simulated, train, test, dealt)
    with InProcess(setting.workload) as workers:
        expected = global_weights(setting, run(setting, workers))

    model = build_model(MODEL, 0)
    graph = neuron_graph(model, torch.zeros(2, 64), MODEL)
    trained = flatten(state_of(graph, server.shared.model(), model.state_dict()))
    assert float(np.abs(trained - expected).max()) <= 1e-4 * float(np.abs(expected).max())
