"""A device in secure sums of what groups share: the host's steps in, answers out.

A sum may outlive the generation in which it began, and the connection: what unmasking takes is on disk before
the masked values leave. So a device that comes back answers as before, and never for other survivors.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from pathlib import Path

from crowdlearn_device.errors import AggregationError, StateError, WireError
from crowdlearn_device.platform.files import write_atomically
from crowdlearn_device.privacy.aggregation.contributor import Contributor
from crowdlearn_device.privacy.aggregation.fixed_point import FixedPoint, Words
from crowdlearn_device.privacy.aggregation.masks import Ranges, length
from crowdlearn_device.privacy.aggregation.messages import Advert, Confirmation, SealedShares, SumRound
from crowdlearn_device.privacy.aggregation.projection import SEED_BYTES, projected
from crowdlearn_device.privacy.aggregation.unmasking import Unmasking
from crowdlearn_device.privacy.dp.noisy_move import NoisyMove
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_device.security.identity import KEY_BYTES, Identity
from crowdlearn_device.sharing.selection import CHUNK_WEIGHTS

LEAST_CONTRIBUTORS = 8
"""The least contributors to every number of a sum in which a device takes part, whatever the host
requires.
"""
ATTEMPT_BYTES = 16
PROJECTIONS = 4
"""The most times that a device projects the same weights, each time by other random rows."""


WeightsOf = Callable[[int, float], Floats]
"""The weights of a piece that are in the lot of a round, by its number and theta: float32 [n]."""


class KeptOnDisk:
    """The sums of a run that a device took part in: the newest round that it confirmed, at which boundary of
    its group, and its part in the newest attempt.
    """

    def __init__(self, folder: Path) -> None:
        """Raise StateError if what is kept in `folder` is damaged."""
        self._path = folder / "sums.json"
        self._confirmed, self._boundary = -1, -1
        self._projected = (-1, 0)
        """The boundary of the weights that were projected last, and how often they were."""
        self.boundary = -1
        """The boundary that goes with the part that is kept next."""
        self.part: Unmasking | None = None
        if not self._path.exists():
            return
        try:
            content = json.loads(self._path.read_bytes())
            self._confirmed, self._boundary = int(content["confirmed"]), int(content["boundary"])
            self.boundary = int(content["at"])
            at, times = content["projected"]
            self._projected = int(at), int(times)
            self.part = Unmasking.from_json(content["part"]) if content["part"] else None
        except (ValueError, KeyError, TypeError, AttributeError, AggregationError, struct.error) as error:
            raise StateError(f"{self._path} is damaged ({error}); start a new run") from error

    def __contains__(self, id: bytes) -> bool:
        """Return whether this round was confirmed, or a later one."""
        return _number(id) <= self._confirmed

    def keep(self, unmasking: Unmasking) -> None:
        """Keep a part; on disk, readable by its owner alone, when this returns."""
        confirmed, boundary = self._confirmed, self._boundary
        if unmasking.survivors:
            confirmed, boundary = _number(unmasking.round.id), self.boundary
        fields = {
            "confirmed": confirmed,
            "boundary": boundary,
            "at": self.boundary,
            "projected": list(self._projected),
            "part": unmasking.to_json(),
        }
        write_atomically(self._path, json.dumps(fields).encode(), private=True)
        self.part, self._confirmed, self._boundary = unmasking, confirmed, boundary

    def check_projections(self) -> None:
        """Raise AggregationError if the weights of this boundary were projected as often as they may be."""
        at, times = self._projected
        if at == self.boundary and times >= PROJECTIONS:
            raise AggregationError(
                f"weights of boundary {at} were projected {times} times; train before the next sum"
            )

    def keep_projection(self) -> None:
        """Count a projection of the weights of this boundary; on disk when this returns."""
        assert self.part is not None
        self.check_projections()
        at, times = self._projected
        self._projected = self.boundary, 1 + (times if at == self.boundary else 0)
        self.keep(self.part)

    def check_trained(self, boundary: int) -> None:
        """Raise AggregationError if nothing was trained since the newest sum that was confirmed: two sums of
        the same weights over different devices differ by those of one.
        """
        if boundary <= self._boundary:
            raise AggregationError(
                f"weights of boundary {boundary} were summed already, at {self._boundary}; train before the "
                "next sum"
            )


class SecureSharing:
    """The sums in which the device `number` takes part. Raises DeviceError if a step is refused."""

    def __init__(self, run: str, number: int, identity: Identity, folder: Path) -> None:
        self._run, self._number, self._identity = run, number, identity
        self._kept = KeptOnDisk(folder)
        self._contributor: Contributor | None = None
        self._generation = 0
        self._theta = 1.0
        self._move: NoisyMove | None = None
        self._bounded = False
        self._added: tuple[bytes, Ranges, Words] | None = None
        """The values of an attempt under masks, at the stretches of this device, if they may be projected."""
        self._deferred: tuple[pb.SumStep, int, WeightsOf] | None = None
        """A step that waits for the moves of the group's other pieces."""

    def begin(
        self,
        step: pb.SumStep,
        identities: Mapping[int, bytes],
        boundary: int,
        group: Collection[int] = (),
        *,
        private: bool = False,
    ) -> pb.SumStep:
        """Enter an attempt to sum the weights of `boundary`; an older one is over. Return the answer.

        `identities` are the public keys of the devices that this one knows, `group` those that hold pieces
        beside it. `private` weights are those that DP-SGD trained.
        """
        begin = step.begin
        if begin.bounded and not private:
            raise AggregationError(
                "projections of moves to which no noise was added are asked for; set privacy.epsilon"
            )
        if begin.least < LEAST_CONTRIBUTORS:
            raise AggregationError(
                f"a sum of {begin.least} contributors is asked for; this device takes part in those of "
                f"{LEAST_CONTRIBUTORS} at least"
            )
        if (
            len(step.attempt) != ATTEMPT_BYTES
            or not 0 <= begin.theta <= 1
            or ((begin.noise or begin.bounded) and begin.theta < 1)
        ):
            raise WireError(f"attempt of {len(step.attempt)} bytes, theta {begin.theta}, in a secure sum")
        owned: dict[int, Ranges] = {}
        for owner in begin.owners:
            ranges = tuple((each.start, each.stop) for each in owner.stretches)
            edges = [edge for pair in ranges for edge in pair]
            if not ranges or owner.peer.device in owned or edges != sorted({*edges}):
                raise WireError(f"device {owner.peer.device} owns stretches that are none, or are told twice")
            owned[owner.peer.device] = ranges
        self._kept.check_trained(boundary)
        round_ = SumRound(round_id(self._run, begin.round), owned, begin.least, begin.terms, step.attempt)
        self._contributor = Contributor(round_, self._number, self._identity, identities, self._kept)
        self._move, self._deferred = None, None
        self._bounded, self._added = begin.bounded, None
        if begin.noise or begin.bounded:
            beside = {device for device in group if device in owned} | {self._number}
            words = length(owned.get(self._number, ()))
            self._move = NoisyMove(begin.clip, begin.noise, begin.least, words, beside)
        self._kept.boundary = boundary
        if begin.bounded:
            self._kept.check_projections()
        self._generation, self._theta = begin.generation, begin.theta
        advert = self._contributor.advertise()
        key = pb.SumKey(device=self._number, mask=advert.mask_key, share=advert.share_key)
        return pb.SumStep(attempt=step.attempt, key=key)

    @property
    def beside(self) -> Set[int]:
        """Return the devices of the group that have a part in the sum under way, if it has noise."""
        return frozenset() if self._move is None else self._move.group

    def refer(self, step: pb.SumStep, generation: int, weights: WeightsOf) -> pb.SumNorm | None:
        """Take a part of what the weights were when the round began. Return what the group's other devices
        are told once all is here.
        """
        contributor, move = self._contributor, self._move
        if contributor is None or contributor.round.attempt != step.attempt or generation != self._generation:
            return None
        if move is None:
            raise WireError("a reference for a sum without noise")
        if not move.take_reference(step.reference.values):
            return None
        square = move.moved(self._number, weights(_number(contributor.round.id), self._theta))
        return pb.SumNorm(attempt=step.attempt, square=square)

    def take_norm(self, device: int, norm: pb.SumNorm) -> None:
        """Take the norm of the move of another piece of the group; that of an attempt that is over is
        dropped.
        """
        if self._contributor is not None and self._contributor.round.attempt == norm.attempt:
            if self._move is None:
                raise WireError("the norm of a move for a sum without noise")
            self._move.take_square(device, norm.square)

    def go_on(self) -> Iterator[pb.SumStep]:
        """Yield the answers that waited for the moves of other pieces."""
        if self._deferred is not None and self._move is not None and self._move.ready:
            deferred, self._deferred = self._deferred, None
            yield from self.mask(*deferred)

    def mask(self, step: pb.SumStep, generation: int, weights: WeightsOf) -> Iterator[pb.SumStep]:
        """Yield the answers to neighbours' keys, or to their shares. `weights` gives those of the piece in
        `generation`. A step of an attempt that is over has none.
        """
        contributor = self._contributor
        if contributor is None or contributor.round.attempt != step.attempt:
            return
        if generation != self._generation:
            return
        if step.HasField("keys"):
            adverts = [Advert(each.device, _key(each.mask), _key(each.share)) for each in step.keys.keys]
            sealed = [
                pb.SealedShare(sender=each.sender, receiver=each.receiver, sealed=each.sealed)
                for each in contributor.share(adverts)
            ]
            yield pb.SumStep(attempt=step.attempt, shares=pb.SumShares(shares=sealed))
            return
        numbers = FixedPoint(contributor.round.terms)
        if self._move is None:
            values = numbers.encode(weights(_number(contributor.round.id), self._theta))
        elif self._move.ready:
            values = self._move.encoded(numbers)
        else:
            self._deferred = step, generation, weights
            return
        shares = [SealedShares(each.sender, each.receiver, each.sealed) for each in step.shares.shares]
        words: Words = contributor.mask(shares, values).words
        if self._bounded:
            self._added = step.attempt, contributor.round.stretches[self._number], values
        for start in range(0, len(words), CHUNK_WEIGHTS):
            part = words[start : start + CHUNK_WEIGHTS].astype("<u4").tobytes()
            masked = pb.SumMasked(words=part, last=start + CHUNK_WEIGHTS >= len(words))
            yield pb.SumStep(attempt=step.attempt, masked=masked)

    def unmask(self, step: pb.SumStep) -> list[pb.SumStep]:
        """Return the answers to survivors, to the tags of neighbours that confirm them, or to the seed of
        projections, which comes before them.
        """
        kind, part = step.WhichOneof("step"), self._kept.part
        if kind == "projection":
            return [self._project(step)]
        ours = part is not None and part.round.attempt == step.attempt
        if kind == "survivors" and not ours:
            return [pb.SumStep(attempt=step.attempt, forgotten=True)]
        if part is None or not ours:
            return []
        if kind == "survivors":
            tags = [
                pb.SumTag(sender=each.sender, receiver=each.receiver, tag=each.tag)
                for each in part.confirm(step.survivors.devices, self._kept)
            ]
            return [pb.SumStep(attempt=step.attempt, tags=pb.SumTags(tags=tags))]
        if kind == "tags":
            confirmations = [Confirmation(each.sender, each.receiver, each.tag) for each in step.tags.tags]
            shown = part.reveal(confirmations)
            revealed = pb.SumRevealed(own_masks=_shares(shown.own_masks), mask_keys=_shares(shown.mask_keys))
            return [pb.SumStep(attempt=step.attempt, revealed=revealed)]
        raise WireError(f"a device takes no {kind} in a secure sum")

    def _project(self, step: pb.SumStep) -> pb.SumStep:
        """Return the projections of what was added under masks; once for each attempt."""
        added, self._added = self._added, None
        if added is None or added[0] != step.attempt:
            return pb.SumStep(attempt=step.attempt, forgotten=True)
        if len(step.projection) != SEED_BYTES:
            raise WireError(f"a seed of {len(step.projection)} bytes in a secure sum; {SEED_BYTES} were due")
        self._kept.keep_projection()
        _, own, values = added
        words = projected(step.projection, own, values).astype("<u4").tobytes()
        return pb.SumStep(attempt=step.attempt, projected=words)


def round_id(run: str, number: int) -> bytes:
    """Return the id of the sum `number` of a run."""
    return struct.pack("<I", number) + run.encode()


def _number(id: bytes) -> int:
    (number,) = struct.unpack_from("<I", id)
    return int(number)


def _key(key: bytes) -> bytes:
    if len(key) != KEY_BYTES:
        raise WireError(f"a key of {len(key)} bytes in a secure sum; {KEY_BYTES} were due")
    return key


def _shares(shares: Mapping[int, bytes]) -> Sequence[pb.RevealedShare]:
    return [pb.RevealedShare(device=device, share=share) for device, share in shares.items()]
