"""An assignment: the program that it names is fetched, it is checked, and its generation begins."""

from __future__ import annotations

from crowdlearn_device.errors import WireError
from crowdlearn_device.member.effects import Effects
from crowdlearn_device.member.fetching import Fetching, PartialFile
from crowdlearn_device.member.generation import Generation, neurons_of
from crowdlearn_device.member.member import Member
from crowdlearn_device.member.run import Run
from crowdlearn_device.privacy.mechanisms.base import Place
from crowdlearn_device.privacy.mechanisms.outgoing import outgoing_of
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.state.piece_state import PartialState


def on_assign(member: Member, run: Run, assign: pb.Assign) -> Effects:
    """Begin a generation, once the program that it names is here."""
    fetching = member.fetching
    if fetching is None or (assign.piece < 0 and not assign.keep_program):
        yield from _begin(member, run, assign)
        return
    fetching.waiting, fetching.file = assign, None
    yield from _equip(member, run, fetching)


def on_chunk(member: Member, run: Run, chunk: pb.Chunk) -> Effects:
    """Take bytes of a program."""
    fetching = member.fetching
    if fetching is None or fetching.file is None:
        raise WireError("bytes of a program that was not asked for")
    fetching.file.add(chunk)
    if fetching.file.complete:
        fetching.file = None
        yield from _equip(member, run, fetching)


def _equip(member: Member, run: Run, fetching: Fetching) -> Effects:
    """Ask for the next file that the waiting assignment needs, or let it go ahead."""
    assign = fetching.waiting
    if assign is None:
        return
    if (missing := fetching.missing(assign)) is not None:
        sha256, suffix = missing
        member.generation = None
        fetching.file = PartialFile(fetching.folder / (sha256 + suffix), sha256)
        yield pb.Frame(wanted=pb.Wanted(sha256=sha256))
        return
    fetching.waiting = None
    yield from _begin(member, run, assign)


def _begin(member: Member, run: Run, assign: pb.Assign) -> Effects:
    """Check an assignment, and offer a key."""
    before, identity = member.generation, member.identity
    if before is not None and assign.generation <= before.number:
        raise WireError(f"generation {assign.generation} after {before.number}")
    member.end_generation()
    member.check_policy(member.check_use)
    member.check_policy(lambda policy: policy.check(assign, identity.public, run.identities))
    if assign.pass_end > assign.boundary and not assign.training.clipping.noise > 0:
        run.note_plain_steps()
    run.trust(assign.peers)
    if run.identities.get(run.number) != identity.public:
        raise WireError("the server assigns this device another's identity")
    drawn = run.first_weights
    member.check_policy(lambda policy: policy.check_first(assign, drawn.is_drawn, drawn.given))
    generation = generation_of(member, run, assign)
    member.generation = generation
    member.weighs_charge = assign.training.weigh_charge
    offer = pb.KeyOffer(generation=generation.number, device=run.number, ephemeral=generation.channels.public)
    yield pb.Frame(key_offer=offer)


def generation_of(member: Member, run: Run, assign: pb.Assign) -> Generation:
    """Return the generation that an assignment begins. Raises DeviceError if it contradicts itself."""
    secret = member.identity.secret(run.full_name)
    place = Place(assign.generation, assign.epoch, assign.piece, secret)
    generation = Generation(
        run,
        assign,
        secret,
        outgoing_of(assign.training.outgoing, place, member.tap),
        tuple(tuple(neurons_of(each) for each in piece.neurons) for piece in assign.pieces),
        list(assign.heirs),
    )
    generation.arriving.patched = not assign.patched
    if assign.piece >= 0:
        generation.arriving.partial = _own_piece(member, generation)
    elif assign.keep_program:
        generation.manifest = member.programs.manifest(assign.keep_program)
        whole = [(0, layer.neurons) for layer in generation.manifest.layers]
        generation.arriving.partial = PartialState(generation.manifest, whole, rank=False)
    return generation


def _own_piece(member: Member, generation: Generation) -> PartialState:
    """Load the program of the device's piece; return the piece without its state."""
    run, assign = generation.run, generation.assign
    layout, holders = generation.layout, generation.device_of
    own = 0 <= assign.piece < len(layout) and holders[assign.piece] == run.number
    if not own or len(generation.piece_of) != len(layout):
        raise WireError(f"assignment of piece {assign.piece} contradicts its list of pieces")
    manifest, executor = member.program(assign.pieces[assign.piece].program)
    generation.manifest, generation.executor = manifest, executor
    if any(len(piece) != len(manifest.layers) for piece in layout):
        raise WireError("assignment and program disagree on the number of layers")
    if unknown := set(generation.heirs) - run.identities.keys():
        raise WireError(f"heirs {sorted(unknown)} whose identities are unknown")
    partial = PartialState(manifest, layout[assign.piece], rank=assign.training.rank, zeros=executor.zeros)
    if generation.renewed:
        partial.expect_nothing()
    return partial


def on_first_weights(member: Member, run: Run, message: pb.FirstWeights) -> Effects:
    """Take a step of drawing the first weights with other devices."""
    if (answer := run.first_weights.take(message)) is not None:
        yield pb.Frame(first_weights=answer)


def on_heirs(member: Member, generation: Generation, heirs: pb.Heirs) -> Effects:
    """Make later snapshots readable by these devices."""
    member.check_policy(lambda policy: policy.check_heirs(heirs.heirs))
    generation.heirs = generation.run.trust(heirs.heirs)
    return ()
