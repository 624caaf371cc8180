"""A simulated crowd computes what the method says, and the same whoever computes it."""

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from crowdlearn_device.errors import DataError
from crowdlearn_device.protocol.schedule import dominator_order, mini_batches, pass_order
from crowdlearn_host.errors import ConfigError, TrainingError
from crowdlearn_host.methods.index_space import flatten, unflatten
from crowdlearn_host.models.named import build_model
from crowdlearn_host.simulation import engine
from crowdlearn_host.simulation.engine import global_weights, run, start
from crowdlearn_host.simulation.mapped import Packed
from crowdlearn_host.simulation.rounds import averaged as rounds_averaged
from crowdlearn_host.simulation.setting import Setting
from crowdlearn_host.simulation.state import RunState
from crowdlearn_host.simulation.workers import LARGE, InProcess, Processes

Crowd = Callable[..., Setting]
ALONE = {"enabled": False}


def simulated(setting: Setting) -> RunState:
    return run(setting, InProcess(setting.workload))


def same(a: RunState, b: RunState) -> bool:
    """Whether two states hold the same bits."""
    return np.array_equal(a.weights, b.weights) and np.array_equal(a.window.average(), b.window.average())


def test_a_group_is_plain_sgd_over_its_dominators_in_turn(crowd: Crowd) -> None:
    training = {"epochs": 2, "batch": 8, "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 0.01}
    setting = crowd(devices=4, training={**training, "schedule": "linear"}, sharing=ALONE)
    data, config = setting.workload, setting.config
    model = build_model(config.model, config.seed).train()
    sgd = torch.optim.SGD(model.parameters(), lr=1, momentum=0.9, weight_decay=0.01)
    for epoch in range(2):
        sgd.param_groups[0]["lr"] = config.rate(epoch)
        for device in dominator_order(range(4), seed=config.seed, epoch=epoch):
            own = data.devices[device]
            order = own[pass_order(len(own), seed=config.seed, epoch=epoch, device=device)]
            for rows in mini_batches(len(own), 8):
                at = order[list(rows)]
                sgd.zero_grad()
                logits = model(torch.from_numpy(data.inputs[at]))
                torch.nn.functional.cross_entropy(logits, torch.from_numpy(data.labels[at])).backward()
                sgd.step()
    np.testing.assert_allclose(
        simulated(setting).weights[0], flatten(model.state_dict()), rtol=1e-5, atol=1e-5
    )


def test_every_member_is_dominator_once_an_epoch_in_a_drawn_order() -> None:
    orders = [dominator_order(range(8, 16), seed=5, epoch=epoch) for epoch in range(6)]
    assert all(sorted(order) == list(range(8, 16)) for order in orders)
    assert len({tuple(order) for order in orders}) == 6


def test_a_crowd_learns_and_its_global_model_beats_chance(crowd: Crowd) -> None:
    records = simulated(crowd()).records
    assert records[-1].loss < records[0].loss
    assert records[-1].accuracy is not None
    assert records[-1].accuracy > 0.8


def test_the_seed_decides_everything(crowd: Crowd) -> None:
    assert same(simulated(crowd()), simulated(crowd()))
    assert not same(simulated(crowd()), simulated(crowd(seed=4)))


def test_processes_give_the_same_bits_and_a_killed_one_changes_nothing(crowd: Crowd) -> None:
    setting = crowd(training={"epochs": 2, "batch": 8})
    with Processes(setting.workload, 2) as workers:

        def kill_one(state: RunState) -> None:
            if len(state.records) <= 2:  # each worker once
                os.kill(workers.pids[len(state.records) % 2], signal.SIGKILL)

        assert same(run(setting, workers, on_round=kill_one), simulated(setting))


@pytest.mark.parametrize("full", [False, True])
def test_weights_in_common_travel_once_where_there_is_room_for_them(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    """As do those that are tested and then trained; results that are large go through files, too."""
    model = "mlp:6-300-120-4"
    assert LARGE < 300 * 120 * 4
    setting = crowd(model=model, method="fedavg", training={"epochs": 3, "batch": 11, "momentum": 0})
    monkeypatch.setattr(engine, "EVALUATED", 100)  # two tasks
    saved: list[Path] = []

    def save(packed: Packed, path: Path, save: Callable[..., None] = Packed.write) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(packed, path)
        saved.append(path)

    with Processes(setting.workload, 2) as workers:
        monkeypatch.setattr(Packed, "write", save)

        def kill_one(state: RunState) -> None:
            if len(state.records) == 1:
                os.kill(workers.pids[0], signal.SIGKILL)

        assert same(run(setting, workers, on_round=kill_one), simulated(setting))
        left = {path.name for each in saved for path in each.parent.iterdir()}
    assert left == (set() if full else {"workload", "weights-7"})
    assert len(saved) == (0 if full else 1 + 3 * 2)
    assert not any(path.exists() for path in saved)


def test_statistics_are_recomputed_on_some_thousand_samples(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = crowd(method="fedavg", training={"epochs": 3, "batch": 11, "momentum": 0})
    whole = simulated(setting)
    monkeypatch.setattr(rounds_averaged, "STATISTICS_SAMPLES", 1)
    few = simulated(setting)
    learned, statistics = ~setting.statistics, setting.statistics
    np.testing.assert_array_equal(few.weights[0, learned], whole.weights[0, learned])
    assert not np.array_equal(few.weights[0, statistics], whole.weights[0, statistics])
    np.testing.assert_allclose(few.weights[0, statistics], whole.weights[0, statistics], atol=0.5)


def test_a_run_goes_on_from_any_round_as_if_never_stopped(crowd: Crowd) -> None:
    setting = crowd()

    class Stopped(Exception):
        pass

    kept: list[RunState] = []

    def stop(state: RunState) -> None:
        kept.append(state)
        if len(kept) == 2:
            raise Stopped

    with pytest.raises(Stopped):
        run(setting, InProcess(setting.workload), on_round=stop)
    assert same(run(setting, InProcess(setting.workload), kept[-1]), simulated(setting))


def test_sharing_everything_makes_all_groups_the_global_model(crowd: Crowd) -> None:
    state = simulated(crowd(sharing={"theta": 1, "tau": 0}))
    for weights in state.weights:
        np.testing.assert_array_equal(weights, state.window.average())


def test_without_downloads_groups_train_as_if_alone(crowd: Crowd) -> None:
    unheard = simulated(crowd(sharing={"tau": 1}))
    np.testing.assert_array_equal(unheard.weights, simulated(crowd(sharing=ALONE)).weights)


def test_a_window_of_all_whole_models_is_federated_averaging(crowd: Crowd) -> None:
    whole = crowd(
        group=1,
        sharing={"theta": 1, "tau": 0},
        training={"epochs": 2, "batch": 11, "momentum": 0},
    )
    averaged = crowd(
        method="fedavg",
        training={"epochs": 2, "batch": 11, "momentum": 0},
        fedavg={"batch_norm": "average"},
    )
    np.testing.assert_allclose(
        global_weights(whole, simulated(whole)),
        global_weights(averaged, simulated(averaged)),
        atol=1e-5,
    )


def test_statistics_of_averaged_weights_are_those_of_all_their_devices(crowd: Crowd) -> None:
    """After few steps averaged statistics still hold half of what they began with."""
    training = {"epochs": 1, "batch": 33, "momentum": 0, "learning_rate": 0.5}
    setting = crowd(method="fedavg", training=training)
    state = simulated(setting)
    model = build_model(setting.config.model, setting.config.seed)
    model.load_state_dict(unflatten(state.weights[0], model.state_dict()))
    first = next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm1d))
    entered: list[torch.Tensor] = []
    first.register_forward_hook(lambda module, given, out: entered.append(given[0]))
    with torch.no_grad():
        model.eval()(torch.from_numpy(setting.workload.inputs))
    torch.testing.assert_close(first.running_mean, entered[0].mean(0), rtol=1e-3, atol=1e-4)
    lagging = simulated(crowd(method="fedavg", training=training, fedavg={"batch_norm": "average"}))
    assert (state.records[-1].accuracy or 0) > (lagging.records[-1].accuracy or 0)


@pytest.mark.parametrize("batch_norm", ["recompute", "average", "keep"])
def test_whatever_becomes_of_statistics_weights_learn_the_same(crowd: Crowd, batch_norm: str) -> None:
    few = {"fraction": 0.5, "batch_norm": batch_norm}
    training = {"epochs": 3, "batch": 11, "momentum": 0}
    setting = crowd(method="fedavg", training=training, fedavg=few)
    usual = crowd(method="fedavg", training=training, fedavg={"fraction": 0.5})
    state, other = simulated(setting), simulated(usual)
    learned = ~setting.statistics
    np.testing.assert_allclose(state.weights[0, learned], other.weights[0, learned], atol=1e-6)
    assert [record.loss for record in state.records] == pytest.approx([r.loss for r in other.records])
    assert np.isfinite(state.weights).all()


def test_devices_keep_their_own_statistics_from_round_to_round(crowd: Crowd) -> None:
    kept = {"fraction": 0.5, "batch_norm": "keep"}
    training = {"epochs": 1, "batch": 11, "momentum": 0}
    setting = crowd(method="fedavg", training=training, fedavg=kept)
    once = simulated(setting)
    trained = ~np.isnan(once.kept).any(axis=1)
    assert 0 < trained.sum() < len(once.kept)
    assert np.ptp(once.kept[trained], axis=0).max() > 0
    np.testing.assert_allclose(once.weights[0, setting.statistics], once.kept[trained].mean(0), rtol=1e-5)
    sent = once.records[0].bytes["sharing"]
    plain = simulated(crowd(method="fedavg", training=training, fedavg={**kept, "batch_norm": "average"}))
    assert (
        sent == plain.records[0].bytes["sharing"] - 2 * int(trained.sum()) * int(setting.statistics.sum()) * 4
    )
    more = crowd(method="fedavg", training={**training, "epochs": 2}, fedavg=kept)
    gone_on = run(more, InProcess(more.workload), state=once)
    assert np.isfinite(gone_on.kept[trained]).all()


def test_federated_averaging_of_a_part_of_the_devices_learns(crowd: Crowd) -> None:
    record = simulated(crowd(method="fedavg", fedavg={"fraction": 0.5, "local_epochs": 2})).records[-1]
    assert record.samples == 2 * 6 * 33
    assert record.accuracy is not None
    assert record.accuracy > 0.8


def test_bytes_are_those_of_the_plan_and_of_the_updates(crowd: Crowd) -> None:
    setting = crowd(training={"epochs": 1, "batch": 8}, rotation="full")
    record = simulated(setting).records[0]
    # 10 sums leave the dominator; each of 3 followers sums for 8 neurons less its own; each sends 4 sums.
    sums = 10 + (3 * 8 - 8) + 3 * 4 + (8 if setting.plan.pieces[0].neurons[1] != (0, 0) else 0)
    assert record.bytes["activation"] == record.bytes["error"] == 396 * 4 * sums
    assert record.bytes["shuffle"] == 3 * 4 * len(setting.initial) * 4 * 2
    whole = simulated(crowd(training={"epochs": 1, "batch": 8}, sharing={"theta": 1, "tau": 0}))
    assert 0 < record.bytes["sharing"] < whole.records[0].bytes["sharing"]
    assert simulated(crowd(sharing=ALONE)).records[0].bytes["sharing"] == 0


@pytest.mark.parametrize(("values", "error"), [("float16", 1 / 1024), ("int8", 1 / 127)])
def test_shorter_values_cost_fewer_bytes_and_little_precision(
    crowd: Crowd, values: str, error: float
) -> None:
    once = {"epochs": 1, "batch": 8}
    whole = simulated(crowd(training=once, sharing={}))
    short = simulated(crowd(training=once, sharing={"values": values}))
    assert short.records[0].bytes["sharing"] < whole.records[0].bytes["sharing"]
    largest = np.abs(whole.window.average()).max()
    np.testing.assert_allclose(short.window.average(), whole.window.average(), atol=2 * error * largest)


def test_groups_get_averages_as_they_travel(crowd: Crowd) -> None:
    state = simulated(crowd(sharing={"theta": 1, "tau": 0, "values": "int8"}))
    average = state.window.average()
    for weights in state.weights:
        np.testing.assert_array_equal(weights, state.weights[0])
    assert 0 < np.abs(state.weights[0] - average).max() <= np.abs(average).max() / 127


def test_every_group_starts_from_the_model_drawn_by_the_seed(crowd: Crowd) -> None:
    setting = crowd()
    expected = flatten(build_model(setting.config.model, 3).state_dict())
    for weights in start(setting).weights:
        np.testing.assert_array_equal(weights, expected)


def test_a_model_that_does_not_fit_the_data_is_told(crowd: Crowd) -> None:
    with pytest.raises(DataError, match="a label 3, but the model distinguishes classes 0 to 2"):
        crowd(model="mlp:6-10-8-3")
    with pytest.raises(ConfigError, match=r"nor a package.module:function"):
        crowd(model="nothing:here")
    with pytest.raises(ConfigError, match="groups of 5"):
        crowd(group=5)


@pytest.mark.parametrize(("wire", "share"), [("float16", 2), ("int8", 4)])
def test_a_shorter_wire_costs_its_share_of_bytes_and_still_learns(
    crowd: Crowd, wire: str, share: int
) -> None:
    training = {"epochs": 6, "batch": 8, "momentum": 0.5}
    one_group = {"devices": 4, "sharing": ALONE}
    whole = simulated(crowd(training=training, **one_group)).records[-1]
    short = simulated(crowd(training={**training, "wire": wire}, **one_group)).records[-1]
    assert short.bytes["activation"] * share == whole.bytes["activation"]
    assert short.loss == pytest.approx(whole.loss, abs=0.2)
    again = simulated(crowd(training={**training, "wire": wire}, **one_group)).records[-1]
    assert (again.loss, again.accuracy) == (short.loss, short.accuracy)


def test_a_minimal_rotation_moves_less(crowd: Crowd) -> None:
    full, minimal = (simulated(crowd(rotation=kind)).records[0].bytes for kind in ("full", "minimal"))
    assert 0 < minimal["shuffle"] < full["shuffle"]
    without_choice = simulated(crowd(sharing={"theta": 1})).records[0].bytes
    assert without_choice["shuffle"] < full["shuffle"]
    renewed = simulated(crowd(sharing={"theta": 1, "tau": 0, "every": 1}, training={"epochs": 1, "batch": 8}))
    assert all(record.bytes["shuffle"] == 0 for record in renewed.records)


def test_sharing_may_come_after_every_few_passes(crowd: Crowd) -> None:
    setting = crowd(sharing={"theta": 1, "tau": 0, "every": 3}, training={"epochs": 2, "batch": 8})
    records = simulated(setting).records
    assert [record.epoch for record in records] == [0, 0, 1, 1]
    assert [record.samples for record in records] == [297, 99, 297, 99]
    assert [record.round for record in records] == [0, 1, 2, 3]
    assert all(record.bytes["sharing"] > 0 for record in records)


def test_an_odd_number_of_samples_trains_in_mini_batches_of_two(crowd: Crowd) -> None:
    setting = crowd(training={"epochs": 1, "batch": 2})
    assert any(len(device) % 2 for device in setting.workload.devices)
    assert [record.samples for record in simulated(setting).records] == [396]


@pytest.mark.parametrize(
    "changed",
    [
        {"sharing": {"values": "float16"}},
        {"sharing": {"values": "int8", "theta": 0.5}},
        {"sharing": {"theta": 1}},
        {"sharing": ALONE},
        {"method": "fedavg"},
        {"training": {"epochs": 4, "batch": 8, "learning_rate": 100, "wire": "int8"}},
    ],
)
def test_training_that_diverges_is_told_with_round_device_and_advice(
    crowd: Crowd, changed: dict[str, object]
) -> None:
    steep = {"epochs": 40, "batch": 8, "learning_rate": 100, "momentum": 0.99, "weight_decay": 1}
    with pytest.raises(TrainingError, match=r"round \d+: .*device.* \d+.* lower training.learning_rate"):
        simulated(crowd(**{"training": steep, **changed}))


def test_plain_training_tells_of_weights_that_are_not_finite_too(crowd: Crowd) -> None:
    setting = crowd(training={"epochs": 1, "batch": 8})
    setting.workload.inputs[setting.workload.devices[5][0]] = np.nan
    with pytest.raises(TrainingError, match=r"round 1: .*not finite after the passes of devices .*5"):
        simulated(setting)


def test_weights_beyond_what_values_can_tell_name_their_device(crowd: Crowd) -> None:
    setting = crowd(sharing={"values": "float16"}, training={"epochs": 1, "batch": 8, "learning_rate": 1e-9})
    state = start(setting)
    state.weights[1, 0] = 1e5
    with pytest.raises(TrainingError, match=r"round 1: device [4-7] holds weights beyond float16"):
        run(setting, InProcess(setting.workload), state)
