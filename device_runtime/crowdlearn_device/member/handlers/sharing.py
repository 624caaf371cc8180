"""The end of a round: this device shares its piece's weights, as they are or under masks of a secure sum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from crowdlearn_device.errors import WireError
from crowdlearn_device.member.effects import Effects, Parts
from crowdlearn_device.member.generation import Generation
from crowdlearn_device.member.member import Member
from crowdlearn_device.member.run import Run
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_device.sharing.selection import drawn_weights, shared_updates
from crowdlearn_device.sharing.update import Update, encode_update
from crowdlearn_device.sharing.update_values import ValueType

VALUES = {
    pb.FLOAT32: ValueType.FLOAT32,
    pb.FLOAT16: ValueType.FLOAT16,
    pb.INT8: ValueType.INT8,
}


def on_share(member: Member, generation: Generation, share: pb.Share) -> Effects:
    """Upload the top theta of this piece's weights: weights, never gradients or samples."""
    manifest, role = generation.manifest, generation.role
    if role is None or manifest is None:
        raise WireError("share before ready")
    if not 0 <= share.theta <= 1 or share.values not in VALUES:
        raise WireError(f"share of theta {share.theta} in type {share.values}")
    updates = shared_updates(manifest, role.state(), generation.run.number, share.round, share.theta)
    generation.giving.append(_upload(generation, updates, VALUES[share.values]))
    return ()


def _upload(generation: Generation, updates: Iterator[Update], values: ValueType) -> Parts:
    try:
        for update in updates:
            left = generation.outgoing.weights(update.indices, update.values, update.round)
            content = encode_update(replace(update, values=left), values)
            yield [pb.Frame(shared=pb.Shared(generation=generation.number, update=content))]
    except ValueError as error:
        raise WireError(f"the weights here cannot be shared: {error}") from error
    return [pb.Frame(shared=pb.Shared(generation=generation.number, last=True))]


def on_sum_step(member: Member, run: Run, step: pb.SumStep) -> Effects:
    """Take a step of a secure sum, which outlives generations once its masked values have left."""
    kind, generation = step.WhichOneof("step"), member.generation
    if kind not in ("begin", "reference", "keys", "shares"):
        for answer in run.sums.unmask(step):
            yield pb.Frame(sum_step=answer)
    elif generation is None or (kind == "begin" and step.begin.generation != generation.number):
        return  # left over from before the assignment
    elif kind == "begin":
        peers = [owner.peer for owner in step.begin.owners]
        member.check_policy(lambda policy: policy.check_sum(peers, member.identity.public))
        run.trust(peers)
        boundary, beside = _summed_boundary(generation), generation.device_of
        answer = run.sums.begin(step, run.identities, boundary, beside, private=run.has_noise)
        yield pb.Frame(sum_step=answer)
    elif kind == "reference":
        norm = run.sums.refer(step, generation.number, lambda *lot: summed_weights(generation, *lot))
        if norm is not None:
            for device in sorted(run.sums.beside - {run.number}):
                sealed = generation.channels[device].seal(pb.PURPOSE_SHARING, norm.SerializeToString())
                yield pb.Frame(envelope=sealed)
            _answer(generation, run.sums.go_on())
    else:
        _answer(
            generation,
            run.sums.mask(step, generation.number, lambda *lot: summed_weights(generation, *lot)),
        )


def take_norm(generation: Generation, sender: int, norm: pb.SumNorm) -> Effects:
    """Take the norm of the move of a piece beside this device's, which a sum with noise waits for."""
    sums = generation.run.sums
    sums.take_norm(sender, norm)
    _answer(generation, sums.go_on())
    return ()


def _answer(generation: Generation, answers: Iterator[pb.SumStep]) -> None:
    """Have answers leave one at a time, each when the one before it has left."""
    generation.giving.append(_answers(answers))


def _answers(answers: Iterator[pb.SumStep]) -> Parts:
    for answer in answers:
        yield [pb.Frame(sum_step=answer)]
    return ()


def _summed_boundary(generation: Generation) -> int:
    """Return the boundary of the weights that a secure sum takes. Raises WireError if none are due."""
    role = generation.role
    if role is None or role.boundary < generation.assign.pass_end:
        raise WireError("a secure sum before the pass is over")
    return role.boundary


def summed_weights(generation: Generation, number: int, theta: float) -> Floats:
    """Return the piece's weights in the lot of the sum `number`, as they leave: float32 [n]."""
    assert generation.role is not None
    assert generation.manifest is not None
    seed, state = generation.assign.training.seed, generation.role.state()
    indices, values = drawn_weights(generation.manifest, state, seed, number, theta)
    return generation.outgoing.weights(indices, values, number)
