"""Who reads snapshots, and who knows the order of a dominator's samples, is the user's choice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from crowdlearn_device.protocol.schedule import pass_order
from crowdlearn_device.security.identity import Identity
from crowdlearn_host.common.toml_files import parse_config
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.runs.checks.checked import check
from crowdlearn_host.spec.run_spec import RunSpec

from .crowd import Crowd, memory_folder, settings_for


@pytest.fixture
def folder() -> Iterator[Path]:
    with memory_folder() as path:
        yield path


def orders(crowd: Crowd) -> dict[tuple[int, int], list[int]]:
    """The samples of each epoch and dominator as they were fed."""
    fed: dict[tuple[int, int], list[int]] = {}
    for _, (epoch, device, rows) in sorted(crowd.ledger.items()):
        fed.setdefault((epoch, device), []).extend(rows)
    return fed


def test_with_owners_alone_nobody_is_heir_and_a_group_waits_for_a_lost_follower(folder: Path) -> None:
    undisturbed = Crowd(folder / "undisturbed", settings_for(devices=3), samples=(7, 5, 6))
    undisturbed.run()
    crowd = Crowd(folder / "crowd", settings_for(devices=3, heirs="owner"), samples=(7, 5, 6))
    crowd.run_until(lambda: crowd.group.phase == "running" and crowd.group.boundary > 1)
    lost = crowd.group.holders[1]
    crowd.crash(lost)
    crowd.run()
    assert crowd.group.phase == "paused"
    assert not crowd.disk["snapshots"]
    crowd.connect(lost)
    crowd.run()
    crowd.check_done(undisturbed.model())
    assert not crowd.disk["snapshots"]


def test_sticky_pieces_come_back_to_their_devices_in_every_epoch(folder: Path) -> None:
    usual = Crowd(folder / "usual", settings_for(epochs=3))
    usual.run()
    sticky = Crowd(folder / "sticky", settings_for(epochs=3, sticky=True))
    sticky.run()
    sticky.check_done(usual.model())

    def holders(crowd: Crowd) -> dict[str, set[tuple[str, ...]]]:
        found: dict[str, set[tuple[str, ...]]] = {}
        for told in crowd.log("assigned"):
            found.setdefault(told["dominator"], set()).add(tuple(told["holders"]))
        return found

    assert all(len(each) == 1 for each in holders(sticky).values())
    assert any(len(each) > 1 for each in holders(usual).values())


def test_spares_are_heirs_and_without_them_nobody_is(folder: Path) -> None:
    with_spare = Crowd(folder / "spare", settings_for(heirs="spares"))
    with_spare.run_until(lambda: bool(with_spare.group.restore_points.snapshots))
    spare = set(range(4)) - set(with_spare.group.holders)
    assert set().union(*with_spare.group.restore_points.snapshots.values()) <= spare
    without = Crowd(folder / "none", settings_for(devices=3, heirs="spares"), samples=(7, 5, 6))
    without.run()
    without.check_done()
    assert not without.disk["snapshots"]


def test_two_heirs_restore_a_lost_piece_together_and_one_alone_does_not(folder: Path) -> None:
    samples = (7, 5, 6, 4)
    undisturbed = Crowd(folder / "undisturbed", settings_for(devices=4), samples=samples)
    undisturbed.run()
    settings = settings_for(devices=4, heirs="shared")
    crowd = Crowd(folder / "crowd", settings, samples=samples)
    crowd.run_until(lambda: crowd.group.phase == "running" and crowd.group.boundary > 1)
    assert all(heirs and len(heirs) == 3 for heirs in crowd.group.restore_points.snapshots.values())
    lost, spare = crowd.group.holders[1], (set(range(4)) - set(crowd.group.holders)).pop()
    crowd.crash(lost)
    crowd.run()
    assert crowd.log("recovering")
    assert crowd.group.phase != "paused" or crowd.group.boundary > 1  # it went on without the lost one
    crowd.connect(lost)
    crowd.run()
    crowd.check_done(undisturbed.model())

    crowd = Crowd(folder / "alone", settings, samples=samples, seed=1)
    crowd.run_until(lambda: crowd.group.phase == "running" and crowd.group.boundary > 1)
    gone = sorted(set(crowd.group.holders))[:3]
    for number in gone:
        crowd.crash(number)
    crowd.run()
    assert crowd.group.phase == "paused"
    for number in gone:
        crowd.connect(number)
    crowd.run()
    crowd.check_done(undisturbed.model())
    assert spare < 4


def test_too_few_devices_share_no_snapshot(folder: Path) -> None:
    settings = settings_for(devices=3, heirs="shared", heirs_needed=3)
    crowd = Crowd(folder, settings, samples=(7, 5, 6))
    crowd.run()
    crowd.check_done()
    assert not crowd.disk["snapshots"]


def test_a_secret_order_is_neither_the_seeds_nor_anothers_and_repeats_after_a_loss(folder: Path) -> None:
    settings = settings_for(secret_order=True, devices=4)
    crowd = Crowd(folder / "crowd", settings, samples=(37, 35, 36, 34))
    crowd.run_until(lambda: crowd.group.phase == "running" and crowd.group.boundary > 2)
    dominator = crowd.group.schedule.dominator
    crowd.crash(dominator)
    crowd.run()
    crowd.connect(dominator)
    crowd.run()
    crowd.check_done()  # every sample once, so the order after the loss is that before it
    for (epoch, device), fed in orders(crowd).items():
        public = pass_order(len(fed), seed=settings.seed, epoch=epoch, device=device)
        assert fed != public.tolist()


def test_secrets_are_an_identitys_own_and_of_one_purpose() -> None:
    mine, other = Identity.generate(), Identity.generate()
    assert mine.secret("run/a") == mine.secret("run/a")
    assert len({mine.secret("run/a"), mine.secret("run/b"), other.secret("run/a")}) == 3
    assert (pass_order(50, seed=mine.secret("run/a"), epoch=0, device=0) != np.arange(50)).any()


def test_orders_are_secret_where_samples_lie_on_devices_unless_the_run_says_otherwise() -> None:
    def spec(**values: object) -> RunSpec:
        return parse_config({"model": "mlp:8-6-4", "input_shape": [8], **values}, RunSpec, "the test")

    assert spec(device_data="/sdcard/data").secret_order
    assert not spec(data="digits").secret_order
    assert spec(data="digits", privacy={"order": "secret"}).secret_order
    assert not spec(device_data="/sdcard/data", privacy={"order": "seed"}).secret_order


def test_going_on_with_fewer_pieces_needs_heirs() -> None:
    values = {"model": "mlp:8-6-4", "data": "digits", "group": {"pieces": 3, "min_pieces": 2}}
    with pytest.raises(ConfigError, match=r"privacy.heirs = 'all', or leave min_pieces out"):
        parse_config(values, RunSpec, "the test")
    assert parse_config({**values, "privacy": {"heirs": "all"}}, RunSpec, "the test").group.min_pieces == 2


def test_labels_are_changed_on_their_devices_and_as_they_are_with_a_large_epsilon(folder: Path) -> None:
    plain, large, small = (
        Crowd(folder / str(epsilon), settings_for(devices=3, label_epsilon=epsilon), samples=(7, 5, 6))
        for epsilon in (0.0, 50.0, 0.1)
    )
    for crowd in (plain, large, small):
        crowd.run()
        crowd.check_done()
    values = [
        np.concatenate([x.reshape(-1) for x in crowd.model().values()]) for crowd in (plain, large, small)
    ]
    assert np.abs(values[0] - values[1]).max() < 1e-6
    assert np.abs(values[0] - values[2]).max() > 1e-3


def test_labels_that_are_no_classes_are_refused_with_label_epsilon(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        np.savez(tmp_path / f"{split}.npz", inputs=rng.random((30, 6)), labels=rng.random((30, 1)))
    spec = RunSpec.model_validate(
        {
            "model": "mlp:6-8-1",
            "data": str(tmp_path),
            "training": {"loss": {"kind": "mse"}},
            "privacy": {"label_epsilon": 1.0},
        }
    )
    with pytest.raises(ConfigError, match="label_epsilon changes classes"):
        check(spec)
