"""The pass of a piece in the clear or under masks: sums and errors in and out."""

from __future__ import annotations

from collections.abc import Callable

from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.errors import WireError
from crowdlearn_device.piece.inbox import Message
from crowdlearn_device.piece.masking import Masking
from crowdlearn_device.piece.private_steps import most_rows
from crowdlearn_device.piece.rounding import Rounding
from crowdlearn_device.privacy.masked import decode_words, encode_words
from crowdlearn_device.privacy.tap import Kind
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import decode_message, decode_tensor, encode_tensor
from crowdlearn_device.protocol.schedule import micro_batches
from crowdlearn_device.state.piece_state import PieceState

from .base import Assigned, Deliver, Results, Role
from .work import Work


class PiecePass(Role):
    """A piece whose sums and errors travel as they are, or under masks."""

    def __init__(self, assigned: Assigned) -> None:
        assign, manifest, training = assigned.assign, assigned.manifest, assigned.assign.training
        self._assign = assign
        self.work = Work(assigned)
        self._rounding = Rounding(self.work.order_seed, assign.piece)
        self._masking = None
        if training.masked:
            self._masking = Masking(
                manifest, assigned.layout, assign.piece, training.masked, assigned.common_key
            )
        # Everything waits for what turns round at the loss, and that is the shortest there is.
        self._express = [edge.target == len(manifest.layers) - 1 for edge in manifest.edges]
        self._edges = manifest.edges
        self._others = [piece for piece in range(len(assigned.layout)) if piece != assign.piece]

    @property
    def ready(self) -> bool:
        return self.work.ready

    @property
    def boundary(self) -> int:
        return self.work.piece.boundary

    def state(self) -> PieceState:
        return self.work.piece.state()

    def go(self, data: Callable[[], Dataset], device: int) -> Results:
        self.work.go(data, device)
        return ()

    def receive(self, partner: int, purpose: pb.Purpose, content: bytes) -> Results:
        piece = self.work.piece
        if purpose == pb.PURPOSE_NORM:
            norm = decode_message(pb.Norm, content)
            if piece.private is None:
                piece.receive_square(partner, norm.step, norm.square)
            else:
                piece.receive_norm(partner, norm)
            return ()
        sums = decode_message(pb.Sums, content)
        training, forward = self._assign.training, purpose == pb.PURPOSE_ACTIVATION
        masked = self._masking if forward and self._masks(sums.edge) else None
        values = decode_tensor(sums.values) if masked is None else decode_words(sums.values)
        micros = []
        if sums.rows <= most_rows(training):
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
            piece.check_due(message)
            self._hear("masked", message)
            messages = masked.arrived(message)
        for number, each in enumerate(messages):
            if number == 0:
                self._hear("sums" if forward else "errors", each)
            piece.receive(each)
        return ()

    def _masks(self, edge: int) -> bool:
        """Return whether sums for this piece travel masked on an edge."""
        return self._masking is not None and bool(self._masking.senders(edge, self._assign.piece))

    def _hear(self, kind: Kind, message: Message) -> None:
        step, micro, edge, partner = message.step, message.micro, message.edge, message.partner
        self.work.record(kind, message.values, boundary=step, micro=micro, edge=edge, partner=partner)

    def run(self) -> Results:
        work = self.work
        yield from self._norms()
        step = work.step()
        if step is None:
            return
        for message in step.messages:
            yield self._sent(message)
        yield from self._norms()
        for number, square in work.piece.take_squares():
            content = pb.Norm(step=number, square=square).SerializeToString()
            for partner in self._others:
                yield Deliver(partner, pb.PURPOSE_NORM, content, express=True)
        if step.updated:
            yield from work.updated()

    def _norms(self) -> Results:
        """Yield norms of samples, or their clip factors, that wait to be sent."""
        private = self.work.piece.private
        for partner, norm in private.take_messages() if private is not None else ():
            yield Deliver(partner, pb.PURPOSE_NORM, norm.SerializeToString(), express=True)

    def _sent(self, message: Message) -> Deliver:
        """Return a message as it travels."""
        try:
            values = self._encoded(message)
        except WireError as error:
            raise WireError(f"{self._described(message)} at step {message.step}: {error}") from error
        sums = pb.Sums(
            step=message.step,
            micro=message.micro,
            edge=message.edge,
            micros=message.micros,
            rows=message.rows,
            values=values,
        )
        content = sums.SerializeToString()
        return Deliver(message.partner, message.purpose, content, self._express[message.edge])

    def _encoded(self, message: Message) -> pb.Tensor:
        """Return values as they travel: masked if the run requires that, else in the wire's dtype."""
        words = self._masking.leaving(message) if self._masking is not None else None
        if words is not None:
            return encode_words(words)
        wire = self._assign.training.wire
        return encode_tensor(message.values, wire, self._rounding.of(message) if wire == pb.INT8 else None)

    def _described(self, message: Message) -> str:
        """Return a message in words."""
        kind = "sums" if message.purpose == pb.PURPOSE_ACTIVATION else "errors"
        edge = self._edges[message.edge]
        return f"{kind} of layers {edge.source} to {edge.target}, piece {self._assign.piece}"
