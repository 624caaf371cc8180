"""A piece: the neurons a device owns, driven by data.

A stage runs as soon as everything it sums has arrived for its micro-batch; nothing else orders the work, so
micro-batches pipeline by themselves. The last layers, as many as the piece owns whole, are one stage, which
turns round at the loss. Weights change once per mini-batch, after the last micro-batch has gone backward.
With staleness 1 two mini-batches are under way: the later one runs on the newest weights and goes on with
them when the earlier one has updated, so that a piece holds two versions of its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from . import wire_pb2 as pb
from .arrivals import Arrivals, Message
from .errors import ProgramError, WireError
from .executor import Executor
from .manifest import LOSS, STATE, TRAIN_STEP, Manifest, MethodSpec, Port
from .ports import check_ports
from .routes import Layout, Routes
from .schedule import Pass, dropout_mask
from .state import PieceState
from .weights import Weights
from .wire import Array, Floats


@dataclass(frozen=True)
class Result:
    """What the dominator learns of a micro-batch."""

    micro: int
    rows: int
    loss: float
    correct: int


@dataclass
class _Step:
    """A mini-batch under way; `number` is the boundary before it."""

    number: int
    micros: int
    rows: int
    arrivals: Arrivals
    waiting: dict[tuple[int, int, int], int] = field(default_factory=dict)
    labels: dict[int, Array] = field(default_factory=dict)
    sums: dict[tuple[int, int], Floats] = field(default_factory=dict)
    gradients: dict[str, Floats] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    done: int = 0


_Stage = tuple[int, int, int, int]
"""step, purpose, micro, layer of a stage that can run; the last layer stands for those that turn round with
it.
"""


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
    ) -> None:
        """`at_once`: mini-batches are one micro-batch each, not only what is left of a pass."""
        self.index = index
        self.boundary = boundary
        self.results: list[Result] = []
        """Of the mini-batch that updated last."""
        self._pass = of
        self._manifest = manifest
        self._executor = executor
        self._weights = Weights(state, manifest, learning_rate)
        if not of.staleness:  # else versions come and go
            executor.hold(self._weights.arrays())
        self._seed = seed
        self._at_once = at_once
        self._steps: dict[int, _Step] = {}
        self._ready: list[_Stage] = []
        self._next_micro: dict[tuple[int, int], tuple[int, int]] = {}
        """Mini-batch and micro-batch whose turn it is, by purpose and layer."""
        self._last = len(manifest.layers) - 1
        self._owned = [layer for layer, (a, b) in enumerate(layout[index]) if b > a]
        self._methods = {method.name: method for method in manifest.methods}
        self._turning = [layer for layer in self._owned if f"forward_{layer}" not in self._methods]
        self._check_stages()
        self._routes = Routes(manifest, layout, index, self._turning)
        self._entering = sum(len(self._routes.incoming[layer]) for layer in self._turning)

    def _check_stages(self) -> None:
        """Raises ProgramError where the program cannot train the layers that this piece owns."""
        first = len(self._owned) - len(self._turning)
        due = [f"backward_{layer}" for layer in self._owned[:first]] + [LOSS] * bool(self._turning)
        absent = [name for name in due if name not in self._methods]
        if self._turning != self._owned[first:] or (self._turning and self._turning[-1] != self._last):
            absent = [f"forward_{layer}" for layer in self._turning]
        if absent:
            raise ProgramError(
                f"program {self._manifest.program[:12]} has no {', '.join(absent)}; export it again"
            )
        check_ports(self._manifest, self._owned, self._turning)

    @property
    def ready(self) -> bool:
        """Whether a stage can run now."""
        return bool(self._runnable())

    def _runnable(self) -> list[_Stage]:
        """Stages whose turn it is: every layer takes mini-batches and their micro-batches in order."""
        first = self.boundary, 0
        return [
            stage
            for stage in self._ready
            if stage[0] in self.under_way and stage[::2] == self._next_micro.get(stage[1::2], first)
        ]

    @property
    def under_way(self) -> range:
        """The mini-batches that this piece works on now."""
        return self._pass.under_way(self.boundary)

    @property
    def micros_under_way(self) -> int:
        """Micro-batches that were fed here and have not come back."""
        return sum((micro, 0) in step.sums for step in self._steps.values() for micro in step.labels)

    def feed(self, number: int, micro: int, micros: int, rows: int, inputs: Array, labels: Array) -> None:
        """Enter a micro-batch of the dominator's data: inputs [B, ...], labels int64 [B]; `rows` of the whole
        mini-batch `number`.
        """
        step = self._step(number, micros, rows)
        step.labels[micro] = labels
        shape = (inputs.shape[0], self._manifest.layers[0].neurons, *self._manifest.layers[0].sum_shape)
        step.sums[micro, 0] = np.ascontiguousarray(inputs, np.float32).reshape(shape)
        self._ready.append((number, pb.PURPOSE_ACTIVATION, micro, self._stage(0)))

    def _stage(self, layer: int) -> int:
        """The layer that names its stage."""
        return self._last if layer in self._turning else layer

    def receive(self, message: Message) -> None:
        """Take partial sums or errors. Raises WireError where they do not fit the piece or were not due."""
        if message.step not in self.under_way:
            raise WireError(f"message of step {message.step} while this piece is at {self.boundary}")
        if not 0 <= message.micro < message.micros <= message.rows:
            raise WireError(f"micro-batch {message.micro} of {message.micros} with {message.rows} rows")
        step = self._step(message.step, message.micros, message.rows)
        layer = step.arrivals.put(message)
        stage = (message.purpose, message.micro, self._stage(layer))
        due = self._routes.incoming if message.purpose == pb.PURPOSE_ACTIVATION else self._routes.outgoing
        missing = self._entering if layer in self._turning else len(due[layer])
        step.waiting[stage] = step.waiting.get(stage, missing) - 1
        if step.waiting[stage] == 0:
            self._ready.append((message.step, *stage))

    def _step(self, number: int, micros: int, rows: int) -> _Step:
        new = _Step(number, micros, rows, Arrivals(self._manifest, self._routes))
        step = self._steps.setdefault(number, new)
        if (step.micros, step.rows) != (micros, rows):
            raise WireError(
                f"step {number} has {step.micros} micro-batches of {step.rows} rows, not {micros} of {rows}"
            )
        return step

    def run(self) -> list[Message]:
        """Run one stage that is ready; what it gives for other pieces. The earliest micro-batch goes first,
        backward before forward. Values may lie in the program's memory: use them before the next run.
        """
        stage = min(self._runnable(), key=lambda s: (-s[1], s[0], s[2], s[3]))
        self._ready.remove(stage)
        number, purpose, micro, layer = stage
        step = self._steps[number]
        following = (number, micro + 1) if micro + 1 < step.micros else (number + 1, 0)
        self._next_micro[purpose, layer] = following
        if purpose == pb.PURPOSE_ERROR:
            messages = self._backward(step, micro, layer)
        elif layer == self._last:
            messages = self._turn(step, micro)
        else:
            messages = self._forward(step, micro, layer)
        outgoing = []
        for message in messages:
            if message.partner == self.index:
                self.receive(replace(message, values=np.array(message.values)))
            else:
                outgoing.append(message)
        if step.done == step.micros * len({self._stage(layer) for layer in self._owned}):
            self._apply(step)
        return outgoing

    def _call(
        self, step: _Step, method: MethodSpec, given: Mapping[tuple[str, int], Array]
    ) -> list[tuple[Port, Array]]:
        stale = step.number == self.boundary
        inputs = []
        for port in method.inputs:
            if port.role in STATE:
                inputs.append(self._weights.given(port, stale=stale))
            else:
                inputs.append(given[port.role, port.edge if port.role == "error" else port.layer])
        outputs = self._executor.run(method.name, inputs, borrowed=True)
        if len(outputs) != len(method.outputs):
            raise ProgramError(
                f"method {method.name} gave {len(outputs)} arrays, its manifest says {len(method.outputs)}; "
                "export it again"
            )
        return list(zip(method.outputs, outputs, strict=True))

    def _mask(self, step: int, micro: int, layer: int, rows: int) -> Floats:
        spec = self._manifest.layers[layer]
        a, b = self._routes.neurons[layer]
        mask = dropout_mask(
            rows, spec.neurons, spec.dropout, seed=self._seed, step=step, micro=micro, layer=layer
        )
        return np.ascontiguousarray(mask[:, a:b]).reshape(rows, b - a, *(1 for _ in spec.sum_shape))

    def _given(self, step: _Step, sums: Floats, micro: int, layer: int) -> dict[tuple[str, int], Array]:
        given: dict[tuple[str, int], Array] = {("sum", layer): sums}
        if self._manifest.layers[layer].dropout:
            given["mask", layer] = self._mask(step.number, micro, layer, sums.shape[0])
        return given

    def _forward(self, step: _Step, micro: int, layer: int) -> list[Message]:
        sums = step.sums[micro, 0] if layer == 0 else step.arrivals.sums(micro, layer)
        step.sums[micro, layer] = sums
        messages = []
        given = self._given(step, sums, micro, layer)
        for port, values in self._call(step, self._methods[f"forward_{layer}"], given):
            if port.role == "buffer":
                self._weights.keep(port, values)
                continue
            edge = self._manifest.edges[port.edge]
            first = self._routes.neurons[layer][0] if edge.matched else 0
            for e, partner in self._routes.outgoing[layer]:
                if e == port.edge:
                    a, b = self._routes.leaving(edge, partner)
                    messages.append(
                        self._message(
                            step, partner, pb.PURPOSE_ACTIVATION, micro, e, values[:, a - first : b - first]
                        )
                    )
        return messages

    def _turn(self, step: _Step, micro: int) -> list[Message]:
        """Run the layers that end in the loss, forward and backward; where that is a whole training step, SGD
        with them.
        """
        labels = step.labels.get(micro)
        if labels is None:
            raise WireError(f"sums of micro-batch {micro} came before it was fed")
        given: dict[tuple[str, int], Array] = {
            ("labels", -1): labels,
            ("scale", -1): np.array(1.0 / step.rows, np.float32),
            ("rate", -1): np.array(self._weights.rate),
        }
        for layer in self._turning:
            if layer == 0:
                given["sum", 0] = step.sums.pop((micro, 0))
            elif self._routes.incoming[layer]:
                sums = given["sum", layer] = step.arrivals.sums(micro, layer)
                if labels.shape[0] != sums.shape[0]:
                    raise WireError(
                        f"sums of {sums.shape[0]} samples came back for a micro-batch of {labels.shape[0]}"
                    )
            if self._manifest.layers[layer].dropout:
                given["mask", layer] = self._mask(step.number, micro, layer, labels.shape[0])
        method = self._methods[TRAIN_STEP if self._steps_at_once(step) else LOSS]
        messages: list[Message] = []
        loss, correct = 0.0, 0
        for port, values in self._call(step, method, given):
            if port.role == "loss":
                loss = float(np.asarray(values, np.float32).reshape(())) * step.rows / labels.shape[0]
            elif port.role == "logits":
                correct = int((values.argmax(axis=1) == labels).sum())
            elif port.role == "buffer":
                self._weights.keep(port, values)
            else:
                messages += self._learn(step, micro, port.layer, port, values)
        step.results.append(Result(micro, labels.shape[0], loss, correct))
        step.done += 1
        return messages

    def _steps_at_once(self, step: _Step) -> bool:
        """Whether one call may go from samples to new weights: nothing else may need the gradients, as other
        micro-batches do, or sharing that ranks weights by them, nor the weights as they were. And no other
        step may go another way: the memory of both would be taken.
        """
        alone = len(self._pass.under_way(step.number)) == 1 and not self._weights.two_versions
        one = self._at_once and step.micros == 1 and alone
        return TRAIN_STEP in self._methods and one and not self._weights.ranked

    def _backward(self, step: _Step, micro: int, layer: int) -> list[Message]:
        entered = step.sums.pop((micro, layer), None)
        if entered is None:
            raise WireError(f"errors of micro-batch {micro} at layer {layer} came before its sums")
        given = self._given(step, entered, micro, layer)
        for e in sorted({e for e, _ in self._routes.outgoing[layer]}):
            given["error", e] = step.arrivals.errors(micro, layer, e)
        messages: list[Message] = []
        for port, values in self._call(step, self._methods[f"backward_{layer}"], given):
            messages += self._learn(step, micro, layer, port, values)
        step.done += 1
        return messages

    def _learn(self, step: _Step, micro: int, layer: int, port: Port, values: Array) -> list[Message]:
        """Keep a gradient, or send an error back to everyone who was summed."""
        if port.role == "gradient":
            known = step.gradients.get(port.name)
            if known is None:
                step.gradients[port.name] = np.array(values, np.float32)
            else:
                known += values
            return []
        start = self._routes.neurons[layer][0]
        messages = []
        for e, partner in self._routes.incoming[layer]:
            a, b = self._routes.entering(self._manifest.edges[e], partner)
            messages.append(
                self._message(step, partner, pb.PURPOSE_ERROR, micro, e, values[:, a - start : b - start])
            )
        return messages

    def _message(
        self, step: _Step, partner: int, purpose: pb.Purpose, micro: int, edge: int, values: Array
    ) -> Message:
        return Message(partner, purpose, step.number, micro, step.micros, step.rows, edge, values)

    def _apply(self, step: _Step) -> None:
        ahead = len(self._pass.under_way(step.number)) > 1
        self._weights.update(step.gradients, ahead=ahead)
        self.results = step.results
        del self._steps[step.number]
        self.boundary += 1

    def state(self) -> PieceState:
        """The piece at its boundary. Only where the pass is drained."""
        return self._weights.state()
