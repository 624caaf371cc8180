"""Every message and every event is handled by one function, which a table names."""

from __future__ import annotations

from typing import get_args

from crowdlearn_device.member import events as member_events
from crowdlearn_device.member.handlers import table as of_member
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_host.coordinator.group import events as group_events
from crowdlearn_host.coordinator.group.handlers import table as of_group

BY_THE_HUB = {"hello", "proof", "envelope", "snapshot", "wanted", "sum_step", "first_weights"}
"""Messages of devices that are no group's: of connections, of the relay, of what all groups do together."""


def test_every_message_has_a_handler_on_the_side_that_gets_it() -> None:
    to_device = [*of_member.BEFORE_WELCOME, *of_member.MESSAGES, *of_member.OF_A_GENERATION]
    assert len(to_device) == len(set(to_device))
    assert not BY_THE_HUB & set(of_group.MESSAGES)
    assert set(of_group.OF_A_GENERATION) < set(of_group.MESSAGES)
    frames = {field.name for field in pb.Frame.DESCRIPTOR.fields}
    assert {*to_device, *of_group.MESSAGES, *BY_THE_HUB} == frames


def test_every_event_has_a_handler() -> None:
    assert set(of_group.EVENTS) == set(get_args(group_events.Event))
    assert set(of_member.EVENTS) == set(get_args(member_events.Event))
