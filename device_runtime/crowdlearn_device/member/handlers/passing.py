"""A pass: messages of other pieces go to this device's role, and its results out."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.errors import WireError
from crowdlearn_device.member.effects import Effects, Parts
from crowdlearn_device.member.events import Turn
from crowdlearn_device.member.generation import Generation
from crowdlearn_device.member.member import Member
from crowdlearn_device.member.roles.base import Applied, Deliver, Drained, Results
from crowdlearn_device.privacy.aggregation.shamir import split
from crowdlearn_device.privacy.labels import private_labels
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import decode_message
from crowdlearn_device.protocol.joint import joined, parted
from crowdlearn_device.security.snapshot import seal_snapshot

from .sharing import take_norm
from .state import take, take_share

WORK = (pb.PURPOSE_ACTIVATION, pb.PURPOSE_ERROR, pb.PURPOSE_NORM)
"""The purposes of what pieces send each other in a pass."""

WAITING_BYTES = 256 << 10
"""The most bytes that wait for the connection before they are sealed all the same."""
MOST_LABEL_EPSILON = 50.0
"""The bound beyond which no label changes."""


def on_go(member: Member, generation: Generation, go: pb.Go) -> Effects:
    """Begin the pass."""
    if generation.role is None:
        raise WireError("go before ready")
    epsilon = generation.assign.training.label_epsilon
    if not 0 <= epsilon <= MOST_LABEL_EPSILON:
        raise WireError(f"label_epsilon is {epsilon}")
    results = generation.role.go(lambda: _labelled(member, generation), generation.run.number)
    return carry_out(generation, results)


def _labelled(member: Member, generation: Generation) -> Dataset:
    """Return the device's samples with the labels that are learned from."""
    data, epsilon = member.samples_here(), generation.assign.training.label_epsilon
    if not epsilon:
        return data
    assert generation.manifest is not None
    secret = member.identity.secret("labels")
    return private_labels(data, generation.manifest.layers[-1].neurons, epsilon, secret)


def on_envelope(member: Member, generation: Generation, envelope: pb.Envelope) -> Effects:
    """Open another device's message: state that moves, or a message of its piece."""
    sender, purpose = envelope.sender, envelope.purpose
    content = generation.channels[sender].open(envelope)
    if envelope.more and purpose not in WORK:
        raise WireError(f"device {sender} sends several messages of purpose {purpose} as one")
    if purpose == generation.moving:
        part = decode_message(pb.StatePart, content)
        if part.HasField("share"):
            return take_share(member, generation, sender, part.share)
        return take(member, generation, sender, part)
    if purpose == pb.PURPOSE_SHARING and sender in generation.run.sums.beside:
        return take_norm(generation, sender, decode_message(pb.SumNorm, content))
    if purpose not in WORK:
        raise WireError(f"device {sender} sends purpose {purpose}, which is not due")
    if generation.role is None or sender not in generation.piece_of:
        raise WireError(f"device {sender} sends sums to a device that has no piece beside it")
    role, piece = generation.role, generation.piece_of[sender]
    taken = (role.receive(piece, purpose, each) for each in parted(content, envelope.more))
    return carry_out(generation, chain.from_iterable(taken))


def on_turn(member: Member, event: Turn) -> Effects:
    """Send the next part of what is on its way out, or do one piece of computation."""
    generation = member.generation
    if generation is None:
        return
    if generation.giving:
        yield from _sealed(generation)
        try:
            yield from next(generation.giving[0])
        except StopIteration as end:
            del generation.giving[0]
            yield from end.value
    elif generation.role is not None:
        yield from carry_out(generation, generation.role.run(), room=event.room)


def carry_out(generation: Generation, results: Results, *, room: bool = True) -> Effects:
    """Seal what is for other pieces, if there is room for it, and keep the piece at drained boundaries. The
    host is sent nothing before what was for other pieces.
    """
    outbox = generation.outbox
    for result in results:
        match result:
            case Deliver():
                outbox.put(result)
                if outbox.bytes > WAITING_BYTES:
                    yield from _sealed(generation)
            case Applied():
                yield from _sealed(generation)
                result.progress.generation = generation.number
                yield pb.Frame(progress=result.progress)
            case Drained():
                _hold(generation, result)
    if room:
        yield from _sealed(generation)


def _sealed(generation: Generation) -> Effects:
    """Seal what waits for other pieces, and send it."""
    for letter in generation.outbox.take():
        channel = generation.channels[generation.device_of[letter.piece]]
        more = len(letter.contents) - 1
        content = joined(letter.contents)
        letter.contents.clear()
        yield pb.Frame(envelope=channel.seal(letter.purpose, content, express=letter.express, more=more))


def _hold(generation: Generation, drained: Drained) -> None:
    """Write the piece to disk at a drained boundary, and have a sealed snapshot on its way to its heirs."""
    run, boundary, state = generation.run, drained.boundary, drained.state
    run.states.save(generation.number, boundary, state)
    heirs = {h: run.identities[h] for h in generation.heirs if h != run.number}
    needed = generation.assign.heirs_needed
    if len(heirs) < needed:
        heirs = {}  # too few to open it together: only the owner may read its piece
    held = pb.Held(generation=generation.number, boundary=boundary, busy_seconds=drained.busy)
    place = pb.Snapshot(
        generation=generation.number,
        boundary=boundary,
        piece=generation.assign.piece,
        sender=run.number,
        needed=needed if needed > 1 else 0,
    )
    sealed = seal_snapshot(
        run.full_name,
        run.identity,
        heirs,
        place,
        state.size,
        state.blocks(),
        split if place.needed else None,
    )
    generation.giving.append(_held(sealed if heirs else (), held))


def _held(snapshot: Iterable[pb.Snapshot], held: pb.Held) -> Parts:
    """Yield the state at a boundary. Nothing is computed until all of it has left, so that it stays what it
    was.
    """
    for part in snapshot:
        yield [pb.Frame(snapshot=part)]
    return [pb.Frame(held=held)]
