"""A worker's model gives the same whether its network is trained by products or by autograd."""

import numpy as np
import pytest
from crowdlearn_device.data.dataset import Dataset
from crowdlearn_host.common.toml_files import parse_config
from crowdlearn_host.models.named import mlp
from crowdlearn_host.simulation.learners.dense import DenseChain
from crowdlearn_host.simulation.learners.group import GroupModel, GroupResult
from crowdlearn_host.simulation.learners.sparse_inputs import Columns
from crowdlearn_host.simulation.learners.workload import Pass
from crowdlearn_host.simulation.setting import Setting, prepare
from crowdlearn_host.spec.simulation import SimulationConfig
from torch import nn

PASSES = [Pass(0, 0), Pass(1, 0), Pass(2, 0), Pass(3, 0), Pass(1, 1), Pass(0, 1)]
RATE = 0.2


@pytest.fixture
def setting() -> Setting:
    """Four devices of 40 inputs, of which 20 are rare, each without 10 of its own; the last has samples for
    one mini-batch.
    """
    rng = np.random.default_rng(1)
    devices = np.split(np.arange(127), [40, 81, 120])
    inputs = rng.standard_normal((127, 40)).astype(np.float32)
    inputs[:, rng.permutation(40)[:20]] *= rng.random((127, 20)) < 0.1
    for own in devices:
        inputs[np.ix_(own, rng.permutation(40)[:10])] = 0
    assert not Columns.of(inputs).all_common
    samples = Dataset(inputs, rng.integers(0, 4, 127))
    training = {"epochs": 2, "batch": 8}
    values = {"model": "mlp:40-12-8-4", "devices": 4, "group": 4, "training": training}
    return prepare(parse_config(values, SimulationConfig, "test"), samples, samples, devices)


def trained(setting: Setting) -> tuple[GroupResult, GroupResult, int, np.ndarray]:
    """A group's passes, the average of devices alone, the samples that the group then gets right, and
    statistics by 20 samples of each device.
    """
    model = GroupModel(setting.workload)
    group = model.train(PASSES, setting.initial, np.zeros(0, np.float32), RATE, True)
    average = model.average([PASSES[:2], PASSES[3:4]], setting.initial, RATE)
    right = model.tested(group.weights, range(127))
    places = np.flatnonzero(setting.statistics)
    return group, average, right, model.statistics(PASSES[:4], group.weights, places, 20)


def frozen() -> nn.Module:
    """The first layer and its batch norm rest."""
    model = mlp((40, 12, 8, 4))
    model[:2].requires_grad_(False)
    model[1].eval()
    return model


def test_what_is_frozen_stays_bit_for_bit(setting: Setting) -> None:
    """In a group, in the average of devices alone, and after the model was tested, in evaluation mode."""
    named = setting.config.model_copy(update={"model": f"{__file__}:frozen"})
    samples = Dataset(setting.workload.inputs, setting.workload.labels)
    setting = prepare(named, samples, samples, setting.workload.devices)
    assert setting.frozen.sum() == 40 * 12 + 5 * 12
    model = GroupModel(setting.workload)
    start = setting.initial + np.where(setting.frozen, np.float32(0.1), 0)  # no half or third of it is exact
    for _ in range(2):
        group = model.train(PASSES, start, np.zeros(0, np.float32), RATE, True)
        average = model.average([PASSES[:2], PASSES[3:4]], start, RATE)
        for result in (group, average):
            assert np.array_equal(result.weights[setting.frozen], start[setting.frozen])
            assert not np.array_equal(result.weights, start)
        assert not group.accumulated[setting.frozen].any()
        model.tested(group.weights, range(127))


def test_products_and_autograd_agree(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    by_products = trained(setting)
    monkeypatch.setattr(DenseChain, "of", lambda *_: None)
    by_autograd = trained(setting)
    for ours, expected in zip(by_products[:2], by_autograd[:2], strict=True):
        np.testing.assert_allclose(ours.weights, expected.weights, atol=1e-5)
        np.testing.assert_allclose(ours.accumulated, expected.accumulated, rtol=1e-4, atol=1e-4)
        assert ours.loss == pytest.approx(expected.loss, rel=1e-5)
    assert by_products[2] == by_autograd[2]
    np.testing.assert_allclose(by_products[3], by_autograd[3], rtol=1e-4, atol=1e-5)


def test_statistics_are_those_of_samples_from_all_over_a_device(setting: Setting) -> None:
    workload = setting.workload
    for most, whole in ((20, False), (1000, True)):
        places, batches = workload.spread(Pass(1, 0), most)
        assert sorted(places) == sorted({*places})
        assert {*places} == {*workload.devices[1]} if whole else len(places) == most
        thirds = np.array_split(workload.devices[1], 3)
        for batch in batches:
            found = sum(np.isin(places[batch], third).any() for third in thirds)
            assert found == min(3, batch.stop - batch.start)
