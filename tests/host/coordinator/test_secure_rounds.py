"""Secure sums between real members: exact whoever dies when, and nothing for a host that lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crowdlearn_device.errors import AggregationError, StateError
from crowdlearn_device.member.handlers.sharing import summed_weights
from crowdlearn_device.member.secure_sharing import KeptOnDisk, SecureSharing, round_id
from crowdlearn_device.privacy.aggregation.fixed_point import FixedPoint
from crowdlearn_device.privacy.aggregation.messages import SumRound
from crowdlearn_device.privacy.aggregation.unmasking import Unmasking
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.security.identity import Identity
from crowdlearn_host.coordinator.sums import effects as of_sums

from .crowd import TWO_PIECES, layout_of, memory_folder
from .sum_crowd import GROUPS, PATIENCE, SumCrowd, lot
from .tiny import array_specs, first_weights

STEPS = ("key", "shares", "masked", "tags", "revealed")
SENT = ("begin", "keys", "shares", "survivors", "tags")
VICTIM = 5


def flat(model: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([model[spec.name].reshape(-1) for spec in array_specs()])


def stage(crowd: SumCrowd) -> str:
    attempt = crowd.host.sums._attempt
    return "" if attempt is None else attempt.stage


def heard(crowd: SumCrowd, kind: str) -> set[int]:
    return {device for device, step in crowd.steps if step.WhichOneof("step") == kind}


def summed(crowd: SumCrowd, but: tuple[int, ...] = ()) -> np.ndarray:
    """The mean that a simulation makes of what the devices hold at the end of the first round, float32
    [weights].
    """
    ranges = [lot(0).of(neurons) for neurons in layout_of(TWO_PIECES)]
    numbers = FixedPoint(crowd.groups)
    total, count = np.zeros(len(lot(0).positions), np.uint32), np.zeros(len(lot(0).positions))
    for phone in crowd.phones:
        generation = phone.member.generation if phone.member else None
        if generation is None or phone.number in but:
            continue
        values, at = summed_weights(generation, 0, 1.0), 0
        for start, stop in ranges[generation.assign.piece]:
            total[start:stop] += numbers.encode(values[at : at + stop - start])
            count[start:stop] += 1
            at += stop - start
    return (numbers.decode(total) / count).astype(np.float32)


@pytest.fixture(scope="module")
def calm() -> Iterator[SumCrowd]:
    """A round in which nothing fails."""
    with memory_folder() as folder:
        crowd = SumCrowd(folder)
        crowd.run()
        yield crowd


def test_groups_share_by_sums_alone(folder: Path) -> None:
    crowd = SumCrowd(folder, epochs=2)
    crowd.run(lambda: stage(crowd) == "masked")
    expected = summed(crowd)
    crowd.run(lambda: crowd.host.sums.number == 1)
    assert (flat(crowd.model()) == expected).all()
    crowd.run()
    crowd.check_done(crowd.model())
    assert [told["round"] for told in crowd.log("shared")] == 8 * [0] + 8 * [1]
    assert not crowd.log("refused") + crowd.log("fault") + crowd.log("sum_begun_anew")
    assert {step.WhichOneof("step") for _, step in crowd.steps} == {*STEPS}
    assert not (heard(crowd, "forgotten"))


def test_a_lot_of_the_weights_is_shared(folder: Path) -> None:
    crowd = SumCrowd(folder, theta=0.5, renews=False)
    crowd.run()
    assert crowd.done
    moved = np.flatnonzero(flat(crowd.model()) != flat(first_weights()))
    assert {*moved.tolist()} <= {*lot(0, 0.5).positions.tolist()}
    assert len(moved) > 10


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("is_heard", [False, True], ids=["before", "after"])
def test_a_device_may_die_at_every_step(step: str, is_heard: bool, folder: Path, calm: SumCrowd) -> None:
    """Its answer is lost or not, and it comes back with nothing but its disk."""
    crowd = SumCrowd(folder, seed=1)
    if is_heard:
        crowd.run(lambda: VICTIM in heard(crowd, step))
    else:
        stages = dict(zip(STEPS, ("keys", "shares", "masked", "agreeing", "revealing"), strict=True))
        crowd.run(lambda: stage(crowd) == stages[step] and VICTIM not in heard(crowd, step))
    crowd.crash(VICTIM)
    crowd.run(lambda: bool(crowd.log("left")))
    crowd.connect(VICTIM)
    crowd.run()
    crowd.check_done(calm.model())
    assert not crowd.log("sum_lost")


def is_sent(kind: str) -> Callable[[object], bool]:
    return lambda effect: isinstance(effect, of_sums.SendStep) and effect.step.WhichOneof("step") == kind


CRASHES: dict[str, Callable[[object], bool]] = {
    **{f"at the first {kind}": is_sent(kind) for kind in SENT},
    "before the survivors are kept": lambda effect: isinstance(effect, of_sums.Keep),
    "before the sum is released": lambda effect: isinstance(effect, of_sums.Release),
    "before a group knows": lambda effect: isinstance(effect, of_sums.Over),
}


@pytest.mark.parametrize("name", CRASHES)
def test_the_host_may_die_at_every_step(name: str, folder: Path, calm: SumCrowd) -> None:
    """Whatever it had sent then, nobody confirms two sets, and the sum is counted once."""
    crowd = SumCrowd(folder, seed=2)
    left = [3]  # not the very first: then some devices have it and some have not

    def crash(effect: object) -> bool:
        left[0] -= CRASHES[name](effect)
        return left[0] == (0 if "first" in name or "knows" in name else 2) and CRASHES[name](effect)

    crowd.host.crash_at = crash
    crowd.run()
    assert crowd.host.crash_at is not crash
    crowd.check_done(calm.model())
    assert len(crowd.disk["journal"]) == 2
    assert crowd.host.sums.number == 1


def test_all_may_die_at_once_between_confirming_and_revealing(folder: Path, calm: SumCrowd) -> None:
    crowd = SumCrowd(folder)
    crowd.run(lambda: stage(crowd) == "revealing")
    crowd.crash_host()
    crowd.run()
    crowd.check_done(calm.model())
    assert len(crowd.disk["journal"]) == 2


def test_devices_that_vanish_before_they_mask_are_left_out(folder: Path) -> None:
    """Nine groups, one of which loses a device for good: others reveal what takes its masks off."""
    crowd = SumCrowd(folder, groups=9, epochs=2)
    crowd.run(lambda: stage(crowd) == "masked" and VICTIM not in heard(crowd, "masked"))
    expected = summed(crowd, but=(VICTIM,))
    crowd.crash(VICTIM)
    crowd.run()
    for now in (1.0, 2.0 + PATIENCE):
        crowd.tick(now)
    crowd.run(lambda: crowd.host.sums.number == 1)
    assert (flat(crowd.model()) == expected).all()
    revealed = [step.revealed for _, step in crowd.steps if step.HasField("revealed")]
    shown = [{each.device for each in of.mask_keys} for of in revealed]
    assert shown.count({VICTIM}) == 8  # of those that hold the same weights
    assert shown.count(set()) == 9
    crowd.connect(VICTIM)
    crowd.run()
    assert crowd.done
    assert crowd.host.sums.number == 2


def test_a_sum_that_too_few_can_unmask_is_lost_and_not_begun_again(folder: Path) -> None:
    crowd = SumCrowd(folder)
    crowd.run(lambda: len(heard(crowd, "tags")) == 3)
    confirmed = heard(crowd, "tags")
    for phone in crowd.phones:
        if phone.number not in confirmed:
            crowd.crash(phone.number)
            for kept in phone.home.rglob("sums.json"):
                kept.unlink()
    for phone in crowd.phones:
        if phone.number not in confirmed:
            crowd.connect(phone.number)
    crowd.run()
    assert crowd.done
    assert crowd.log("sum_lost")
    assert not heard(crowd, "revealed")
    assert not crowd.disk["journal"]


Lie = Callable[[int, pb.SumStep], None]


def another_set(device: int, step: pb.SumStep) -> None:
    """Four of nine groups are shown a set without the last group: no set has most of the neighbours."""
    if step.HasField("survivors") and 4 <= device // 2 < 8:
        del step.survivors.devices[-2:]


def few_survivors(device: int, step: pb.SumStep) -> None:
    if step.HasField("survivors"):
        del step.survivors.devices[2:]


def own_keys(device: int, step: pb.SumStep) -> None:
    if step.HasField("keys"):
        step.keys.keys[0].share = Identity.generate().public


def few_contributors(device: int, step: pb.SumStep) -> None:
    if step.HasField("begin"):
        step.begin.least = 2


def other_stretches(device: int, step: pb.SumStep) -> None:
    if step.HasField("begin") and device == 0:
        step.begin.owners[-1].stretches[-1].stop -= 1


def invented(device: int, step: pb.SumStep) -> None:
    """All other devices of the sum are the host's own, under the numbers of devices that this one met."""
    if step.HasField("begin"):
        for owner in step.begin.owners:
            if owner.peer.device != device:
                owner.peer.identity = Identity.generate().public


LIES: dict[str, tuple[Lie, str]] = {
    "different sets of survivors": (another_set, "different sets"),
    "a set of two": (few_survivors, "contributors are left"),
    "keys of its own": (own_keys, "forged"),
    "a sum of two": (few_contributors, "8 at least"),
    "other stretches": (other_stretches, ""),
    "other identities": (invented, "changed its identity"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_host_that_lies_gets_nothing(name: str, folder: Path) -> None:
    lie, reason = LIES[name]
    crowd = SumCrowd(folder, groups=9 if lie is another_set else GROUPS)

    def shown(device: int, step: pb.SumStep) -> pb.SumStep:
        told = pb.SumStep.FromString(step.SerializeToString())
        lie(device, told)
        return told

    crowd.host.shown = shown
    crowd.run(lambda: any(reason in told["reason"] for told in crowd.log("fault")))
    assert any(reason in told["reason"] for told in crowd.log("fault"))
    assert not heard(crowd, "revealed")
    assert not crowd.disk["journal"]


def kept_part(folder: Path, survivors: tuple[int, ...] = ()) -> Unmasking:
    stretches = dict.fromkeys(range(GROUPS), ((0, 4),))
    round_ = SumRound(round_id("run", 3), stretches, 8, 8, bytes(16))
    held = {n: (bytes(32), bytes(32)) for n in range(1, GROUPS)}
    return Unmasking(round_, 0, 5, held, {n: bytes(32) for n in held}, survivors)


def test_a_round_is_on_disk_before_anybody_hears_that_it_is_confirmed(tmp_path: Path) -> None:
    kept = KeptOnDisk(tmp_path)
    kept.boundary = 7
    kept.keep(kept_part(tmp_path))
    assert round_id("run", 3) not in KeptOnDisk(tmp_path)
    part = KeptOnDisk(tmp_path).part
    assert part is not None
    part.confirm(range(GROUPS), kept)
    again = KeptOnDisk(tmp_path)
    assert again.part == part
    assert round_id("run", 3) in again
    assert round_id("run", 2) in again
    assert round_id("run", 4) not in again
    with pytest.raises(AggregationError, match="summed already"):
        again.check_trained(7)
    again.check_trained(8)
    assert (tmp_path / "sums.json").stat().st_mode & 0o077 == 0
    (tmp_path / "sums.json").write_text("{")
    with pytest.raises(StateError, match="damaged"):
        KeptOnDisk(tmp_path)


def test_the_same_weights_are_summed_once(tmp_path: Path) -> None:
    kept = KeptOnDisk(tmp_path)
    kept.boundary = 7
    kept.keep(kept_part(tmp_path, tuple(range(GROUPS))))
    identity = Identity.generate()
    sharing = SecureSharing("run", 0, identity, tmp_path)
    peers: list[dict[str, Any]] = [
        {"device": n, "identity": identity.public if n == 0 else Identity.generate().public}
        for n in range(GROUPS)
    ]
    owners = [pb.SumOwner(peer=pb.Peer(**peer), stretches=[pb.Range(stop=4)]) for peer in peers]
    begin = pb.SumBegin(generation=1, round=4, least=8, terms=8, theta=1.0, owners=owners)
    step = pb.SumStep(attempt=bytes(16), begin=begin)
    known = {peer["device"]: peer["identity"] for peer in peers}
    with pytest.raises(AggregationError, match="summed already"):
        sharing.begin(step, known, 7)
    assert sharing.begin(step, known, 8).HasField("key")
    step.begin.round = 3
    with pytest.raises(AggregationError, match="confirmed before"):
        sharing.begin(step, known, 8)
