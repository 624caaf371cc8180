"""Groups begin once their devices have drawn the first weights, and go on without one that shows nothing."""

from __future__ import annotations

from pathlib import Path

from crowdlearn_device.privacy.first_weights.commitment import JointSeed
from crowdlearn_device.privacy.first_weights.distributions import Distribution
from crowdlearn_host.coordinator.first_weights.beginning import Beginning
from crowdlearn_host.coordinator.first_weights.drawing import Drawing
from crowdlearn_host.coordinator.group.events import Joined
from crowdlearn_host.coordinator.group.group import Group
from crowdlearn_host.coordinator.group.handlers.table import handle
from crowdlearn_host.coordinator.group.restore_points import Device

from .crowd import TWO_PIECES, settings_for

RUN = "run/00"
ARRAYS = {"weight0": Distribution("uniform", -1, 1)}


def gathered(devices: int) -> tuple[Group, Beginning]:
    """A group whose devices are all here, and the drawing that they wait for."""
    group = Group(settings_for(TWO_PIECES, devices))
    beginning = Beginning(Drawing(RUN, ARRAYS, 60.0), [group])
    for number in range(devices):
        handle(group, Joined(Device(number, f"phone-{number}", bytes([number]) * 32, 6)))
        beginning.look()
    return group, beginning


def draw(beginning: Beginning, seeds: dict[int, JointSeed], silent: int = -1) -> None:
    """Exchange messages until there are none; `silent` answers nothing but its commitment."""
    while messages := beginning.take_messages():
        for number, message in messages:
            answer = seeds[number].take(message)
            if answer is not None and not (number == silent and answer.HasField("secret")):
                beginning.answer(number, answer)
        beginning.look()


def test_groups_wait_until_their_devices_have_drawn_the_first_weights(folder: Path) -> None:
    group, beginning = gathered(2)
    assert group.held
    assert (group.phase, group.generation) == ("gathering", 0)
    draw(beginning, {number: JointSeed(RUN, number, folder / str(number)) for number in range(2)})
    assert beginning.seed
    assert group.generation == 0
    beginning.release()
    for _, event in beginning.events:
        handle(group, event)
    assert group.generation == 1
    saved = Group.from_json(group.settings, {**group.to_json(), "points": []})
    assert not Beginning(Drawing(RUN, ARRAYS, 60.0), [saved]).over


def test_a_device_that_shows_nothing_is_named_and_the_others_draw_anew(folder: Path) -> None:
    group, beginning = gathered(3)
    seeds = {number: JointSeed(RUN, number, folder / str(number)) for number in range(3)}
    draw(beginning, seeds, silent=1)
    assert not beginning.seed
    beginning.tick(61.0)
    beginning.look()
    ((name, fields),) = beginning.records
    assert (name, fields["device"]) == ("unrevealed", "phone-1")
    for _, event in beginning.events:
        handle(group, event)
    beginning.events.clear()
    assert 1 in group.attendance.unfit
    beginning.look()
    draw(beginning, seeds)
    assert beginning.seed
    assert not seeds[1].is_drawn
