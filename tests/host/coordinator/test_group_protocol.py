"""A group trains exactly once over every sample, whoever dies when."""

from __future__ import annotations

from pathlib import Path

import pytest
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_device.security import snapshot

from .crowd import Action, Crowd, largest_difference, memory_folder, settings_for

ROLES = ("dominator", "follower", "spare", "host")
PHASES = ("forward", "backward", "apply", "shuffle", "sharing")
POINTS = 5
"""Kill points by role and phase."""


def phase_of(action: Action, crowd: Crowd) -> str:
    """What the group was doing when this was about to happen."""
    if crowd.group.phase == "sharing":
        return "sharing"
    frame = action.frame()
    if frame is None or crowd.group.phase != "running":
        return "shuffle"
    if frame.HasField("envelope"):
        return {pb.PURPOSE_ACTIVATION: "forward", pb.PURPOSE_ERROR: "backward"}.get(
            frame.envelope.purpose, "shuffle"
        )
    return "apply" if frame.WhichOneof("body") in ("held", "snapshot", "progress", "committed") else "shuffle"


def victim(role: str, crowd: Crowd, nth: int) -> int | None:
    """Whom to kill, if the group has such a device now."""
    holders = crowd.group.holders
    if role == "dominator":
        return holders[0] if holders else None
    if role == "follower":
        return holders[1 + nth % (len(holders) - 1)] if holders else None
    return next((d for d in sorted(crowd.group.live) if d not in holders), None)


class KillOnce:
    """Kills one role at the nth thing that happens in a phase; `gone` is then the device that is down."""

    def __init__(self, crowd: Crowd, role: str, phase: str, nth: int) -> None:
        self.crowd, self.role, self.phase, self.nth = crowd, role, phase, nth
        self.gone: int | None = None
        self.done = False

    def __call__(self, action: Action) -> None:
        if self.done or phase_of(action, self.crowd) != self.phase:
            return
        self.nth -= 1
        if self.nth >= 0:
            return
        if self.role == "host":
            self.crowd.host.effects_left = self.crowd.rng.randint(0, 3)
            self.done = True
        elif (device := victim(self.role, self.crowd, self.crowd.rng.randint(0, 9))) is not None:
            self.crowd.crash(device)
            self.gone, self.done = device, True

    def and_back(self, action: Action) -> None:
        """The same, but the device is back at once."""
        self(action)
        if self.gone is not None:
            self.crowd.connect(self.gone)
            self.gone = None


@pytest.fixture(scope="module")
def undisturbed() -> tuple[dict[str, Floats], dict[str, int]]:
    """The weights of a run in which nothing happens, and how many actions each phase has."""
    count = dict.fromkeys(PHASES, 0)
    with memory_folder() as folder:
        crowd = Crowd(folder, settings_for())

        def note(action: Action) -> None:
            count[phase_of(action, crowd)] += 1

        crowd.run(note)
    crowd.check_done()
    return crowd.model(), count


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("role", ROLES)
def test_a_death_changes_nothing(
    role: str, phase: str, undisturbed: tuple[dict[str, Floats], dict[str, int]], folder: Path
) -> None:
    """The dead device comes back at once, or (every other time) only when the group cannot do without it."""
    model, count = undisturbed
    for point in range(POINTS):
        crowd = Crowd(folder / str(point), settings_for(), seed=point)
        kill = KillOnce(crowd, role, phase, nth=count[phase] * (2 * point + 1) // (2 * POINTS + 1))

        crowd.run(kill.and_back if point % 2 else kill)
        if kill.gone is not None and not crowd.done:
            crowd.connect(kill.gone)
            crowd.run()
        assert kill.done, f"point {point} was never reached"
        crowd.check_done(model)
        assert set(crowd.disk["epochs"]) == set(range(crowd.settings.epochs))


@pytest.mark.parametrize("role", ["follower", "host"])
def test_a_death_amid_a_snapshot_of_many_parts_changes_nothing(
    role: str,
    undisturbed: tuple[dict[str, Floats], dict[str, int]],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(snapshot, "PART_BYTES", 50)
    for nth in range(0, 60, 15):
        crowd = Crowd(folder / str(nth), settings_for(), seed=nth)
        kill = KillOnce(crowd, role, "apply", nth)
        crowd.run(kill)
        if kill.gone is not None and not crowd.done:
            crowd.connect(kill.gone)
            crowd.run()
        assert kill.done
        assert crowd.done, f"{nth}: {crowd.group.phase} {crowd.group.reason}"
        assert min(map(len, crowd.disk["snapshots"].values())) > 3
        assert not list(folder.glob("**/inherited-*"))
        crowd.check_done(undisturbed[0])


def test_any_order_of_events_gives_the_same_bits(
    undisturbed: tuple[dict[str, Floats], dict[str, int]], folder: Path
) -> None:
    for seed in range(1, 4):
        crowd = Crowd(folder / str(seed), settings_for(), seed=seed)
        crowd.run()
        assert largest_difference(crowd.model(), undisturbed[0]) == 0


def test_sums_rounded_by_lot_are_rounded_alike_when_they_are_sent_again(folder: Path) -> None:
    """With int8 on the wire a mini-batch that is computed again gives the same bits as the first time."""
    settings = settings_for(wire_type=pb.INT8, snapshot_every=2)
    calm = Crowd(folder / "calm", settings)
    calm.run()
    assert calm.done
    float32 = Crowd(folder / "float32", settings_for(snapshot_every=2))
    float32.run()
    assert largest_difference(calm.model(), float32.model()) > 1e-4  # it does round
    for seed, role in enumerate(("dominator", "follower", "host")):
        crowd = Crowd(folder / role, settings, seed=seed)
        kill = KillOnce(crowd, role, "backward", nth=20)
        crowd.run(kill.and_back)
        assert kill.done
        assert crowd.done
        assert crowd.log("recovering") or role == "host"
        assert largest_difference(crowd.model(), calm.model()) == 0
