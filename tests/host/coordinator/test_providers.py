"""State from another than the one whose turn it is ends as a fault with a reason, whoever sends it."""

from __future__ import annotations

from pathlib import Path

import pytest
from crowdlearn_device.member.events import Received
from crowdlearn_device.member.generation import Generation
from crowdlearn_device.member.handlers.table import handle
from crowdlearn_device.protocol import wire_pb2 as pb

from .crowd import TWO_PIECES, Action, Crowd, settings_for


def generation(crowd: Crowd, number: int) -> Generation | None:
    member = crowd.phones[number].member
    return member.generation if member else None


def hold_back(crowd: Crowd, victim: int) -> None:
    """Act until everybody has the keys of the next generation, and the victim none of its state."""

    def gives(action: Action) -> bool:
        frame = action.frame() if action.kind == "take" else None
        state = frame is not None and frame.WhichOneof("body") in ("global_state", "envelope", "snapshot")
        return action.number == victim and (action.kind == "work" or state)

    def keyed(number: int) -> bool:
        found = generation(crowd, number)
        return found is not None and found.number == crowd.group.generation and bool(found.channels.to)

    while not (crowd.group.phase == "forming" and all(map(keyed, crowd.group.live))):
        crowd.act(crowd.rng.choice([action for action in crowd.actions() if not gives(action)]))


def fault(crowd: Crowd, victim: int, frame: pb.Frame) -> str:
    """Why the victim refuses a frame."""
    member = crowd.phones[victim].member
    assert member
    said = handle(member, Received(pb.Frame.FromString(frame.SerializeToString())))
    (told,) = (each.fault for each in said if each.HasField("fault"))
    assert (told.kind, told.generation) == (pb.FAULT_WIRE, crowd.group.generation)
    return told.reason


def sealed(crowd: Crowd, liar: int, victim: int, part: pb.StatePart) -> pb.Frame:
    found = generation(crowd, liar)
    assert found
    return pb.Frame(envelope=found.channels[victim].seal(found.moving, part.SerializeToString()))


def part_for(crowd: Crowd, victim: int) -> pb.StatePart:
    """Some of the neurons that the victim is to hold."""
    neurons = crowd.group.layout[crowd.group.holders.index(victim)]
    layer = next(layer for layer, (start, stop) in enumerate(neurons) if stop > start)
    start, stop = neurons[layer]
    return pb.StatePart(layer=layer, neurons=pb.Range(start=start, stop=stop))


def begun(folder: Path) -> Crowd:
    """Two holders and a spare, which have the state of a first boundary."""
    crowd = Crowd(folder, settings_for(TWO_PIECES, 3), samples=(7, 5, 6))
    crowd.run_until(lambda: crowd.group.phase == "running" and crowd.group.boundary > 0)
    return crowd


def test_a_device_gives_nothing_where_the_servers_model_is_the_state(tmp_path):
    crowd = Crowd(tmp_path, settings_for(TWO_PIECES, 2), samples=(7, 5))
    crowd.run_until(lambda: crowd.group.phase == "forming")
    victim, liar = crowd.group.holders
    hold_back(crowd, victim)
    reason = fault(crowd, victim, sealed(crowd, liar, victim, part_for(crowd, victim)))
    assert reason == f"device {liar} sends state of layer 0, which the server is to send"


def test_the_server_gives_nothing_where_devices_are_to(tmp_path):
    crowd = begun(tmp_path)
    dominator, lost = crowd.group.holders
    crowd.crash(lost)
    crowd.run_until(lambda: crowd.group.phase == "forming")
    hold_back(crowd, dominator)
    state = pb.GlobalState(generation=crowd.group.generation, part=part_for(crowd, dominator))
    reason = fault(crowd, dominator, pb.Frame(global_state=state))
    assert reason == "the server sends state of layer 0, which devices are to send"


@pytest.mark.parametrize("retold", [True, False])
def test_a_device_gives_no_neurons_of_anothers_piece(tmp_path, retold):
    """The liar has neurons of its own to give, or it is the victim that has these already."""
    crowd = begun(tmp_path)
    dominator, lost = crowd.group.holders
    crowd.crash(lost)
    crowd.run_until(lambda: crowd.group.phase == "forming")
    heir = crowd.group.holders[1]
    victim, liar = (heir, dominator) if retold else (dominator, heir)
    hold_back(crowd, victim)
    part = part_for(crowd, victim)
    start, stop = part.neurons.start, part.neurons.stop
    reason = fault(crowd, victim, sealed(crowd, liar, victim, part))
    words = f"neurons [{start}, {stop}) of layer {part.layer}, which another is to send"
    assert reason == f"device {liar} sends {words}"
