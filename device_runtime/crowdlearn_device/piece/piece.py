"""A piece: the neurons a device owns, driven by data.

A stage runs as soon as everything it sums has arrived for its micro-batch; nothing else orders the work, so
micro-batches pipeline by themselves. The last layers, as many as the piece owns whole, are one stage, which
turns round at the loss. Weights change once per mini-batch, after the last micro-batch has gone backward.
With staleness 1 two mini-batches are under way: the later one runs on the newest weights and goes on with
them when the earlier one has updated. So a piece holds two versions of its weights.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from crowdlearn_device.data.dataset import in_shape
from crowdlearn_device.errors import WireError
from crowdlearn_device.optimizers.clipping import clipping, square
from crowdlearn_device.program.executor import Executor
from crowdlearn_device.program.manifest import Manifest
from crowdlearn_device.program.ports import check_ports, turning_layers
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Array
from crowdlearn_device.protocol.schedule import Pass
from crowdlearn_device.protocol.targets import TargetSpec
from crowdlearn_device.state.piece_state import PieceState

from .inbox import Arrivals, Message
from .mini_batch import Call, MiniBatch, Result
from .private_stages import PrivateStages
from .private_steps import Clipping, Factors, PrivateSteps, with_noise
from .routes import Layout, Routes
from .squares import Squares
from .stages import Stages
from .weights import Weights

MOST_EMPTY = 64
"""Steps one after the other for which no samples are drawn, at most: there are never so many."""


class Piece:
    """One device's share of the network during one generation. Nothing here waits, sends or reads a clock."""

    def __init__(
        self,
        manifest: Manifest,
        executor: Executor,
        layout: Layout,
        index: int,
        state: PieceState,
        boundary: int,
        of: Pass,
        learning_rate: float,
        seed: int,
        *,
        at_once: bool = True,
        warmup: int = 0,
        clipping: Clipping | None = None,
    ) -> None:
        """Make a piece at its boundary. `at_once`: mini-batches are one micro-batch each, not only what is
        left of a pass. `warmup` is the number of mini-batches in which the learning rate rises. With
        `clipping` every mini-batch is a step of DP-SGD.
        """
        self.index = index
        self.results: list[Result] = []
        """The results of the mini-batch that updated last."""
        self._pass = of
        self._manifest = manifest
        self._at_once = at_once
        self._steps: dict[int, MiniBatch] = {}
        self._ready: list[Call] = []
        self._next_micro: dict[tuple[int, int], tuple[int, int]] = {}
        """Mini-batch and micro-batch whose turn it is, by purpose and layer."""
        self._last = len(manifest.layers) - 1
        owned = [layer for layer, (a, b) in enumerate(layout[index]) if b > a]
        self._turning = turning_layers(manifest, owned)
        check_ports(manifest, owned, self._turning)
        self._ending = len({self._stage(layer) for layer in owned})
        self._routes = Routes(manifest, layout, index, self._turning)
        self._entering = sum(len(self._routes.incoming[layer]) for layer in self._turning)
        self._weights = Weights(state, manifest, learning_rate, boundary, warmup)
        self._clip = manifest.optimizer.clip_norm
        together = all(edge.taught for edge in manifest.edges) and not self._clip
        self._ahead = 0 if together else 1 + of.staleness
        """The mini-batches that others may be ahead."""
        self._squares = Squares(len(layout), index)
        if not of.staleness:  # else versions come and go
            executor.hold(self._weights.arrays())
        self.private: PrivateSteps | None = None
        """The norms of samples and their clip factors, in steps of DP-SGD."""
        given = manifest, executor, self._routes, self._weights, seed
        if clipping is None:
            self._stages = Stages(*given)
        else:
            self.private = PrivateSteps(clipping, len(layout), index)
            alone = len(layout) == 1 and self._ending == 1
            self._stages = PrivateStages(*given, clipping.clip, alone=alone)

    @property
    def boundary(self) -> int:
        """Return how many mini-batches have updated the piece."""
        return self._weights.boundary

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Return the shape of one sample as the network's input layer takes it."""
        first = self._manifest.layers[0]
        return first.neurons, *first.sum_shape

    @property
    def classes(self) -> int:
        """Return the number of classes that the network distinguishes, or of its outputs."""
        last = self._manifest.layers[self._last]
        return last.sum_shape[-1] if last.sum_shape else last.neurons

    @property
    def targets(self) -> TargetSpec:
        """Return what the loss compares the scores of a sample with."""
        return self._manifest.targets

    @property
    def ready(self) -> bool:
        """Return True if a stage can run now, or the weights be updated."""
        return self._due() is not None or bool(self._runnable())

    def _runnable(self) -> list[Call]:
        """Return those whose turn it is: every layer takes mini-batches and their micro-batches in order."""
        if not self._ready:
            return []
        first, under_way = (self._weights.boundary, 0), self.under_way
        return [
            call
            for call in self._ready
            if call.step in under_way
            and (call.step, call.micro) == max(self._next_micro.get((call.purpose, call.layer), first), first)
        ]

    @property
    def under_way(self) -> range:
        """Return the mini-batches that this piece works on now."""
        return self._pass.under_way(self.boundary)

    @property
    def micros_under_way(self) -> int:
        """Return micro-batches that were fed here and have not come back: to the input layer where it goes
        backward, else to the loss.
        """
        fed = (
            step.labels.keys() | {m for m, layer in step.sums if layer == 0} for step in self._steps.values()
        )
        return sum(map(len, fed))

    @property
    def _awaited(self) -> range:
        """Return the mini-batches of which messages may come: where errors do not go back all the way, the
        dominator goes on while others still go backward; and where gradients are clipped, while others wait
        for norms. Steps for which no samples were drawn wait for nothing.
        """
        ahead, boundary = self._ahead if self.private is None else MOST_EMPTY, self._weights.boundary
        return range(boundary, self._pass.under_way(boundary + ahead).stop)

    def feed(
        self,
        number: int,
        micro: int,
        micros: int,
        rows: int,
        inputs: Array,
        labels: Array,
        weight: float | None = None,
    ) -> None:
        """Enter a micro-batch of the dominator's data: inputs [B, ...], labels as the loss takes them;
        `rows` of the whole mini-batch `number`, which count by `weight` in its mean (None: each as one).
        """
        step = self._step(number, micros, rows)
        step.weight = float(rows) if weight is None else weight
        step.labels[micro] = labels
        step.sums[micro, 0] = np.ascontiguousarray(
            in_shape(inputs, self.sample_shape), self._manifest.layers[0].dtype
        )
        self._ready.append(Call(number, pb.PURPOSE_ACTIVATION, micro, self._stage(0)))

    def feed_nothing(self, number: int) -> None:
        """Enter a mini-batch for which no samples were drawn: a step of noise alone."""
        assert self.private is not None
        self._step(number, 0, 0)
        self.private.end_without_samples(number)

    def _stage(self, layer: int) -> int:
        """Return the layer that names its stage."""
        return self._last if layer in self._turning else layer

    def receive(self, message: Message) -> None:
        """Take partial sums or errors. Raises WireError if they do not fit the piece or were not due."""
        self.check_due(message)
        step = self._step(message.step, message.micros, message.rows)
        layer = step.arrivals.put(message)
        call = Call(message.step, message.purpose, message.micro, self._stage(layer))
        due = self._routes.incoming if message.purpose == pb.PURPOSE_ACTIVATION else self._routes.returning
        missing = self._entering if layer in self._turning else len(due[layer])
        step.waiting[call] = step.waiting.get(call, missing) - 1
        if step.waiting[call] == 0:
            self._ready.append(call)

    def check_due(self, message: Message) -> None:
        """Raise WireError if the message is of a mini-batch that this piece does not wait for."""
        if message.step not in self._awaited:
            raise WireError(f"message of step {message.step} while this piece is at {self.boundary}")
        if not 0 <= message.micro < message.micros <= message.rows:
            raise WireError(f"micro-batch {message.micro} of {message.micros} with {message.rows} rows")

    def _step(self, number: int, micros: int, rows: int) -> MiniBatch:
        step = self._steps.get(number)
        if step is None:
            arrivals = Arrivals(self._manifest, self._routes)
            step = self._steps[number] = MiniBatch(number, micros, rows, arrivals)
        if (step.micros, step.rows) != (micros, rows):
            raise WireError(
                f"step {number} has {step.micros} micro-batches of {step.rows} rows, not {micros} of {rows}"
            )
        return step

    def run(self) -> list[Message]:
        """Run one stage that is ready; what it gives for other pieces. The earliest micro-batch goes first,
        backward before forward. Values may lie in the program's memory: use them before the next run.
        """
        if (due := self._due()) is not None:
            self._apply(due)
            return []
        call = min(self._runnable(), key=lambda c: (-c.purpose, c.step, c.micro, c.layer))
        self._ready.remove(call)
        step, micro, layer = self._steps[call.step], call.micro, call.layer
        following = (call.step, micro + 1) if micro + 1 < step.micros else (call.step + 1, 0)
        self._next_micro[call.purpose, layer] = following
        if call.purpose == pb.PURPOSE_ERROR:
            messages = self._stages.backward(step, micro, layer)
        elif layer == self._last:
            messages = self._stages.turn(step, micro, descend=self._descends(step))
        else:
            messages = self._stages.forward(step, micro, layer)
        outgoing = []
        for message in messages:
            if message.partner == self.index:
                self.receive(replace(message, values=np.array(message.values)))
            else:
                outgoing.append(message)
        if self._done(step):
            if self._clip:
                self._squares.tell(call.step, square(step.gradients.values()))
            if self.private is not None:
                self.private.tell(call.step, step.rows, step.squares)
            if (due := self._due()) is not None:
                self._apply(due)
        return outgoing

    def _done(self, step: MiniBatch) -> bool:
        return step.done == step.micros * self._ending

    def _due(self) -> MiniBatch | None:
        """Return the mini-batch that can update the weights now."""
        step = self._steps.get(self.boundary)
        if self.private is not None:
            rows = self.private.rows(self.boundary)
            if rows == 0 and step is None:
                step = self._step(self.boundary, 0, 0)
            return step if step is not None and rows is not None and self._done(step) else None
        if step is None or not step.done or not self._done(step):
            return None
        return step if not self._clip or self._squares.complete(self.boundary) else None

    def take_squares(self) -> list[tuple[int, float]]:
        """Take what other pieces are to be sent: mini-batches, and the squared norms of own gradients."""
        return self._squares.take_messages()

    def receive_square(self, partner: int, number: int, value: float) -> None:
        """Take the squared norm of another piece's gradients of mini-batch `number`.

        Raises WireError if it was not due.
        """
        if not self._clip or number not in range(self.boundary, self.boundary + 2 + self._pass.staleness):
            raise WireError(f"norm of step {number} while this piece is at {self.boundary}")
        self._squares.put(partner, number, value)

    def _descends(self, step: MiniBatch) -> bool:
        """Return whether one call may go from samples to new weights: nothing else may need the gradients, as
        other micro-batches do, or sharing that ranks weights by them, nor the weights as they were. And no
        other step may go another way: the memory of both would be taken.
        """
        alone = len(self._pass.under_way(step.number)) == 1 and not self._weights.two_versions
        one = self._at_once and step.micros == 1 and alone
        return self._stages.descend and one and not self._weights.ranked

    def _apply(self, step: MiniBatch) -> None:
        ahead = len(self._pass.under_way(step.number)) > 1
        if self.private is not None:
            self._end_private(step, self.private.pop(step.number))
        factor = clipping(self._squares.pop(step.number), self._clip) if self._clip else 1.0
        self._weights.update(step.gradients, ahead=ahead, factor=factor)
        self.results = step.results
        del self._steps[step.number]

    def receive_norm(self, partner: int, norm: pb.Norm) -> None:
        """Take the norms of another piece's samples, or the dominator's factors of them. Raises WireError if
        they were not due.
        """
        if self.private is None or norm.step not in self._awaited:
            raise WireError(f"norms of step {norm.step} while this piece is at {self.boundary}")
        self.private.receive(partner, norm)

    def _end_private(self, step: MiniBatch, ends: Factors) -> None:
        """Leave in a mini-batch the gradients of DP-SGD: clipped, with noise."""
        if len(ends.factors) != step.rows:
            raise WireError(
                f"{len(ends.factors)} clip factors for the {step.rows} samples of step {step.number}"
            )
        if isinstance(self._stages, PrivateStages):
            self._stages.add_clipped(step, ends.factors)
        step.gradients = with_noise(self._manifest, step.gradients, ends)

    def state(self) -> PieceState:
        """Return the piece at its boundary. Only where the pass is drained."""
        return self._weights.state()
