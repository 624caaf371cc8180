"""What a group does when somebody is missing, hangs, is slow or asks to go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from crowdlearn_device.member.events import Leaving
from crowdlearn_host.coordinator.group.events import Event, Received
from crowdlearn_host.coordinator.group.settings import Cut
from crowdlearn_host.coordinator.group.timing.pace import DEADLINE, LONG, Pace
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.spec.run_spec import load_config

from .crowd import TWO_PIECES, Crowd, layout_of, programs_of, settings_for

GRACE = settings_for().grace_seconds
SILENCE = settings_for().silence_seconds
FEWER = Cut(layout_of(TWO_PIECES), programs_of(TWO_PIECES))


def undisturbed(folder: Path, **changes: Any) -> Crowd:
    crowd = Crowd(
        folder / "undisturbed", settings_for(**changes), samples=SAMPLES[: changes.get("devices", 4)]
    )
    crowd.run()
    assert crowd.done, (crowd.group.phase, crowd.group.reason, crowd.host.events[-6:])
    return crowd


SAMPLES = (7, 5, 6, 4)


def in_the_middle_of_a_pass(crowd: Crowd) -> bool:
    schedule = crowd.group.schedule
    return crowd.group.phase == "running" and crowd.group.boundary == schedule.pass_boundary + 1


def test_a_lost_dominators_remaining_mini_batches_are_done_when_it_is_back(folder: Path) -> None:
    crowd = Crowd(folder, settings_for())
    crowd.run_until(lambda: in_the_middle_of_a_pass(crowd))
    lost = crowd.group.schedule.dominator
    crowd.crash(lost)
    crowd.run()
    assert crowd.group.phase == "paused"
    assert f"phone-{lost}" in crowd.group.reason
    crowd.wait(0)
    crowd.wait(GRACE)
    crowd.run_until(lambda: len(crowd.log("pass")) == 1)
    assert crowd.log("deferred") == [{"device": f"phone-{lost}"}]
    assert crowd.log("pass")[0]["device"] != f"phone-{lost}"
    crowd.connect(lost)
    crowd.run()
    crowd.check_done()


def test_a_dominator_that_never_comes_back_misses_its_turn_and_is_reported(folder: Path) -> None:
    crowd = Crowd(folder, settings_for())
    crowd.run_until(lambda: crowd.group.phase == "running")
    lost = crowd.group.schedule.order[2]
    crowd.crash(lost)
    crowd.run()
    for now in (0, GRACE):
        crowd.wait(now)
        crowd.run()
    assert crowd.done, (crowd.group.phase, crowd.group.reason, crowd.host.events[-6:])
    assert [(told["device"], told["epoch"]) for told in crowd.log("skipped")] == [
        (f"phone-{lost}", 0),
        (f"phone-{lost}", 1),
    ]
    crowd.check_every_sample_once(missed={(0, lost), (1, lost)})


def test_without_a_spare_the_group_waits_and_goes_on_when_a_device_joins(folder: Path) -> None:
    expected = undisturbed(folder, devices=3)
    crowd = Crowd(folder / "disturbed", settings_for(devices=3), samples=SAMPLES[:3])
    crowd.run_until(lambda: in_the_middle_of_a_pass(crowd))
    lost = crowd.group.holders[1]
    crowd.crash(lost)
    crowd.run()
    for now in (0, GRACE):
        crowd.wait(now)
        crowd.run()
    assert crowd.group.phase == "paused"
    assert crowd.group.reason.startswith("3 pieces need as many devices, 2 are here")
    crowd.connect(lost)
    crowd.run()
    crowd.check_done(expected.model())


def test_without_a_spare_the_group_cuts_the_network_into_fewer_pieces(folder: Path) -> None:
    expected = undisturbed(folder, devices=3)
    crowd = Crowd(folder / "disturbed", settings_for(devices=3, fallbacks=(FEWER,)), samples=SAMPLES[:3])
    crowd.run_until(lambda: in_the_middle_of_a_pass(crowd))
    lost = crowd.group.holders[2]
    crowd.crash(lost)
    crowd.run()
    assert crowd.group.phase == "paused"
    crowd.wait(0)
    crowd.wait(GRACE)
    crowd.run_until(lambda: len(crowd.log("pass")) == 1)
    assert crowd.log("resliced") == [{"pieces": 2}]
    assert len(crowd.group.holders) == 2
    crowd.connect(lost)
    crowd.run()
    assert crowd.done, (crowd.group.phase, crowd.group.reason, crowd.host.events[-6:])
    assert crowd.log("resliced")[-1] == {"pieces": 3}
    crowd.check_done(expected.model())


@pytest.mark.parametrize("piece", [0, 1])
def test_a_device_that_asks_to_go_is_replaced_before_it_goes(piece: int, folder: Path) -> None:
    crowd = Crowd(folder, settings_for())
    crowd.run_until(lambda: in_the_middle_of_a_pass(crowd))
    going = crowd.group.holders[piece]
    phone = crowd.phones[going]
    assert phone.member is not None
    phone.handle(Leaving("battery at 9 %"))
    phone.idle = False
    crowd.run_until(lambda: phone.member is not None and phone.member.finished is not None)
    assert phone.member.finished == "left as it asked"
    crowd.crash(going)
    crowd.run_until(lambda: len(crowd.log("pass")) == 1)
    assert not crowd.log("paused")
    crowd.connect(going)
    crowd.run()
    crowd.check_done()


def test_a_spare_that_comes_in_the_middle_of_a_pass_inherits_from_then_on(folder: Path) -> None:
    expected = undisturbed(folder)
    crowd = Crowd(folder / "disturbed", settings_for())
    crowd.run_until(lambda: len(crowd.group.live) == 4)
    crowd.run_until(lambda: crowd.group.phase == "running")
    (spare,) = crowd.group.live - set(crowd.group.holders)
    first = crowd.group.holders[1]
    crowd.crash(spare)
    crowd.run_until(lambda: spare not in crowd.group.live)
    crowd.crash(first)
    crowd.run_until(lambda: first not in crowd.group.live)
    crowd.connect(first)
    crowd.run_until(lambda: crowd.group.phase == "running")
    crowd.connect(spare)
    crowd.run_until(lambda: any(spare in heirs for heirs in crowd.group.restore_points.snapshots.values()))
    crowd.run_until(lambda: spare in crowd.group.restore_points.snapshots.get((*newest(crowd), 1), ()))
    crowd.crash(crowd.group.holders[1])
    crowd.run_until(lambda: crowd.group.phase == "running" and spare in crowd.group.holders)
    for phone in crowd.phones:
        if phone.member is None:
            crowd.connect(phone.number)
    crowd.run()
    crowd.check_done(expected.model())


def newest(crowd: Crowd) -> tuple[int, int]:
    return crowd.group.restore_points.points[-1].generation, crowd.group.restore_points.points[-1].boundary


def test_a_silent_device_is_let_go_and_a_spare_takes_over(folder: Path) -> None:
    crowd = Crowd(folder, settings_for())
    crowd.run_until(lambda: in_the_middle_of_a_pass(crowd))
    silent = crowd.group.holders[1]
    connection = crowd.phones[silent].connection
    assert connection is not None
    connection.open = False  # it takes nothing any more, and says nothing
    crowd.phones[silent].hung = True
    crowd.run()
    connection.up.clear()
    for now in range(0, int(3 * SILENCE), 2):
        crowd.wait(now + 1.0)
        crowd.run()
    assert crowd.host.dropped == [silent]
    assert [told["reason"] for told in crowd.log("left")] == ["silent past its deadline"]
    assert silent not in crowd.group.holders


def test_a_device_that_answers_and_does_not_work_is_let_go(folder: Path) -> None:
    crowd = Crowd(folder, settings_for())
    crowd.run_until(lambda: in_the_middle_of_a_pass(crowd))
    stuck = crowd.group.holders[1]
    crowd.phones[stuck].hung = True
    now = 1.0
    while not crowd.host.dropped:
        crowd.run()
        crowd.wait(now)
        now += 1
        assert now < 100 * SILENCE
    assert crowd.host.dropped == [stuck]
    assert crowd.log("left")[0]["reason"] == "did not finish its stage in time"


def test_a_slow_follower_is_swapped_for_a_spare_and_reported(folder: Path) -> None:
    expected = undisturbed(folder, epochs=4)
    crowd = Crowd(folder / "slow", settings_for(epochs=4))
    slow = 3
    plain = crowd.host.handle

    def tell(event: Event) -> None:
        if isinstance(event, Received) and event.frame.HasField("held"):
            event.frame.held.busy_seconds = 9.0 if event.device == slow else 1.0
        plain(event)

    crowd.host.handle = tell  # type: ignore[method-assign]
    crowd.run()
    assert crowd.done, (crowd.group.phase, crowd.group.reason, crowd.host.events[-6:])
    assert {told["device"] for told in crowd.log("swapped")} == {"phone-3"}
    assert "9.0 times as long" in crowd.log("swapped")[0]["reason"]
    crowd.check_done(expected.model())


def test_deadlines_follow_what_stages_took() -> None:
    pace = Pace(floor=30)
    for number, now in enumerate(range(1, 100, 10)):
        pace.tick(float(now), ("running", number), working=True)
    assert pace.deadline("running") == DEADLINE * 10
    assert pace.deadline("sharing") == 30
    pace.tick(91 + 80.0, ("running", 9), working=True)
    assert not pace.overdue
    pace.tick(91 + 81.0, ("running", 9), working=True)
    assert pace.overdue


def test_a_device_that_became_fast_again_is_slow_no_more() -> None:
    pace = Pace(floor=30)
    for _ in range(LONG):
        pace.worked(1, 0, 1.0)
        pace.worked(2, 0, 8.0)
    assert pace.slow == {2}
    for _ in range(LONG):
        pace.worked(2, 0, 1.1)
    assert pace.slow == set()


def test_fewer_pieces_are_not_more(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('data = "digits"\nmodel = "mlp:64-8-10"\n[group]\npieces = 3\nmin_pieces = 4\n')
    with pytest.raises(ConfigError, match="min_pieces 4 is more than pieces 3"):
        load_config(file)
