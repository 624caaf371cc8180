"""The tables of handlers: which function handles which event, and which message of the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from crowdlearn_device.errors import WireError
from crowdlearn_device.member.effects import Effects
from crowdlearn_device.member.events import Connected, Event, Leaving, Received, StateRead, Turn
from crowdlearn_device.member.generation import Generation
from crowdlearn_device.member.member import Member
from crowdlearn_device.member.run import Run
from crowdlearn_device.protocol import wire_pb2 as pb

from . import assigning, connecting, failing, passing, sharing, state

BEFORE_WELCOME: Mapping[str, Callable[[Member, Any], Effects]] = {
    "challenge": connecting.on_challenge,
    "welcome": connecting.on_welcome,
    "ping": connecting.on_ping,
    "finish": connecting.on_finish,
}
"""The handler of each message that may come before this device has a number, by its name in `Frame`."""

MESSAGES: Mapping[str, Callable[[Member, Run, Any], Effects]] = {
    "assign": assigning.on_assign,
    "chunk": assigning.on_chunk,
    "committed": state.on_committed,
    "sum_step": sharing.on_sum_step,
    "first_weights": assigning.on_first_weights,
}
"""The handler of each message to a member of a run."""

OF_A_GENERATION: Mapping[str, Callable[[Member, Generation, Any], Effects]] = {
    "keys": state.on_keys,
    "global_state": state.on_global_state,
    "snapshot": state.on_snapshot,
    "patch": state.on_patch,
    "heirs": assigning.on_heirs,
    "go": passing.on_go,
    "envelope": passing.on_envelope,
    "share": sharing.on_share,
}
"""The handler of each message that counts only in the generation that it names."""


def on_received(member: Member, event: Received) -> Effects:
    """Handle a frame by its message."""
    kind = event.frame.WhichOneof("body") or ""
    body = getattr(event.frame, kind, None)
    if of_a_generation := OF_A_GENERATION.get(kind):
        return _of_a_generation(member, kind, body, of_a_generation)
    if of_a_connection := BEFORE_WELCOME.get(kind):
        return of_a_connection(member, body)
    if member.run is None:
        raise WireError(f"{kind} before welcome")
    if of_a_run := MESSAGES.get(kind):
        return of_a_run(member, member.run, body)
    if member.generation is None:
        return ()
    raise WireError(f"a device takes no {kind}")


def _of_a_generation(
    member: Member, kind: str, body: Any, handler: Callable[[Member, Generation, Any], Effects]
) -> Effects:
    """Handle a message of the present generation. An older one is left over from before the assignment."""
    generation = member.generation
    if generation is None:
        if member.run is None:
            raise WireError(f"{kind} before welcome")
        return ()
    if body.generation == generation.number or kind == "snapshot":  # a snapshot names the one it was made in
        return handler(member, generation, body)
    if body.generation > generation.number:
        raise WireError(f"{kind} of generation {body.generation} in {generation.number}")
    return ()


EVENTS: Mapping[type[Event], Callable[[Member, Any], Effects]] = {
    Connected: connecting.on_connected,
    Received: on_received,
    Turn: passing.on_turn,
    StateRead: connecting.on_state_read,
    Leaving: connecting.on_leaving,
}
"""The handler of each event."""


def handle(member: Member, event: Event) -> list[pb.Frame]:
    """Take an event into the member; return its effects, to be sent in their order. What goes wrong becomes a
    Fault; nothing is raised.
    """
    frames = []
    try:
        for frame in EVENTS[type(event)](member, event):
            frames.append(frame)  # what came before an error is sent
    except Exception as error:
        frames += failing.fault(member, error)
    return frames
