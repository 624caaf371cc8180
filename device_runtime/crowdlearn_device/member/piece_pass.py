"""The work of a piece in its pass: sums and errors in and out, and a drained boundary now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.errors import WireError
from crowdlearn_device.piece.dominator import Dominator
from crowdlearn_device.piece.inbox import Message
from crowdlearn_device.piece.masking import Masking
from crowdlearn_device.piece.piece import Piece
from crowdlearn_device.piece.rounding import Rounding
from crowdlearn_device.piece.routes import Layout
from crowdlearn_device.privacy.masked import decode_words, encode_words
from crowdlearn_device.privacy.mechanisms.base import SumsPlace
from crowdlearn_device.privacy.mechanisms.outgoing import Outgoing
from crowdlearn_device.privacy.tap import Kind, Record
from crowdlearn_device.program.executor import Executor
from crowdlearn_device.program.manifest import Manifest
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Array, decode_message, decode_tensor, encode_tensor
from crowdlearn_device.protocol.schedule import STALENESS, Pass, micro_batches
from crowdlearn_device.state.piece_state import PieceState


class Surroundings(Protocol):
    """The receivers of the work's results."""

    def deliver(self, piece: int, purpose: pb.Purpose, content: bytes, *, express: bool) -> None:
        """Seal sums or errors, and send them to the holder of a piece."""

    def common_key(self, piece: int) -> bytes:
        """Return the key, 32 bytes, that only the holder of `piece` knows, too."""

    def tell(self, progress: pb.Progress) -> None:
        """Tell the server what a mini-batch gave."""

    def hold(self, boundary: int, state: PieceState, busy: float) -> None:
        """Keep the piece as it is at a drained boundary, after so many seconds of computing."""


@dataclass(frozen=True)
class Assigned:
    """An assignment with all that its piece works by. `secret` is the device's own: order and rounding of a
    dominator come from it if the run requires that.
    """

    assign: pb.Assign
    manifest: Manifest
    executor: Executor
    layout: Layout
    state: PieceState
    around: Surroundings
    outgoing: Outgoing
    secret: int = 0


class PiecePass:
    """A piece, and the dominator's samples where it is that device's turn. Raises DeviceError if the
    assignment or a message is refused.
    """

    def __init__(self, assigned: Assigned) -> None:
        assign, manifest, state = assigned.assign, assigned.manifest, assigned.state
        training = assign.training
        self._assign = assign
        self._around = assigned.around
        self._outgoing = assigned.outgoing
        self._tap = tap = assigned.outgoing.tap
        self._pass = Pass(
            assign.pass_boundary, assign.pass_end, max(1, training.snapshot_every), training.staleness
        )
        if training.staleness not in STALENESS:
            raise WireError(f"staleness {training.staleness}; this device supports {STALENESS}")
        if not training.batch or not training.micro_batch:
            raise WireError(f"mini-batches of {training.batch} in micro-batches of {training.micro_batch}")
        rate, seed = training.learning_rate, training.seed
        drawn = training.secret_order and assign.piece == 0
        self._order_seed = assigned.secret if drawn else seed
        self._rounding = Rounding(self._order_seed, assign.piece)
        self._piece = Piece(
            manifest,
            assigned.executor,
            assigned.layout,
            assign.piece,
            state,
            assign.boundary,
            self._pass,
            rate,
            seed,
            at_once=training.batch <= training.micro_batch,
            warmup=training.warmup,
        )
        self._masking = None
        if training.masked:
            self._masking = Masking(
                manifest, assigned.layout, assign.piece, training.masked, assigned.around.common_key
            )
        # Everything waits for what turns round at the loss, and that is the shortest there is.
        self._express = [edge.target == len(manifest.layers) - 1 for edge in manifest.edges]
        self._edges = manifest.edges
        self._others = [piece for piece in range(len(assigned.layout)) if piece != assign.piece]
        self._dominator: Dominator | None = None
        self._busy = 0.0
        for arrays in state.layers.values() if tap else ():
            for name, values in arrays.items():
                if name.startswith("value/"):
                    self._record("weights", np.array(values), name=name.removeprefix("value/"))

    @property
    def ready(self) -> bool:
        """Return True if a stage can run now, or a micro-batch be fed."""
        return self._piece.ready or (self._dominator is not None and self._dominator.may_feed)

    @property
    def boundary(self) -> int:
        """Return the mini-batches that are applied."""
        return self._piece.boundary

    def state(self) -> PieceState:
        """Return the piece at a drained boundary."""
        return self._piece.state()

    def go(self, data: Callable[[], Dataset], device: int) -> None:
        """Begin: the dominator's `device` feeds its data."""
        if self._dominator is not None:
            raise WireError("go came twice")
        if self._assign.piece == 0:
            self._dominator = Dominator(
                self._piece,
                data(),
                self._pass,
                self._assign,
                device,
                self._order_seed,
                self._fed if self._tap else None,
            )

    def receive(self, partner: int, purpose: pb.Purpose, content: bytes) -> None:
        """Take the opened sums or errors of a partner piece: these bytes have not been checked before."""
        if purpose == pb.PURPOSE_NORM:
            norm = decode_message(pb.Norm, content)
            self._piece.receive_square(partner, norm.step, norm.square)
            return
        sums = decode_message(pb.Sums, content)
        training, forward = self._assign.training, purpose == pb.PURPOSE_ACTIVATION
        masked = self._masking if forward and self._masks(sums.edge) else None
        values = decode_tensor(sums.values) if masked is None else decode_words(sums.values)
        micros = []
        if sums.rows <= training.batch + 1:  # a last sample may have joined
            micros = micro_batches(sums.rows, training.micro_batch, training.least_rows)
        if len(micros) != sums.micros or sums.micro >= sums.micros:
            raise WireError(f"micro-batch {sums.micro} of {sums.micros} with {sums.rows} rows")
        if values.shape[:1] != (len(micros[sums.micro]),):
            raise WireError(
                f"values of shape {values.shape} for the {len(micros[sums.micro])} rows of a micro-batch"
            )
        place = sums.step, sums.micro, sums.micros, sums.rows, sums.edge
        message = Message(partner, purpose, *place, values)
        messages = [message]
        if masked is not None:
            self._piece.check_due(message)
            self._hear("masked", message)
            messages = masked.arrived(message)
        for number, each in enumerate(messages):
            if number == 0:
                self._hear("sums" if forward else "errors", each)
            self._piece.receive(each)

    def _masks(self, edge: int) -> bool:
        """Return whether sums for this piece travel masked on an edge."""
        return self._masking is not None and bool(self._masking.senders(edge, self._assign.piece))

    def _hear(self, kind: Kind, message: Message) -> None:
        step, micro, edge, partner = message.step, message.micro, message.edge, message.partner
        self._record(kind, message.values, boundary=step, micro=micro, edge=edge, partner=partner)

    def _record(
        self,
        kind: Kind,
        values: Array,
        *,
        boundary: int | None = None,
        micro: int = 0,
        edge: int = -1,
        partner: int = -1,
        name: str = "",
    ) -> None:
        if self._tap is not None:
            at = self._assign.boundary if boundary is None else boundary
            of = self._assign.generation, self._assign.epoch
            piece = self._assign.piece
            self._tap.record(Record(kind, values, *of, at, micro, edge, partner, piece, name))

    def _fed(self, number: int, micro: int, rows: Array) -> None:
        self._record("fed", rows, boundary=number, micro=micro)

    def run(self) -> bool:
        """Run a stage, or feed a micro-batch; False if there is nothing to do."""
        piece = self._piece
        fed = self._dominator is not None and self._dominator.feed()
        if not piece.ready:
            return fed
        before, started = piece.boundary, time.perf_counter()
        messages = piece.run()
        self._busy += time.perf_counter() - started
        self._send([self._leaving(message) for message in messages])
        for number, square in piece.told_squares():
            content = pb.Norm(step=number, square=square).SerializeToString()
            for partner in self._others:
                self._around.deliver(partner, pb.PURPOSE_NORM, content, express=True)
        if piece.boundary != before:
            self._updated()
        return True

    def _leaving(self, message: Message) -> Message:
        """Return a message as it leaves the chain of mechanisms."""
        kind: Literal["sums", "errors"] = "sums" if message.purpose == pb.PURPOSE_ACTIVATION else "errors"
        at = SumsPlace(kind, message.step, message.micro, message.edge, message.partner)
        values = self._outgoing.sums(message.values, at)
        return message if values is message.values else replace(message, values=values)

    def _encoded(self, message: Message) -> pb.Tensor:
        """Return values as they travel: masked if the run requires that, else in the wire's dtype."""
        words = self._masking.leaving(message) if self._masking is not None else None
        if words is not None:
            return encode_words(words)
        wire = self._assign.training.wire
        return encode_tensor(message.values, wire, self._rounding.of(message) if wire == pb.INT8 else None)

    def _send(self, messages: Sequence[Message]) -> None:
        for message in messages:
            try:
                values = self._encoded(message)
            except WireError as error:
                raise WireError(f"{self._told(message)} at step {message.step}: {error}") from error
            sums = pb.Sums(
                step=message.step,
                micro=message.micro,
                edge=message.edge,
                micros=message.micros,
                rows=message.rows,
                values=values,
            )
            content = sums.SerializeToString()
            self._around.deliver(
                message.partner, message.purpose, content, express=self._express[message.edge]
            )

    def _told(self, message: Message) -> str:
        """Return a message in words."""
        kind = "sums" if message.purpose == pb.PURPOSE_ACTIVATION else "errors"
        edge = self._edges[message.edge]
        return f"{kind} of layers {edge.source} to {edge.target}, piece {self._assign.piece}"

    def _updated(self) -> None:
        if self._dominator is not None:
            told = self._dominator.metrics()
            progress = pb.Progress(boundary=self._piece.boundary, rows=told.rows, pass_done=told.last)
            if (left := self._outgoing.metrics(told)) is not None:
                progress.metrics.CopyFrom(pb.Metrics(rows=left.rows, loss=left.loss, correct=left.correct))
            self._around.tell(progress)
        if self._pass.drained(self._piece.boundary):
            self._around.hold(self._piece.boundary, self._piece.state(), self._busy)
            self._busy = 0.0
