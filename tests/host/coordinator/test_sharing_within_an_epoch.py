"""Sharing after every few passes: the same rounds whoever dies when, each counted once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_host.coordinator.group.settings import Settings

from .crowd import Action, Crowd, settings_for
from .test_group_protocol import ROLES, KillOnce, phase_of

REMEMBERED = 50
"""A window that forgets no round: one that counted twice would be seen in its average."""
KILLS = 2
UPLOADS: dict[str, Settings] = {
    "after every pass": settings_for(every=1, theta=0.5, alone=False),
    "and the rest of the epoch": settings_for(every=3, theta=0.5, alone=False),
    "and nothing shuffles": settings_for(every=1, alone=False, renews=True),
}


def crowd_of(folder: Path, settings: Settings, seed: int = 0) -> Crowd:
    return Crowd(folder, settings, seed=seed, omega=REMEMBERED)


def rounds_of(crowd: Crowd) -> list[tuple[int, int]]:
    return [(told["epoch"], told["round"]) for told in crowd.log("shared")]


def test_every_pass_is_shared_or_every_third_and_the_rest(folder: Path) -> None:
    """Four devices, two epochs."""
    expected = {1: 4 * [0] + 4 * [1], 2: 2 * [0] + 2 * [1], 3: [0, 0, 1, 1], 4: [0, 1], 9: [0, 1], 0: [0, 1]}
    for every, epochs in expected.items():
        crowd = crowd_of(folder / str(every), settings_for(every=every, theta=0.5, alone=False))
        crowd.run()
        crowd.check_done()
        assert rounds_of(crowd) == list(zip(epochs, range(len(epochs)), strict=True))
        assert crowd.disk["epochs"] == [0, 1]


@pytest.mark.parametrize("name", UPLOADS)
def test_a_death_around_sharing_changes_nothing(name: str, folder: Path) -> None:
    """Dominator, follower, spare or host die between a pass's last message and the next one's first."""
    settings = UPLOADS[name]
    calm = crowd_of(folder / "calm", settings)
    count: Counter[str] = Counter()
    calm.run(lambda action: count.update([phase_of(action, calm)]))
    assert calm.done
    for role in ROLES:
        for phase in ("sharing", "shuffle", "apply"):
            for point in range(KILLS):
                crowd = crowd_of(folder / f"{role}-{phase}-{point}", settings, seed=point)
                kill = KillOnce(crowd, role, phase, nth=count[phase] * (2 * point + 1) // (2 * KILLS + 1))

                def before(action: Action, kill: KillOnce = kill, crowd: Crowd = crowd) -> None:
                    kill(action)
                    if kill.gone is not None and not crowd.phones[kill.gone].member:
                        crowd.connect(kill.gone)

                crowd.run(before)
                assert kill.done
                crowd.check_done(calm.model())
                assert set(crowd.disk["epochs"]) == {0, 1}
                assert int(crowd.host.shared._window.counts.max()) == len(rounds_of(calm))


def test_a_round_is_not_shared_again_from_an_older_point(folder: Path) -> None:
    """A loss while sharing leaves two points at its boundary; the older one is gone back to after it."""
    crowd = crowd_of(folder, UPLOADS["after every pass"])
    crowd.run_until(lambda: crowd.group.phase == "sharing")
    lost, other = crowd.group.holders[1:]
    crowd.crash(lost)
    crowd.connect(lost)
    crowd.run_until(lambda: len(crowd.log("shared")) == 1)
    assert len(crowd.group.restore_points.points) == 2
    for number in {lost, other, *crowd.group.holders}:
        crowd.crash(number)
        for state in crowd.phones[number].home.rglob(
            f"{crowd.group.restore_points.points[-1].generation:08d}-*.state"
        ):
            state.unlink()
        crowd.connect(number)
    crowd.run()
    crowd.check_done()
    assert len(rounds_of(crowd)) == crowd.host.shared._window.counts.max() == 8


def test_where_sharing_renews_every_weight_no_device_sends_another_its_state(folder: Path) -> None:
    crowd = crowd_of(folder, UPLOADS["and nothing shuffles"])
    seen: Counter[str] = Counter()

    def note(action: Action) -> None:
        frame = action.frame()
        if action.kind == "hear" and frame is not None and frame.HasField("envelope"):
            seen[pb.Purpose.Name(frame.envelope.purpose)] += 1

    crowd.run(note)
    assert crowd.done
    assert set(seen) == {"PURPOSE_ACTIVATION", "PURPOSE_ERROR"}


def test_a_renewed_point_needs_no_device(folder: Path) -> None:
    """Whoever held a piece when it was shared may be gone for good, its disk too."""
    crowd = crowd_of(folder, UPLOADS["and nothing shuffles"])
    crowd.run_until(lambda: len(crowd.log("shared")) == 1)
    point = crowd.group.restore_points.points[-1]
    assert (point.generation, len(crowd.group.restore_points.points)) == (0, 1)
    trained = point.boundary
    for number in range(4):
        crowd.crash(number)
        for state in crowd.phones[number].home.rglob("*.state"):
            state.unlink()
        crowd.connect(number)
    crowd.run()
    crowd.check_done()
    assert not [told for told in crowd.log("rolled_back") if told["boundary"] < trained]
