"""A piece in its pass, with the dominator's samples if it is that device's turn: the common part of roles."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.errors import WireError
from crowdlearn_device.piece.dominator import Dominator
from crowdlearn_device.piece.inbox import Message
from crowdlearn_device.piece.piece import Piece
from crowdlearn_device.piece.private_steps import clipping_of
from crowdlearn_device.privacy.mechanisms.base import SumsPlace
from crowdlearn_device.privacy.tap import Kind, Record
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Array
from crowdlearn_device.protocol.schedule import STALENESS, Pass

from .base import Applied, Assigned, Drained, Results


@dataclass(slots=True)
class Step:
    """A stage that ran: its messages as they leave the chain of mechanisms, and whether weights are new."""

    messages: Sequence[Message]
    updated: bool


class Work:
    """The work of a piece: stages one by one, samples fed, mini-batches and boundaries told."""

    def __init__(self, assigned: Assigned) -> None:
        assign, manifest, state = assigned.assign, assigned.manifest, assigned.state
        training = assign.training
        self._assign = assign
        self._outgoing = assigned.outgoing
        self.tap = assigned.outgoing.tap
        self._pass = Pass(
            assign.pass_boundary, assign.pass_end, max(1, training.snapshot_every), training.staleness
        )
        if training.staleness not in STALENESS:
            raise WireError(f"staleness {training.staleness}; this device supports {STALENESS}")
        if not training.batch or not training.micro_batch:
            raise WireError(f"mini-batches of {training.batch} in micro-batches of {training.micro_batch}")
        drawn = training.secret_order and assign.piece == 0
        self.order_seed = assigned.secret if drawn else training.seed
        """The seed of the order of samples, and of rounding."""
        self.piece = Piece(
            manifest,
            assigned.executor,
            assigned.layout,
            assign.piece,
            state,
            assign.boundary,
            self._pass,
            training.learning_rate,
            training.seed,
            at_once=training.batch <= training.micro_batch,
            warmup=training.warmup,
            clipping=clipping_of(training, manifest),
        )
        self._dominator: Dominator | None = None
        self._busy = 0.0
        for arrays in state.layers.values() if self.tap else ():
            for name, values in arrays.items():
                if name.startswith("value/"):
                    self.record("weights", np.array(values), name=name.removeprefix("value/"))

    @property
    def ready(self) -> bool:
        """Return True if a stage can run now, or a micro-batch be fed."""
        return self.piece.ready or (self._dominator is not None and self._dominator.may_feed)

    def go(self, data: Callable[[], Dataset], device: int) -> None:
        """Begin: the dominator's `device` feeds its data."""
        if self._dominator is not None:
            raise WireError("go came twice")
        if self._assign.piece == 0:
            self._dominator = Dominator(
                self.piece,
                data(),
                self._pass,
                self._assign,
                device,
                self.order_seed,
                self._fed if self.tap else None,
            )

    def _fed(self, number: int, micro: int, rows: Array) -> None:
        self.record("fed", rows, boundary=number, micro=micro)

    def step(self) -> Step | None:
        """Feed a micro-batch if it is time, and run a stage; None if none can run."""
        piece = self.piece
        if self._dominator is not None:
            self._dominator.feed()
        if not piece.ready:
            return None
        before, started = piece.boundary, time.perf_counter()
        messages = piece.run()
        self._busy += time.perf_counter() - started
        if not self._outgoing.is_empty:
            messages = [self._leaving(message) for message in messages]
        return Step(messages, piece.boundary != before)

    def _leaving(self, message: Message) -> Message:
        """Return a message as it leaves the chain of mechanisms."""
        kind: Literal["sums", "errors"] = "sums" if message.purpose == pb.PURPOSE_ACTIVATION else "errors"
        at = SumsPlace(kind, message.step, message.micro, message.edge, message.partner)
        values = self._outgoing.sums(message.values, at)
        return message if values is message.values else replace(message, values=values)

    def updated(self) -> Results:
        """Yield what a mini-batch gave, and the piece if no other one is under way."""
        if self._dominator is not None:
            metrics = self._dominator.metrics()
            progress = pb.Progress(boundary=self.piece.boundary, rows=metrics.rows, pass_done=metrics.last)
            left = self._outgoing.metrics(metrics) if self.piece.private is None else None
            if left is not None:
                progress.metrics.CopyFrom(
                    pb.Metrics(rows=left.rows, loss=left.loss, correct=left.correct, own=left.own)
                )
            yield Applied(progress)
        if self._pass.drained(self.piece.boundary):
            yield Drained(self.piece.boundary, self.piece.state(), self._busy)
            self._busy = 0.0

    def record(
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
        if self.tap is not None:
            at = self._assign.boundary if boundary is None else boundary
            of = self._assign.generation, self._assign.epoch
            piece = self._assign.piece
            self.tap.record(Record(kind, values, *of, at, micro, edge, partner, piece, name))
