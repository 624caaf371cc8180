"""Several groups in one server, sharing after epochs or passes, compute what the simulation computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.sizes import websocket_bytes
from crowdlearn_export.graph.freezing import hold_frozen
from crowdlearn_export.graph.weights import state_of
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_host.coordinator.hub.server import Server
from crowdlearn_host.methods.index_space import flatten
from crowdlearn_host.models.named import build_model
from crowdlearn_host.runs.data import load_split
from crowdlearn_host.runs.groups import shared_model_of
from crowdlearn_host.runs.prepare import prepare as prepared_training
from crowdlearn_host.simulation.engine import global_weights, run
from crowdlearn_host.simulation.setting import Setting, prepare
from crowdlearn_host.simulation.state import RunState
from crowdlearn_host.simulation.workers import InProcess
from crowdlearn_host.spec.run_spec import RunSpec
from crowdlearn_host.spec.simulation import SimulationConfig

from .sockets import Events, train_on_sockets

pytestmark = pytest.mark.system
MODEL = "mlp:64-16-8-10"
FROZEN = f"{Path(__file__).with_name('small_networks.py')}:transferred"
TRAINING = {"epochs": 3, "batch": 48, "learning_rate": 0.05, "momentum": 0.9, "wire": "float32"}
CHOSEN = {"theta": 0.5, "tau": 0.1, "omega": 2, "values": "float32"}
RENEWED = {"theta": 1.0, "tau": 0.0, "omega": 2, "values": "float32", "every": 1}


async def on_devices(
    folder: Path, size: int, sharing: dict[str, Any], training: dict[str, Any], model: str
) -> tuple[Server, Events, RunSpec]:
    """Two groups of `size` devices, each with as many pieces, on real sockets."""
    config = RunSpec.model_validate(
        {
            "data": "digits",
            "model": model,
            "group": {"pieces": size, "groups": 2, "rotation": "full"},
            "sharing": {**sharing, "synchronous": True},
            "training": {**training, "micro_batch": training["batch"], "kernels": "by_size"},
        }
    )
    server, events = await train_on_sockets(folder, config, 2 * size)
    assert [group.phase for group in server.groups] == ["done", "done"]
    assert not [fields for event, fields in events if event in ("fault", "refused")]
    return server, events, config


def simulated(
    size: int, sharing: dict[str, Any], training: dict[str, Any], model: str
) -> tuple[Setting, RunState]:
    """The same crowd without devices."""
    train, test = load_split("digits", "train"), load_split("digits", "test")
    dealt = np.array_split(np.random.default_rng(0).permutation(len(train)), 2 * size)
    values = {"model": model, "devices": 2 * size, "group": size, "sharing": sharing, "training": training}
    setting = prepare(SimulationConfig.model_validate(values), train, test, dealt)
    with InProcess(setting.workload) as workers:
        return setting, run(setting, workers)


@pytest.mark.parametrize(
    ("size", "sharing", "training", "model"),
    [
        (2, CHOSEN, TRAINING, MODEL),
        (
            3,
            {**CHOSEN, "every": 2},
            {**TRAINING, "epochs": 2, "schedule": "cosine", "frozen": "int8"},
            FROZEN,
        ),
        (
            2,
            RENEWED,
            {**TRAINING, "momentum": 0.0, "learning_rate": 0.2, "schedule": "linear", "frozen": "float16"},
            FROZEN,
        ),
    ],
    ids=["every epoch", "every two of three passes", "every pass, and nothing shuffles"],
)
async def test_real_groups_end_with_the_simulated_weights(
    tmp_path: Path, size: int, sharing: dict[str, Any], training: dict[str, Any], model: str
) -> None:
    """The window forgets, so that the order of uploads counts; it is the simulation's. The frozen rests."""
    server, events, _ = await on_devices(tmp_path, size, sharing, training, model)
    setting, state = simulated(size, sharing, training, model)
    expected = global_weights(setting, state)
    assert len([1 for event, _ in events if event == "shared"]) == 2 * len(state.records)

    first = build_model(model, 0)
    narrow = training.get("frozen", "float32")
    graph = hold_frozen(neuron_graph(first, torch.zeros(2, 64), model), first, narrow)
    trained = flatten(state_of(graph, server.shared.model(), first.state_dict()))
    assert float(np.abs(trained - expected).max()) <= 1e-4 * float(np.abs(expected).max())
    assert np.array_equal(trained[setting.frozen], flatten(first.state_dict())[setting.frozen])
    assert np.array_equal(expected[setting.frozen], trained[setting.frozen])
    crossed = server.traffic.by_purpose()
    planned = setting.errors_per_sample / setting.sums_per_sample
    assert crossed["error"] / crossed["activation"] == pytest.approx(planned, rel=0.1)
    shuffled = server.traffic.by_purpose()["shuffle"]
    assert (shuffled > 0) == (sum(record.bytes["shuffle"] for record in state.records) > 0)


async def test_phones_share_as_many_bytes_as_the_simulation_counts(tmp_path: Path) -> None:
    """Within 2 %, messages around the updates included; the first model and the last download apart, of which
    only one side has each.
    """
    model = "mlp:64-400-100-10"
    sharing = {**RENEWED, "values": "int8"}
    training = {**TRAINING, "epochs": 2, "momentum": 0.0}
    server, _, config = await on_devices(tmp_path, 2, sharing, training, model)
    _, state = simulated(2, sharing, training, model)
    expected = sum(record.bytes["sharing"] for record in state.records)

    first = shared_model_of(prepared_training(config, lambda event, fields: None), 2)
    measured = sum(server.traffic.by_purpose(way)["sharing"] for way in ("up", "down"))
    for group in server.groups:
        for neurons in group.settings.layout:
            for part in first.parts(neurons):
                frame = pb.Frame(global_state=pb.GlobalState(generation=1, part=part))
                measured -= websocket_bytes(frame.ByteSize(), masked=True)
            measured += sum(map(len, server.shared.patch(0, neurons)))
    assert measured == pytest.approx(expected, rel=0.02)
    assert measured > expected
