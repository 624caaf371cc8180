"""A device as a member of its group: the protocol's device side as a state machine without I/O of its own.

Frames go in through `receive`, come out in `outbox`; `work` does one piece of computation. docs/protocol.md
tells the states. A generation begins with Assign: keys are offered and exchanged, state is provided to whom
it is due, and once the own piece is complete and on disk the device is Ready. Go starts the work. Whatever is
refused ends the generation here: the server is told why and assigns anew from a boundary that everybody
holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from . import wire_pb2 as pb
from .dataset import Dataset
from .dominator import Dominator
from .envelope import Channel, Identity, open_snapshot, seal_snapshot
from .errors import DataError, DeviceError, EnvelopeError, ProgramError, StateError, WireError
from .executor import Executor, Programs
from .kept import keep_model
from .manifest import Manifest
from .piece import Message, Piece
from .schedule import STALENESS, Pass
from .sharing import apply_patch, shared_updates, weights_of
from .state import Neurons, PartialState, PieceState, StateStore
from .update import ValueType
from .wire import VERSION, decode_tensor, encode_tensor

FAULTS: tuple[tuple[type[DeviceError], pb.FaultKind], ...] = (
    (EnvelopeError, pb.FAULT_ENVELOPE),
    (ProgramError, pb.FAULT_PROGRAM),
    (StateError, pb.FAULT_STATE),
    (DataError, pb.FAULT_DATA),
    (WireError, pb.FAULT_WIRE),
)


VALUES = {
    pb.FLOAT32: ValueType.FLOAT32,
    pb.FLOAT16: ValueType.FLOAT16,
    pb.INT8: ValueType.INT8,
}


class Member:
    """One device in one run. `load_data` reads the device's samples when it first is dominator."""

    def __init__(
        self,
        name: str,
        home: Path,
        identity: Identity,
        samples: int,
        load_data: Callable[[], Dataset],
        programs: Programs,
        token: str = "",
    ) -> None:
        self.outbox: list[pb.Frame] = []
        self.finished: str | None = None
        self._home = home
        self._identity = identity
        self._load_data = load_data
        self._programs = programs
        self._executor: tuple[str, Executor] | None = None
        self._data: Dataset | None = None
        self._generation: _Generation | None = None
        self._run = ""
        self._device = -1
        self._identities: dict[int, bytes] = {}
        self._send(
            pb.Frame(
                hello=pb.Hello(
                    version=VERSION, device=name, identity=identity.public, samples=samples, token=token
                )
            )
        )

    def _send(self, frame: pb.Frame) -> None:
        self.outbox.append(frame)

    def receive(self, frame: pb.Frame) -> None:
        """Take a frame from the server. Refusals become Fault frames; nothing else is raised."""
        try:
            self._receive(frame)
        except DeviceError as error:
            self._fault(error)

    def work(self) -> bool:
        """Do one piece of computation; False where there is none to do."""
        generation = self._generation
        if generation is None:
            return False
        try:
            return generation.work()
        except DeviceError as error:
            self._fault(error)
            return True

    def _fault(self, error: DeviceError) -> None:
        number = self._generation.number if self._generation else 0
        self._generation = None
        kind = next(kind for kind_of, kind in FAULTS if isinstance(error, kind_of))
        fatal = kind in (pb.FAULT_PROGRAM, pb.FAULT_DATA)
        self._send(
            pb.Frame(fault=pb.Fault(generation=number, kind=kind, reason=str(error)[:500], fatal=fatal))
        )

    def _receive(self, frame: pb.Frame) -> None:
        kind = frame.WhichOneof("body")
        if kind == "welcome":
            self._welcome(frame.welcome)
        elif kind == "finish":
            self.finished = frame.finish.reason
            self._generation = None
        elif kind == "ping":
            waiting = self._generation is None or not self._generation.has_work
            self._send(pb.Frame(pong=pb.Pong(nonce=frame.ping.nonce, waiting=waiting)))
        elif self._device < 0:
            raise WireError(f"{kind} before welcome")
        elif kind == "assign":
            self._assign(frame.assign)
        elif kind == "committed":
            self._states.forget_before(frame.committed.generation, frame.committed.boundary)
        elif self._generation is not None:
            self._generation.receive(kind or "", frame)

    def _welcome(self, welcome: pb.Welcome) -> None:
        if welcome.version != VERSION:
            raise WireError(
                f"the server speaks version {welcome.version}, this device {VERSION}; update the older"
            )
        run = welcome.run
        if (
            not run
            or len(run) > 100
            or not all(c.isalnum() or c in "-_." for c in run)
            or run.startswith(".")
        ):
            raise WireError(f"run {run[:100]!r} is not a name")
        self._run, self._device = run, welcome.device
        self._states = StateStore(self._home / "runs" / run)
        self._identities = {}

    def _assign(self, assign: pb.Assign) -> None:
        if self._generation is not None and assign.generation <= self._generation.number:
            raise WireError(f"generation {assign.generation} after {self._generation.number}")
        self._generation = None
        self.trust(assign.peers)
        if self._identities.get(self._device) != self._identity.public:
            raise WireError("the server gives this device another's identity")
        self._generation = _Generation(self, assign)

    def trust(self, peers: Iterable[pb.Peer]) -> list[int]:
        """The numbers of these devices. A device's key is trusted at first sight and then for the whole
        run.
        """
        numbers = []
        for peer in peers:
            if self._identities.setdefault(peer.device, peer.identity) != peer.identity:
                raise WireError(
                    f"device {peer.device} has changed its identity; start a new run if that is right"
                )
            numbers.append(peer.device)
        return numbers

    def leave(self, reason: str) -> None:
        """Ask to go; `finished` is set once others have taken this device's pieces over."""
        self._send(pb.Frame(leave=pb.Leave(reason=reason)))

    def program(self, sha256: str) -> tuple[Manifest, Executor]:
        """A program that was pushed to this device. One is loaded at a time: its arenas take memory."""
        manifest = self._programs.manifest(sha256)
        if self._executor is None or self._executor[0] != manifest.program:
            self._executor = None
            self._executor = manifest.program, self._programs.executor(manifest)
        return manifest, self._executor[1]

    def keep(self, sha256: str, weights: PieceState) -> None:
        """Write the group's model to HOME/models/RUN."""
        keep_model(self._home / "models" / self._run, self._programs.files(sha256), weights)

    def data(self) -> Dataset:
        if self._data is None:
            self._data = self._load_data()
        return self._data


class _Generation:
    """What a member does between two assignments."""

    def __init__(self, member: Member, assign: pb.Assign) -> None:
        self.number = assign.generation
        self._member = member
        self._assign = assign
        self._me = member._device
        self._run = member._run
        self._ephemeral = X25519PrivateKey.generate()
        self._channels: dict[int, Channel] = {}
        self._layout = [[_neurons(r) for r in piece.neurons] for piece in assign.pieces]
        self._device_of = [piece.device for piece in assign.pieces]
        self._piece_of = {device: piece for piece, device in enumerate(self._device_of)}
        self._heirs = list(assign.heirs)
        self._pass = Pass(
            assign.pass_boundary,
            assign.pass_end,
            max(1, assign.training.snapshot_every),
            assign.training.staleness,
        )
        if self._pass.staleness not in STALENESS:
            raise WireError(f"staleness {self._pass.staleness}; this device knows {STALENESS}")
        self._busy = 0.0
        self._partial: PartialState | None = None
        self._giving: list[Iterator[None]] = []
        """What is sent part by part, each when the one before it has left: a phone has little room."""
        self._patches: list[bytes] = []
        self._patched = not assign.patched
        self._piece: Piece | None = None
        self._dominator: Dominator | None = None
        if assign.piece >= 0:
            if not (
                0 <= assign.piece < len(self._layout) and self._device_of[assign.piece] == self._me
            ) or len(self._piece_of) != len(self._layout):
                raise WireError(f"assignment of piece {assign.piece} contradicts its list of pieces")
            self._manifest, self._executor = member.program(assign.pieces[assign.piece].program)
            if any(len(piece) != len(self._manifest.layers) for piece in self._layout):
                raise WireError("assignment and program disagree on the number of layers")
            self._partial = PartialState(
                self._manifest, self._layout[assign.piece], rank=assign.training.rank
            )
            if self._renewed:
                self._partial.expect_nothing()
        elif assign.keep:
            self._manifest = member._programs.manifest(assign.keep)
            whole = [(0, layer.neurons) for layer in self._manifest.layers]
            self._partial = PartialState(self._manifest, whole, rank=False)
        public = self._ephemeral.public_key().public_bytes_raw()
        self._send(key_offer=pb.KeyOffer(generation=self.number, device=self._me, ephemeral=public))

    def _send(self, **body: object) -> None:
        self._member.outbox.append(pb.Frame(**body))  # type: ignore[arg-type]

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
            self._take(frame.global_state.part)
        elif kind == "snapshot":
            self._inherit(frame.snapshot)
        elif kind == "go":
            self._go()
        elif kind == "patch":
            self._patch(frame.patch)
        elif kind == "share":
            self._share(frame.share)
        elif kind == "heirs":
            self._heirs = self._member.trust(frame.heirs.heirs)
        else:
            raise WireError(f"a device takes no {kind}")

    def _keys(self, keys: pb.Keys) -> None:
        if self._channels:
            # Sealing again from sequence number 0 under the same keys would give their stream away.
            raise WireError("keys were exchanged already")
        for offer in keys.offers:
            if offer.device != self._me and offer.device in self._member._identities:
                self._channels[offer.device] = Channel(
                    self._run,
                    self.number,
                    self._me,
                    self._member._identity,
                    self._ephemeral,
                    offer.device,
                    self._member._identities[offer.device],
                    offer.ephemeral,
                )
        for provide in self._assign.provides:
            if not provide.stored:
                state = self._member._states.load(self._assign.from_generation, self._assign.boundary)
                self._provide(provide, state)
        self._check_complete()

    def _provide(self, provide: pb.Provide, state: PieceState) -> None:
        if list(state.neurons) != [_neurons(r) for r in provide.neurons]:
            raise StateError("the state kept here is of other neurons than the server asks for")
        if self._assign.keep:
            state = state.values_only()
        self._giving.append(self._give(provide.piece, state))

    def _give(self, piece: int, state: PieceState) -> Iterator[None]:
        for transfer in self._assign.transfers:
            if transfer.piece != piece:
                continue
            for part in state.parts(transfer.layer, _neurons(transfer.neurons)):
                if transfer.device == self._me:
                    self._take(part)
                else:
                    content = part.SerializeToString()
                    self._send(envelope=self._channel(transfer.device).seal(self._moving, content))
                yield

    @property
    def _renewed(self) -> bool:
        """Whether the server's patches are the whole state, and no device gives any."""
        return self._assign.patched and not self._assign.from_generation

    @property
    def _moving(self) -> pb.Purpose:
        if self._assign.keep:
            return pb.PURPOSE_MODEL
        started = self._assign.boundary == self._assign.pass_boundary
        return pb.PURPOSE_SHUFFLE if started else pb.PURPOSE_RECOVERY

    def _channel(self, device: int) -> Channel:
        channel = self._channels.get(device)
        if channel is None:
            raise WireError(f"no keys were exchanged with device {device}")
        return channel

    def _inherit(self, snapshot: pb.Snapshot) -> None:
        """Provide a lost device's piece from the snapshot that the server kept for us."""
        if (snapshot.generation, snapshot.boundary) != (self._assign.from_generation, self._assign.boundary):
            return
        sender = self._member._identities.get(snapshot.sender)
        provide = next((p for p in self._assign.provides if p.piece == snapshot.piece and p.stored), None)
        if sender is None or provide is None:
            raise WireError(
                f"snapshot of piece {snapshot.piece} by device {snapshot.sender} was not due here"
            )
        content = open_snapshot(self._run, self._me, self._member._identity, sender, snapshot)
        self._provide(provide, PieceState.from_bytes(content))
        self._check_complete()

    def _take(self, part: pb.StatePart) -> None:
        if self._partial is None:
            raise WireError("state arrived at a device that waits for none")
        self._partial.add(part)
        self._check_complete()

    def _check_complete(self) -> None:
        if self._partial is None or not self._partial.complete or not self._patched:
            return
        state = self._partial.finish(fresh=self._assign.fresh)
        if self._assign.keep:
            self._partial = None
            self._member.keep(self._assign.keep, state)
            self._send(ready=pb.Ready(generation=self.number))
            return
        taken = sum(apply_patch(self._manifest, state, patch) for patch in self._patches)
        if self._renewed and taken != weights_of(self._manifest, state.neurons):
            raise WireError(f"the server's patches hold {taken} of this piece's weights; all were due")
        self._partial, self._patches = None, []
        training = self._assign.training
        self._member._states.save(self.number, self._assign.boundary, state)
        self._piece = Piece(
            self._manifest,
            self._executor,
            self._layout,
            self._assign.piece,
            state,
            self._assign.boundary,
            self._pass,
            training.learning_rate,
            training.seed,
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
        if self._piece is None:
            raise WireError("go before ready")
        if self._dominator is not None:
            raise WireError("go came twice")
        if self._assign.piece == 0:
            self._dominator = Dominator(self._piece, self._member.data(), self._pass, self._assign, self._me)

    def _envelope(self, envelope: pb.Envelope) -> None:
        content = self._channel(envelope.sender).open(envelope)
        if envelope.purpose in (pb.PURPOSE_SHUFFLE, pb.PURPOSE_RECOVERY, pb.PURPOSE_MODEL):
            self._take(pb.StatePart.FromString(content))
            return
        if self._piece is None or envelope.sender not in self._piece_of:
            raise WireError(f"device {envelope.sender} sends sums to a device that has no piece beside it")
        sums = pb.Sums.FromString(content)
        values = decode_tensor(sums.values)
        self._piece.receive(
            Message(
                self._piece_of[envelope.sender],
                envelope.purpose,
                sums.step,
                sums.micro,
                sums.micros,
                sums.rows,
                sums.edge,
                values,
            )
        )

    @property
    def has_work(self) -> bool:
        return bool(self._giving) or (self._piece is not None and self._piece.ready)

    def work(self) -> bool:
        if self._giving:
            if next(self._giving[0], self._giving) is self._giving:
                del self._giving[0]
            return True
        piece = self._piece
        if piece is None:
            return False
        fed = self._dominator is not None and self._dominator.feed()
        if not piece.ready:
            return fed
        before, started = piece.boundary, time.perf_counter()
        messages = piece.run()
        self._busy += time.perf_counter() - started
        for message in messages:
            self._send_sums(message)
        if piece.boundary != before:
            self._applied(piece)
        return True

    def _send_sums(self, message: Message) -> None:
        # Rounded up or down by lot, but by the same lot when a mini-batch is repeated after a loss.
        place = self._assign.piece, message.partner, message.edge, message.purpose
        lot = (self._assign.training.seed, message.step, message.micro, *place)
        rounding = np.random.default_rng(lot) if self._assign.training.wire == pb.INT8 else None
        sums = pb.Sums(
            step=message.step,
            micro=message.micro,
            edge=message.edge,
            micros=message.micros,
            rows=message.rows,
            values=encode_tensor(message.values, self._assign.training.wire, rounding),
        )
        # Everything waits for what turns round at the loss, and that is the shortest there is.
        express = self._manifest.edges[message.edge].target == len(self._layout[0]) - 1
        channel = self._channel(self._device_of[message.partner])
        self._send(envelope=channel.seal(message.purpose, sums.SerializeToString(), express=express))

    def _applied(self, piece: Piece) -> None:
        assign = self._assign
        if self._dominator is not None:
            progress = self._dominator.progress()
            progress.generation = self.number
            self._send(progress=progress)
        if self._pass.drained(piece.boundary):
            state = piece.state()
            self._member._states.save(self.number, piece.boundary, state)
            heirs = {h: self._member._identities[h] for h in self._heirs if h != self._me}
            if heirs:
                frame = pb.Frame()
                snapshot = frame.snapshot
                snapshot.generation, snapshot.boundary = self.number, piece.boundary
                snapshot.piece, snapshot.sender = assign.piece, self._me
                seal_snapshot(self._run, self._member._identity, heirs, snapshot, state.blocks())
                self._member.outbox.append(frame)
            held = pb.Held(generation=self.number, boundary=piece.boundary, busy_seconds=self._busy)
            self._busy = 0.0
            self._send(held=held)

    def _share(self, share: pb.Share) -> None:
        """Upload the top theta of this piece's weights: weights, never gradients or samples."""
        if self._piece is None:
            raise WireError("share before ready")
        if not 0 <= share.theta <= 1 or share.values not in VALUES:
            raise WireError(f"share of theta {share.theta} in type {share.values}")
        state, values = self._piece.state(), VALUES[share.values]
        updates = shared_updates(self._manifest, state, self._me, share.round, share.theta, values)
        self._giving.append(self._upload(updates))

    def _upload(self, updates: Iterator[bytes]) -> Iterator[None]:
        for update in updates:
            self._send(shared=pb.Shared(generation=self.number, update=update))
            yield
        self._send(shared=pb.Shared(generation=self.number, last=True))


def _neurons(neurons: pb.Range) -> Neurons:
    return neurons.start, neurons.stop
