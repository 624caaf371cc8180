"""The tables of handlers: which function handles which event, and which message of a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from crowdlearn_host.coordinator.group.effects import Effect, Effects, record
from crowdlearn_host.coordinator.group.events import (
    Barred,
    Chosen,
    Drawn,
    Event,
    Joined,
    Left,
    Owing,
    Received,
    Stopped,
    Stored,
    Summed,
    Ticked,
)
from crowdlearn_host.coordinator.group.group import Group

from . import clock, devices, failing, generation, sharing, training

MESSAGES: Mapping[str, Callable[[Group, int, Any], Effects]] = {
    "key_offer": generation.on_key_offer,
    "ready": generation.on_ready,
    "progress": training.on_progress,
    "held": training.on_held,
    "shared": sharing.on_shared,
    "fault": failing.on_fault,
    "leave": devices.on_leave,
    "device_state": devices.on_device_state,
    "pong": clock.on_pong,
}
"""The handler of each message, by its name in `Frame`: of the group, the device's number and the message."""

OF_A_GENERATION = ("key_offer", "ready", "progress", "held", "shared", "fault")
"""Messages that count only in the generation that they name."""


def on_received(group: Group, event: Received) -> Effects:
    """Handle a frame of a connected device by its message."""
    number, frame = event.device, event.frame
    if number not in group.live:
        return ()
    group.pace.heard(number)
    kind = frame.WhichOneof("body")
    handler = MESSAGES.get(kind or "")
    if handler is None:
        return [record("refused", device=group.name(number), reason=f"a device may not send {kind}")]
    body = getattr(frame, kind)
    if kind in OF_A_GENERATION and body.generation != group.generation:
        before_any = kind == "fault" and body.generation == 0
        if not before_any:
            return ()
    return handler(group, number, body)


EVENTS: Mapping[type[Event], Callable[[Group, Any], Effects]] = {
    Joined: devices.on_joined,
    Left: devices.on_left,
    Received: on_received,
    Stored: training.on_stored,
    Ticked: clock.on_ticked,
    Owing: sharing.on_owing,
    Summed: sharing.on_summed,
    Stopped: failing.on_stopped,
    Drawn: devices.on_drawn,
    Chosen: devices.on_chosen,
    Barred: devices.on_barred,
}
"""The handler of each event."""


def handle(group: Group, event: Event) -> list[Effect]:
    """Take an event into the group; return its effects, to be carried out in their order."""
    return list(EVENTS[type(event)](group, event))
