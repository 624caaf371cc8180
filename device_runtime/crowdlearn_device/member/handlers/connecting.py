"""The connection of a device with its host: how it begins, is asked for, and ends."""

from __future__ import annotations

from dataclasses import asdict

from crowdlearn_device.errors import WireError
from crowdlearn_device.member.effects import Effects
from crowdlearn_device.member.events import Connected, Leaving, StateRead
from crowdlearn_device.member.member import Member
from crowdlearn_device.member.run import Run
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import VERSION
from crowdlearn_device.security.known_peers import RUN_ID_BYTES, enter
from crowdlearn_device.security.proof import answer, new_nonce

LONGEST_PAUSE = 86400.0
"""Seconds for which a host may send a device away."""


def on_connected(member: Member, event: Connected) -> Effects:
    """Say hello."""
    member.hello = pb.Hello(
        version=VERSION,
        device=member.name,
        identity=member.identity.public,
        samples=member.samples,
        token=member.token,
        nonce=new_nonce(),
        state=None if member.state is None else pb.DeviceState(**asdict(member.state)),
    )
    yield pb.Frame(hello=member.hello)


def on_challenge(member: Member, challenge: pb.Challenge) -> Effects:
    """Answer the host's challenge, once a connection: no host gets two answers of the same hello."""
    if member.hello is None or member.run is not None:
        raise WireError("a challenge where none was due")
    hello, member.hello = member.hello, None
    yield pb.Frame(proof=answer(member.identity, hello, challenge, member.binding))


def on_welcome(member: Member, welcome: pb.Welcome) -> Effects:
    """Enter the run, or learn where else or when to connect."""
    if welcome.version != VERSION:
        raise WireError(
            f"the server has protocol version {welcome.version}, this device {VERSION}; update the older"
        )
    if member.run is not None:
        raise WireError("welcome came twice on one connection")
    if welcome.relay:
        member.relay = welcome.relay
    elif welcome.again_seconds:
        if not 0 < welcome.again_seconds <= LONGEST_PAUSE:
            raise WireError(f"a pause of {welcome.again_seconds} s; at most {LONGEST_PAUSE} s are allowed")
        member.again = welcome.again_seconds
    else:
        name = welcome.run
        usual = all(c.isalnum() or c in "-_." for c in name) and not name.startswith(".")
        if not name or len(name) > 100 or not usual:
            raise WireError(f"run {name[:100]!r} is not a name")
        if len(welcome.id) != RUN_ID_BYTES:
            raise WireError(f"run {name} has an id of {len(welcome.id)} bytes; {RUN_ID_BYTES} were due")
        member.run = Run(member.home, member.identity, name, welcome.id.hex(), welcome.device)
        enter(member.run.folder)
    return ()


def on_ping(member: Member, ping: pb.Ping) -> Effects:
    """Answer whether this device waits for others."""
    yield pb.Frame(pong=pb.Pong(nonce=ping.nonce, waiting=not member.has_work))


def on_finish(member: Member, finish: pb.Finish) -> Effects:
    """End this device's part in the run."""
    member.finished = finish.reason
    member.end_generation()
    return ()


def on_state_read(member: Member, event: StateRead) -> Effects:
    """Report how hot this device is, and its charge if the run weighs that; once a change."""
    if member.generation is None:
        return
    message = pb.DeviceState(thermal=event.state.thermal)
    if member.weighs_charge:
        message.percent, message.charging = event.state.percent, event.state.charging
    if message != member.state_sent:
        member.state_sent = message
        yield pb.Frame(device_state=message)


def on_leaving(member: Member, event: Leaving) -> Effects:
    """Ask to go; `finished` is set once others have taken this device's pieces over."""
    yield pb.Frame(leave=pb.Leave(reason=event.reason))
