"""State that moves when a generation begins: keys are exchanged, pieces are provided and arrive."""

from __future__ import annotations

from crowdlearn_device.errors import StateError, WireError
from crowdlearn_device.member.effects import Effects, Parts
from crowdlearn_device.member.generation import Generation, neurons_of
from crowdlearn_device.member.inheritance import Inheritance
from crowdlearn_device.member.member import Member
from crowdlearn_device.member.providers import check_provider
from crowdlearn_device.member.roles.base import Assigned
from crowdlearn_device.member.roles.registry import role_for
from crowdlearn_device.member.run import Run
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.security.snapshot import unwrapped
from crowdlearn_device.sharing.selection import apply_patch, weights_of
from crowdlearn_device.state.on_disk import StoredState
from crowdlearn_device.state.piece_state import PieceState


def on_keys(member: Member, generation: Generation, keys: pb.Keys) -> Effects:
    """Open channels to the other devices, and provide what this one has on its disk."""
    run, assign = generation.run, generation.assign
    generation.channels.exchange(run.full_name, run.number, run.identity, keys, run.identities)
    for provide in assign.provides:
        if not provide.from_snapshot:
            state = run.states.load(assign.from_generation, assign.boundary)
            _provide(member, generation, provide, state)
    return check_complete(member, generation)


def _provide(member: Member, generation: Generation, provide: pb.Provide, state: StoredState) -> None:
    if list(state.neurons) != [neurons_of(r) for r in provide.neurons]:
        raise StateError("the state kept here is of other neurons than the assignment names")
    if generation.assign.keep_program:
        state = state.values_only()
    generation.giving.append(_parts(member, generation, provide.piece, state))


def _parts(member: Member, generation: Generation, piece: int, state: StoredState) -> Parts:
    """Yield the parts of a piece for the devices that need them; its own, this device takes at once."""
    run, moving = generation.run, generation.moving
    for transfer in generation.assign.transfers:
        if transfer.piece != piece:
            continue
        for part in state.parts(transfer.layer, neurons_of(transfer.neurons)):
            if transfer.device == run.number:
                yield list(take(member, generation, run.number, part))
            else:
                channel = generation.channels[transfer.device]
                yield [pb.Frame(envelope=channel.seal(moving, part.SerializeToString()))]
    run.states.inherited(piece).unlink(missing_ok=True)
    return ()


def on_snapshot(member: Member, generation: Generation, snapshot: pb.Snapshot) -> Effects:
    """Provide a lost device's piece from the snapshot that the server kept, or help another heir to."""
    run, assign = generation.run, generation.assign
    if (snapshot.generation, snapshot.boundary) != (assign.from_generation, assign.boundary):
        return
    sender = run.identities.get(snapshot.sender)
    helped = next((each for each in assign.unsealings if each.piece == snapshot.piece), None)
    if sender is not None and helped is not None and not snapshot.part:
        point, share = unwrapped(run.full_name, run.number, run.identity, sender, snapshot)
        message = pb.StatePart(share=pb.KeyShare(piece=snapshot.piece, point=point, share=share))
        channel = generation.channels[helped.device]
        yield pb.Frame(envelope=channel.seal(generation.moving, message.SerializeToString()))
        return
    due = any(p.piece == snapshot.piece and p.from_snapshot for p in assign.provides)
    if sender is None or not due:
        raise WireError(f"snapshot of piece {snapshot.piece} by device {snapshot.sender} was not due here")
    inheritance = _inheritance(generation, snapshot.piece)
    if not snapshot.part:
        point, share = unwrapped(run.full_name, run.number, run.identity, sender, snapshot)
        inheritance.take_first(snapshot, point, share)
    if inheritance.take_part(snapshot):
        yield from _provide_inherited(member, generation, snapshot.piece)


def _inheritance(generation: Generation, piece: int) -> Inheritance:
    path = generation.run.states.inherited(piece)
    return generation.arriving.inherited.setdefault(piece, Inheritance(generation.run.full_name, path))


def take_share(member: Member, generation: Generation, sender: int, share: pb.KeyShare) -> Effects:
    """Take another heir's share of the key of a snapshot."""
    if not any(p.piece == share.piece and p.from_snapshot for p in generation.assign.provides):
        raise WireError(f"device {sender} sends a share of the key of piece {share.piece}, not due here")
    if _inheritance(generation, share.piece).take_share(sender, share):
        yield from _provide_inherited(member, generation, share.piece)


def _provide_inherited(member: Member, generation: Generation, piece: int) -> Effects:
    provide = next(p for p in generation.assign.provides if p.piece == piece and p.from_snapshot)
    state = StoredState.open(generation.run.states.inherited(piece))
    _provide(member, generation, provide, state)
    yield from check_complete(member, generation)


def on_global_state(member: Member, generation: Generation, state: pb.GlobalState) -> Effects:
    """Take a part of the piece from the server's model."""
    return take(member, generation, None, state.part)


def take(member: Member, generation: Generation, sender: int | None, part: pb.StatePart) -> Effects:
    """Take a part of the piece from a device, or from the server (None)."""
    partial = generation.arriving.partial
    if partial is None:
        raise WireError("state arrived at a device that waits for none")
    check_provider(generation.assign, sender, part)
    if sender is None and not generation.assign.keep_program:
        generation.run.first_weights.check(part)
    partial.add(part)
    return check_complete(member, generation)


def on_patch(member: Member, generation: Generation, patch: pb.Patch) -> Effects:
    """Take weights of the global model that replace this piece's own."""
    arriving = generation.arriving
    if arriving.partial is None or arriving.patched:
        raise WireError("a patch arrived at a device that waits for none")
    if patch.update:
        arriving.patches.append(patch.update)
    arriving.patched = patch.last
    return check_complete(member, generation)


def check_complete(member: Member, generation: Generation) -> Effects:
    """Be ready, once all that this device waits for is here: it is on disk then."""
    arriving, assign, manifest = generation.arriving, generation.assign, generation.manifest
    if arriving.partial is None or not arriving.partial.complete or not arriving.patched:
        return
    assert manifest is not None
    state = arriving.partial.finish(fresh=assign.fresh)
    if assign.keep_program:
        arriving.partial = None
        member.keep_model(generation.run, assign.keep_program, state)
    else:
        taken = sum(apply_patch(manifest, state, patch) for patch in arriving.patches)
        if generation.renewed and taken != weights_of(manifest, state.neurons):
            raise WireError(f"the server's patches hold {taken} of this piece's weights; all were due")
        arriving.partial, arriving.patches = None, []
        generation.run.states.save(generation.number, assign.boundary, state)
        _take_up(generation, state)
    yield pb.Frame(ready=pb.Ready(generation=generation.number))


def _take_up(generation: Generation, state: PieceState) -> None:
    """Take up the role that the assignment asks for."""
    manifest, executor = generation.manifest, generation.executor
    assert manifest is not None
    assert executor is not None
    channels, device_of = generation.channels, generation.device_of
    generation.role = role_for(
        Assigned(
            generation.assign,
            manifest,
            executor,
            generation.layout,
            state,
            lambda piece: channels[device_of[piece]].common,
            generation.outgoing,
            generation.secret,
        )
    )


def on_committed(member: Member, run: Run, committed: pb.Committed) -> Effects:
    """Delete states that are older than a boundary which needs no older one."""
    run.states.forget_before(committed.generation, committed.boundary)
    return ()
