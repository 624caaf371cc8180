"""What simulated groups share and get, real devices and the server's model make of the same weights, bit for
bit.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from crowdlearn_device.sharing.selection import apply_patch, shared_updates
from crowdlearn_device.sharing.update import encode_update
from crowdlearn_device.sharing.update_values import ValueType
from crowdlearn_device.state.piece_state import PieceState
from crowdlearn_export.graph.shape import array_specs
from crowdlearn_export.graph.weights import arrays_of
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_host.coordinator.group.effects import Merge
from crowdlearn_host.coordinator.storage.shared_model import SharedModel
from crowdlearn_host.methods.index_space import unflatten
from crowdlearn_host.models.named import build_model, mlp
from crowdlearn_host.simulation.engine import start
from crowdlearn_host.simulation.learners.group import GroupResult
from crowdlearn_host.simulation.setting import Setting
from crowdlearn_host.simulation.sharing import share
from torch import nn

GROUPS = 3


def frozen() -> nn.Module:
    """The first layer and its batch norm rest, and so do the second's weights."""
    model = mlp((6, 60, 70, 4))
    model[:2].requires_grad_(False)
    model[1].eval()
    model[3].weight.requires_grad_(False)
    return model


@pytest.mark.parametrize("model", ["mlp:6-60-70-4", f"{__file__}:frozen"])
@pytest.mark.parametrize("theta", [0.3, 1.0])
@pytest.mark.parametrize("values", ["float32", "float16", "int8"])
def test_a_round_is_that_of_devices_and_server(
    crowd: Callable[..., Setting], values: str, theta: float, model: str
) -> None:
    """Also where weights are frozen, which stay where they are: nobody sends or gets any."""
    sharing = {"theta": theta, "tau": 0.5, "omega": 2, "values": values}
    setting = crowd(model=model, sharing=sharing)
    template = build_model(setting.config.model, setting.config.seed)
    graph = neuron_graph(template, torch.zeros(2, 6))
    specs = array_specs(graph)

    def arrays(vector: np.ndarray) -> dict[str, np.ndarray]:
        return arrays_of(graph, unflatten(vector, template.state_dict()))

    rng = np.random.default_rng(0)
    size = len(setting.initial)
    drawn = lambda: rng.standard_normal(size).astype(np.float32)  # noqa: E731
    results = [
        GroupResult(drawn(), drawn(), ranks, 0.0, 1)
        for ranks in rng.integers(0, 9, (GROUPS, size)).astype(np.float32)  # many are alike
    ]
    state = start(setting)
    weights = np.stack([result.weights for result in results])
    holders = np.arange(12).reshape(GROUPS, 4)
    share(setting, state.window, holders.tolist(), results, weights, 0)

    assert np.array_equal(weights[:, setting.frozen], [r.weights[setting.frozen] for r in results])
    shared = SharedModel(specs, arrays(setting.initial), omega=2, tau=0.5, values=ValueType[values.upper()])
    manifest: Any = SimpleNamespace(arrays=specs)
    pieces: dict[tuple[int, int], PieceState] = {}
    for group, result in enumerate(results):
        own = {"value": arrays(result.weights), "gradient": arrays(result.accumulated)}
        for number, piece in enumerate(setting.plan.pieces):
            layers: dict[int, dict[str, np.ndarray]] = {}
            for spec in specs:
                a, b = piece.neurons[spec.layer]
                for kind in ("value", "gradient")[: 1 + spec.trained]:
                    array = own[kind][spec.name][a:b].copy()
                    layers.setdefault(spec.layer, {})[f"{kind}/{spec.name}"] = array
            pieces[group, number] = piece_state = PieceState(piece.neurons, layers)
            device = int(holders[group, number])
            for update in shared_updates(manifest, piece_state, device, 0, theta):
                data = encode_update(update, ValueType[values.upper()])
                shared.merge(group, Merge(device, 1, 0, piece.neurons, data))
        records = shared.close(group, 1, (0, 0))
        for record in [*records, *shared.entering(records)]:
            shared.take_in(record)
    average = arrays(state.window.average())
    for name, array in shared.model().items():
        np.testing.assert_array_equal(array, average[name], err_msg=name)
    for (group, number), piece_state in pieces.items():
        for patch in shared.patch(0, piece_state.neurons):
            apply_patch(manifest, piece_state, patch)
        simulated = arrays(weights[group])
        for spec in specs:
            a, b = setting.plan.pieces[number].neurons[spec.layer]
            got = piece_state.layers[spec.layer][f"value/{spec.name}"]
            np.testing.assert_array_equal(got, simulated[spec.name][a:b], err_msg=spec.name)
