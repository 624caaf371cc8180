"""What a device does between two assignments: it gets keys and state, and then works.

Keys are offered and exchanged, and state is provided to the devices that need it. Once its own piece is
complete and on disk, the device is Ready. Go starts the work (piece_pass.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.errors import StateError, WireError
from crowdlearn_device.privacy.aggregation.shamir import split
from crowdlearn_device.privacy.labels import private_labels
from crowdlearn_device.privacy.mechanisms.base import Place
from crowdlearn_device.privacy.mechanisms.outgoing import outgoing_of
from crowdlearn_device.privacy.tap import Tap
from crowdlearn_device.program.executor import Executor, Programs
from crowdlearn_device.program.manifest import Manifest
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Floats, decode_message
from crowdlearn_device.security.envelope import Channel
from crowdlearn_device.security.identity import Identity
from crowdlearn_device.security.snapshot import seal_snapshot, unwrapped
from crowdlearn_device.sharing.selection import apply_patch, drawn_weights, shared_updates, weights_of
from crowdlearn_device.sharing.update import Update, encode_update
from crowdlearn_device.sharing.update_values import ValueType
from crowdlearn_device.state.on_disk import StateStore, StoredState
from crowdlearn_device.state.piece_state import Neurons, PartialState, PieceState

from .helper_on_shares import HelperOnShares
from .inheritance import Inheritance
from .piece_pass import Assigned, PiecePass
from .providers import check_provider
from .roles import pass_of

VALUES = {
    pb.FLOAT32: ValueType.FLOAT32,
    pb.FLOAT16: ValueType.FLOAT16,
    pb.INT8: ValueType.INT8,
}


WORK = (pb.PURPOSE_ACTIVATION, pb.PURPOSE_ERROR, pb.PURPOSE_NORM)
"""The purposes of what pieces send each other in a pass."""

MOST_LABEL_EPSILON = 50.0
"""The bound beyond which no label changes."""


class Owner(Protocol):
    """The device that a generation is a part of."""

    outbox: list[pb.Frame]
    device: int
    run: str
    identity: Identity
    programs: Programs
    tap: Tap | None

    @property
    def identities(self) -> Mapping[int, bytes]: ...

    @property
    def states(self) -> StateStore: ...

    def trust(self, peers: Iterable[pb.Peer]) -> list[int]: ...

    def trust_heirs(self, heirs: Sequence[pb.Peer]) -> list[int]: ...

    def program(self, sha256: str) -> tuple[Manifest, Executor]: ...

    def keep(self, sha256: str, weights: PieceState) -> None: ...

    def data(self) -> Dataset: ...


class Generation:
    """One assignment: keys, state, and work, in this order. Raises DeviceError if anything is refused."""

    def __init__(self, owner: Owner, assign: pb.Assign) -> None:
        self.number = assign.generation
        self._owner = owner
        self._assign = assign
        self._me = owner.device
        self._run = owner.run
        self._secret = owner.identity.secret(self._run)
        place = Place(self.number, assign.epoch, assign.piece, self._secret)
        self._outgoing = outgoing_of(assign.training.outgoing, place, owner.tap)
        self._ephemeral = X25519PrivateKey.generate()
        self._channels: dict[int, Channel] = {}
        self._layout = tuple(tuple(_neurons(r) for r in piece.neurons) for piece in assign.pieces)
        self._device_of = [piece.device for piece in assign.pieces]
        self._piece_of = {device: piece for piece, device in enumerate(self._device_of)}
        self._heirs = list(assign.heirs)
        self._partial: PartialState | None = None
        self._giving: list[Iterator[None]] = []
        """The state that is sent part by part, each when the one before it has left: a phone has little
        room.
        """
        self._inherited: dict[int, Inheritance] = {}
        """Snapshots on their way to this heir, by piece."""
        self._patches: list[bytes] = []
        self._patched = not assign.patched
        self._work: PiecePass | HelperOnShares | None = None
        if assign.piece >= 0:
            if not (
                0 <= assign.piece < len(self._layout) and self._device_of[assign.piece] == self._me
            ) or len(self._piece_of) != len(self._layout):
                raise WireError(f"assignment of piece {assign.piece} contradicts its list of pieces")
            self._manifest, self._executor = owner.program(assign.pieces[assign.piece].program)
            if any(len(piece) != len(self._manifest.layers) for piece in self._layout):
                raise WireError("assignment and program disagree on the number of layers")
            if unknown := set(self._heirs) - owner.identities.keys():
                raise WireError(f"heirs {sorted(unknown)} whose identities are unknown")
            self._partial = PartialState(
                self._manifest,
                self._layout[assign.piece],
                rank=assign.training.rank,
                zeros=self._executor.zeros,
            )
            if self._renewed:
                self._partial.expect_nothing()
        elif assign.keep_program:
            self._manifest = owner.programs.manifest(assign.keep_program)
            whole = [(0, layer.neurons) for layer in self._manifest.layers]
            self._partial = PartialState(self._manifest, whole, rank=False)
        public = self._ephemeral.public_key().public_bytes_raw()
        self._send(key_offer=pb.KeyOffer(generation=self.number, device=self._me, ephemeral=public))

    def _send(self, **body: object) -> None:
        self._owner.outbox.append(pb.Frame(**body))  # type: ignore[arg-type]

    def end(self) -> None:
        """Give back the memory at once: what works for it refers to it in turn."""
        self._giving, self._partial, self._work = [], None, None

    def receive(self, kind: str, frame: pb.Frame) -> None:
        body = getattr(frame, kind)
        if body.generation != self.number and kind != "snapshot":
            if body.generation > self.number:
                raise WireError(f"{kind} of generation {body.generation} in {self.number}")
            return  # left over from before the assignment
        if kind == "keys":
            self._keys(frame.keys)
        elif kind == "envelope":
            self._envelope(frame.envelope)
        elif kind == "global_state":
            self._take(None, frame.global_state.part)
        elif kind == "snapshot":
            self._inherit(frame.snapshot)
        elif kind == "go":
            self._go()
        elif kind == "patch":
            self._patch(frame.patch)
        elif kind == "share":
            self._share(frame.share)
        elif kind == "heirs":
            self._heirs = self._owner.trust_heirs(frame.heirs.heirs)
        else:
            raise WireError(f"a device takes no {kind}")

    def _keys(self, keys: pb.Keys) -> None:
        if self._channels:
            # Sealing again from sequence number 0 under the same keys would give their stream away.
            raise WireError("keys were exchanged already")
        for offer in keys.offers:
            if offer.device != self._me and offer.device in self._owner.identities:
                self._channels[offer.device] = Channel(
                    self._run,
                    self.number,
                    self._me,
                    self._owner.identity,
                    self._ephemeral,
                    offer.device,
                    self._owner.identities[offer.device],
                    offer.ephemeral,
                )
        for provide in self._assign.provides:
            if not provide.from_snapshot:
                state = self._owner.states.load(self._assign.from_generation, self._assign.boundary)
                self._provide(provide, state)
        self._check_complete()

    def _provide(self, provide: pb.Provide, state: StoredState) -> None:
        if list(state.neurons) != [_neurons(r) for r in provide.neurons]:
            raise StateError("the state kept here is of other neurons than the assignment names")
        if self._assign.keep_program:
            state = state.values_only()
        self._giving.append(self._give(provide.piece, state))

    def _give(self, piece: int, state: StoredState) -> Iterator[None]:
        for transfer in self._assign.transfers:
            if transfer.piece != piece:
                continue
            for part in state.parts(transfer.layer, _neurons(transfer.neurons)):
                if transfer.device == self._me:
                    self._take(self._me, part)
                else:
                    content = part.SerializeToString()
                    self._send(envelope=self._channel(transfer.device).seal(self._moving, content))
                yield
        self._owner.states.inherited(piece).unlink(missing_ok=True)

    @property
    def _renewed(self) -> bool:
        """Return True if the server's patches are the whole state, and no device provides any."""
        return self._assign.patched and not self._assign.from_generation

    @property
    def _moving(self) -> pb.Purpose:
        if self._assign.keep_program:
            return pb.PURPOSE_MODEL
        started = self._assign.boundary == self._assign.pass_boundary
        return pb.PURPOSE_SHUFFLE if started else pb.PURPOSE_RECOVERY

    def _channel(self, device: int) -> Channel:
        channel = self._channels.get(device)
        if channel is None:
            raise WireError(f"no keys were exchanged with device {device}")
        return channel

    def _inherit(self, snapshot: pb.Snapshot) -> None:
        """Provide a lost device's piece from the snapshot that the server kept for us, or help to."""
        if (snapshot.generation, snapshot.boundary) != (self._assign.from_generation, self._assign.boundary):
            return
        sender = self._owner.identities.get(snapshot.sender)
        helped = next((each for each in self._assign.unsealings if each.piece == snapshot.piece), None)
        if sender is not None and helped is not None and not snapshot.part:
            point, share = unwrapped(self._run, self._me, self._owner.identity, sender, snapshot)
            told = pb.StatePart(share=pb.KeyShare(piece=snapshot.piece, point=point, share=share))
            self._send(envelope=self._channel(helped.device).seal(self._moving, told.SerializeToString()))
            return
        provide = next(
            (p for p in self._assign.provides if p.piece == snapshot.piece and p.from_snapshot), None
        )
        if sender is None or provide is None:
            raise WireError(
                f"snapshot of piece {snapshot.piece} by device {snapshot.sender} was not due here"
            )
        if not snapshot.part:
            point, share = unwrapped(self._run, self._me, self._owner.identity, sender, snapshot)
            self._inheritance(snapshot.piece).take_first(snapshot, point, share)
        if self._inheritance(snapshot.piece).take_part(snapshot):
            self._open_inherited(snapshot.piece)

    def _inheritance(self, piece: int) -> Inheritance:
        path = self._owner.states.inherited(piece)
        return self._inherited.setdefault(piece, Inheritance(self._run, path))

    def _take_share(self, sender: int, share: pb.KeyShare) -> None:
        """Take another heir's share of the key of a snapshot."""
        if not any(p.piece == share.piece and p.from_snapshot for p in self._assign.provides):
            raise WireError(f"device {sender} sends a share of the key of piece {share.piece}, not due here")
        if self._inheritance(share.piece).take_share(sender, share):
            self._open_inherited(share.piece)

    def _open_inherited(self, piece: int) -> None:
        provide = next(p for p in self._assign.provides if p.piece == piece and p.from_snapshot)
        self._provide(provide, StoredState.open(self._owner.states.inherited(piece)))
        self._check_complete()

    def _take(self, sender: int | None, part: pb.StatePart) -> None:
        if self._partial is None:
            raise WireError("state arrived at a device that waits for none")
        check_provider(self._assign, sender, part)
        self._partial.add(part)
        self._check_complete()

    def _check_complete(self) -> None:
        if self._partial is None or not self._partial.complete or not self._patched:
            return
        state = self._partial.finish(fresh=self._assign.fresh)
        if self._assign.keep_program:
            self._partial = None
            self._owner.keep(self._assign.keep_program, state)
            self._send(ready=pb.Ready(generation=self.number))
            return
        taken = sum(apply_patch(self._manifest, state, patch) for patch in self._patches)
        if self._renewed and taken != weights_of(self._manifest, state.neurons):
            raise WireError(f"the server's patches hold {taken} of this piece's weights; all were due")
        self._partial, self._patches = None, []
        self._owner.states.save(self.number, self._assign.boundary, state)
        self._work = pass_of(
            Assigned(
                self._assign,
                self._manifest,
                self._executor,
                self._layout,
                state,
                self,
                self._outgoing,
                self._secret,
            )
        )
        self._send(ready=pb.Ready(generation=self.number))

    def _patch(self, patch: pb.Patch) -> None:
        """Take weights of the global model that replace this piece's own."""
        if self._partial is None or self._patched:
            raise WireError("a patch arrived at a device that waits for none")
        if patch.update:
            self._patches.append(patch.update)
        self._patched = patch.last
        self._check_complete()

    def _go(self) -> None:
        if self._work is None:
            raise WireError("go before ready")
        if not 0 <= self._assign.training.label_epsilon <= MOST_LABEL_EPSILON:
            raise WireError(f"label_epsilon is {self._assign.training.label_epsilon}")
        self._work.go(self._labelled, self._me)

    def _labelled(self) -> Dataset:
        """Return the device's samples with the labels that are learned from."""
        data, epsilon = self._owner.data(), self._assign.training.label_epsilon
        if not epsilon:
            return data
        secret = self._owner.identity.secret("labels")
        return private_labels(data, self._manifest.layers[-1].neurons, epsilon, secret)

    def _envelope(self, envelope: pb.Envelope) -> None:
        content = self._channel(envelope.sender).open(envelope)
        if envelope.purpose == self._moving:
            part = decode_message(pb.StatePart, content)
            if part.HasField("share"):
                self._take_share(envelope.sender, part.share)
            else:
                self._take(envelope.sender, part)
            return
        if envelope.purpose not in WORK:
            raise WireError(f"device {envelope.sender} sends purpose {envelope.purpose}, which is not due")
        if self._work is None or envelope.sender not in self._piece_of:
            raise WireError(f"device {envelope.sender} sends sums to a device that has no piece beside it")
        self._work.receive(self._piece_of[envelope.sender], envelope.purpose, content)

    @property
    def has_work(self) -> bool:
        return bool(self._giving) or (self._work is not None and self._work.ready)

    def work(self) -> bool:
        if self._giving:
            if next(self._giving[0], self._giving) is self._giving:
                del self._giving[0]
            return True
        return self._work is not None and self._work.run()

    def deliver(self, piece: int, purpose: pb.Purpose, content: bytes, *, express: bool) -> None:
        """Seal sums or errors, and send them to the holder of a piece."""
        channel = self._channel(self._device_of[piece])
        self._send(envelope=channel.seal(purpose, content, express=express))

    def common_key(self, piece: int) -> bytes:
        """Return the key that masks have in common with the holder of a piece."""
        return self._channel(self._device_of[piece]).common

    def tell(self, progress: pb.Progress) -> None:
        """Tell the server what a mini-batch gave."""
        progress.generation = self.number
        self._send(progress=progress)

    def hold(self, boundary: int, state: PieceState, busy: float) -> None:
        """Write the piece to disk at a drained boundary, and send a sealed snapshot to its heirs."""
        self._owner.states.save(self.number, boundary, state)
        heirs = {h: self._owner.identities[h] for h in self._heirs if h != self._me}
        needed = self._assign.heirs_needed
        if len(heirs) < needed:
            heirs = {}  # too few to open it together: only the owner may read its piece
        held = pb.Held(generation=self.number, boundary=boundary, busy_seconds=busy)
        place = pb.Snapshot(
            generation=self.number,
            boundary=boundary,
            piece=self._assign.piece,
            sender=self._me,
            needed=needed if needed > 1 else 0,
        )
        sealed = seal_snapshot(
            self._run,
            self._owner.identity,
            heirs,
            place,
            state.size,
            state.blocks(),
            split if place.needed else None,
        )
        self._giving.append(self._tell_held(sealed if heirs else (), held))

    def _tell_held(self, snapshot: Iterable[pb.Snapshot], held: pb.Held) -> Iterator[None]:
        """Send the state at a boundary, part by part. Nothing is computed until all of it has left, so that
        it stays what it was.
        """
        for part in snapshot:
            self._send(snapshot=part)
            yield
        self._send(held=held)

    @property
    def summed_boundary(self) -> int:
        """Return the boundary of the weights that a secure sum takes. Raises WireError if none are due."""
        if self._work is None or self._work.boundary < self._assign.pass_end:
            raise WireError("a secure sum before the pass is over")
        return self._work.boundary

    def summed(self, number: int, theta: float) -> Floats:
        """Return the piece's weights in the lot of the sum `number`, as they leave: float32 [n]."""
        assert self._work is not None
        seed, state = self._assign.training.seed, self._work.state()
        indices, values = drawn_weights(self._manifest, state, seed, number, theta)
        return self._outgoing.weights(indices, values, number)

    def answer_sum(self, answers: Iterator[pb.SumStep]) -> None:
        """Send answers one at a time, each when the one before it has left."""
        self._giving.append(self._answer(answers))

    def _answer(self, answers: Iterator[pb.SumStep]) -> Iterator[None]:
        for answer in answers:
            self._send(sum_step=answer)
            yield

    def _share(self, share: pb.Share) -> None:
        """Upload the top theta of this piece's weights: weights, never gradients or samples."""
        if self._work is None:
            raise WireError("share before ready")
        if not 0 <= share.theta <= 1 or share.values not in VALUES:
            raise WireError(f"share of theta {share.theta} in type {share.values}")
        state, values = self._work.state(), VALUES[share.values]
        updates = shared_updates(self._manifest, state, self._me, share.round, share.theta)
        self._giving.append(self._upload(updates, values))

    def _upload(self, updates: Iterator[Update], values: ValueType) -> Iterator[None]:
        try:
            for update in updates:
                left = self._outgoing.weights(update.indices, update.values, update.round)
                content = encode_update(replace(update, values=left), values)
                self._send(shared=pb.Shared(generation=self.number, update=content))
                yield
        except ValueError as error:
            raise WireError(f"the weights here cannot be shared: {error}") from error
        self._send(shared=pb.Shared(generation=self.number, last=True))


def _neurons(neurons: pb.Range) -> Neurons:
    return neurons.start, neurons.stop
