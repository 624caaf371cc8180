"""The stages of a piece: each is one call of its program, forward, backward, or turning round at the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

import numpy as np

from crowdlearn_device.errors import ProgramError, WireError
from crowdlearn_device.program.executor import Executor
from crowdlearn_device.program.manifest import HELD, LOSS, METRICS, TRAIN_STEP, Manifest, Port
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Array, Floats
from crowdlearn_device.protocol.schedule import dropout_mask
from crowdlearn_device.protocol.targets import IGNORED

from .inbox import Message
from .mini_batch import MiniBatch, Result
from .routes import Routes
from .weights import Weights

SMALL = 1e-12
"""A divisor in place of 0, if no sample counts."""
LEARNED = ("gradient", "square")
"""The roles of outputs by which weights are learned: by array; the squared norms of samples' have no name."""
ByPort = dict[tuple[str, int], Array]
"""The inputs of a method beside weights: by role, and by layer or, of errors, by edge."""


class Stages:
    """The methods of a piece's program. They take what has arrived for a micro-batch, keep its gradients, and
    make messages for all partners, of whom the piece itself is one. Values may lie in the program's memory.
    """

    def __init__(
        self, manifest: Manifest, executor: Executor, routes: Routes, weights: Weights, seed: int
    ) -> None:
        self._manifest = manifest
        self._methods = {method.name: method for method in manifest.methods}
        self._due = {
            method.name: [
                None if port.role == "loss" else tuple(None if size == "B" else size for size in port.shape)
                for port in method.outputs
            ]
            for method in manifest.methods
        }
        """The shapes of outputs by method: None for any number of rows; for all of the loss's shape."""
        self._executor = executor
        self._routes = routes
        self._weights = weights
        self._seed = seed

    @property
    def descend(self) -> bool:
        """Return True if a call can go from samples to new weights."""
        return TRAIN_STEP in self._methods

    def forward(self, step: MiniBatch, micro: int, layer: int) -> list[Message]:
        """Compute from a layer's sums those that it gives on its edges."""
        sums = step.sums.pop((micro, 0)) if layer == 0 else step.arrivals.sums(micro, layer)
        if self._routes.returning[layer]:
            step.sums[micro, layer] = sums
        else:
            step.done += 1
        messages = []
        for port, values in self._call(step, f"forward_{layer}", self._entered(step, sums, micro, layer)):
            if port.role == "buffer":
                self._weights.keep(port, values)
                continue
            edge = self._manifest.edges[port.edge]
            first = self._routes.neurons[layer][0] if edge.matched else 0
            for e, partner in self._routes.outgoing[layer]:
                if e == port.edge:
                    a, b = self._routes.leaving(edge, partner)
                    part = values[:, a - first : b - first]
                    messages.append(_message(step, partner, pb.PURPOSE_ACTIVATION, micro, e, part))
        return messages

    def turn(self, step: MiniBatch, micro: int, *, descend: bool) -> list[Message]:
        """Run the layers that end in the loss, forward and backward; `descend`: the optimizer's step, too."""
        labels = step.labels.pop(micro, None)
        if labels is None:
            raise WireError(f"sums of micro-batch {micro} came before it was fed")
        by_port: ByPort = {
            ("labels", -1): labels,
            ("scale", -1): np.array(1.0 / max(step.weight, SMALL), np.float32),
            **self._clipping(len(labels)),
        }
        for layer in self._routes.turning:
            if layer == 0:
                by_port["sum", 0] = step.sums.pop((micro, 0))
            elif self._routes.incoming[layer]:
                sums = by_port["sum", layer] = step.arrivals.sums(micro, layer)
                if labels.shape[0] != sums.shape[0]:
                    raise WireError(
                        f"sums of {sums.shape[0]} samples came back for a micro-batch of {labels.shape[0]}"
                    )
            if self._manifest.layers[layer].dropout:
                by_port["mask", layer] = self._mask(step.number, micro, layer, labels.shape[0])
        messages: list[Message] = []
        gradients: dict[str, Array] = {}
        loss, correct, own = 0.0, 0, dict[str, float]()
        for port, values in self._call(step, TRAIN_STEP if descend else LOSS, by_port):
            if port.role == "loss":
                share = self._manifest.targets.weight(labels) / max(step.weight, SMALL)
                loss = float(np.asarray(values, np.float32).reshape(())) / max(share, SMALL)
            elif port.role == "logits":
                scores = np.array(values) if METRICS in self._methods else values
                if self._manifest.targets.are_classes:
                    right = values.argmax(axis=-1) == labels
                    counted = right[labels != IGNORED]
                    correct = round(len(labels) * float(counted.mean())) if counted.size else 0
            elif port.role == "buffer":
                self._weights.keep(port, values)
            elif port.role in LEARNED:
                gradients[port.name] = values
            else:
                messages += self._errors(step, micro, port, values)
        self._learn_weights(step, micro, LOSS, by_port, gradients)
        if METRICS in self._methods:
            # Another call of the program writes over what the last one gave.
            messages = [replace(message, values=np.array(message.values)) for message in messages]
            found = self._call(step, METRICS, {("logits", -1): scores, ("labels", -1): labels})
            own = {port.name: float(values.mean(dtype=np.float64)) for port, values in found}
        step.results.append(Result(micro, labels.shape[0], loss, correct, own))
        step.done += 1
        return messages

    def backward(self, step: MiniBatch, micro: int, layer: int) -> list[Message]:
        """Compute from the errors on a layer's edges its gradients and the errors of its sums."""
        entered = step.sums.pop((micro, layer), None)
        if entered is None:
            raise WireError(f"errors of micro-batch {micro} at layer {layer} came before its sums")
        by_port = self._entered(step, entered, micro, layer)
        for e in sorted({e for e, _ in self._routes.returning[layer]}):
            by_port["error", e] = step.arrivals.errors(micro, layer, e)
        messages: list[Message] = []
        gradients: dict[str, Array] = {}
        for port, values in self._call(step, f"backward_{layer}", by_port):
            if port.role in LEARNED:
                gradients[port.name] = values
            else:
                messages += self._errors(step, micro, port, values)
        self._learn_weights(step, micro, f"backward_{layer}", by_port, gradients)
        step.done += 1
        return messages

    def _entered(self, step: MiniBatch, sums: Floats, micro: int, layer: int) -> ByPort:
        by_port: ByPort = {("sum", layer): sums}
        if self._manifest.layers[layer].dropout:
            by_port["mask", layer] = self._mask(step.number, micro, layer, sums.shape[0])
        return by_port

    def _mask(self, step: int, micro: int, layer: int, rows: int) -> Floats:
        spec = self._manifest.layers[layer]
        a, b = self._routes.neurons[layer]
        numbers = spec.neurons * prod(spec.dropped)
        mask = dropout_mask(rows, numbers, spec.dropout, seed=self._seed, step=step, micro=micro, layer=layer)
        each = spec.dropped or tuple(1 for _ in spec.sum_shape)
        return np.ascontiguousarray(mask.reshape(rows, spec.neurons, *each)[:, a:b])

    def _call(
        self, step: MiniBatch, name: str, by_port: Mapping[tuple[str, int], Array]
    ) -> list[tuple[Port, Array]]:
        method = self._methods[name]
        inputs = []
        for port in method.inputs:
            if port.role in HELD:
                inputs.append(self._weights.at_port(port, step.number))
            elif port.role == "rate":
                inputs.append(np.array(self._weights.numbers[port.name]))
            else:
                inputs.append(by_port[port.role, port.edge if port.role == "error" else port.layer])
        outputs = self._executor.run(name, inputs, borrowed=True)
        if len(outputs) != len(method.outputs):
            raise ProgramError(
                f"method {name} gave {len(outputs)} arrays, its manifest has {len(method.outputs)}; "
                "export it again"
            )
        for port, values, due in zip(method.outputs, outputs, self._due[name], strict=True):
            if due is None or due == values.shape:
                continue
            if len(due) != values.ndim or any(
                size not in (None, is_) for size, is_ in zip(due, values.shape, strict=True)
            ):
                raise ProgramError(
                    f"method {name} gave {port.role} of shape {values.shape}, its manifest has {port.shape}"
                    "; export it again"
                )
        return list(zip(method.outputs, outputs, strict=True))

    def _clipping(self, rows: int) -> ByPort:
        """Return the inputs by which a method clips the gradients of its samples: of plain steps none."""
        return {}

    def _learn_weights(
        self, step: MiniBatch, micro: int, method: str, by_port: ByPort, gradients: Mapping[str, Array]
    ) -> None:
        """Keep the gradients that a call of `method` with these inputs gave."""
        for name, values in gradients.items():
            known = step.gradients.get(name)
            if known is None:
                step.gradients[name] = np.array(values, np.float32)
            else:
                known += values

    def _errors(self, step: MiniBatch, micro: int, port: Port, values: Array) -> list[Message]:
        """Send an error back to every piece that was summed."""
        start = self._routes.neurons[port.layer][0]
        messages = []
        for e, partner in self._routes.answered[port.layer]:
            a, b = self._routes.entering(self._manifest.edges[e], partner)
            part = values[:, a - start : b - start]
            messages.append(_message(step, partner, pb.PURPOSE_ERROR, micro, e, part))
        return messages


def _message(
    step: MiniBatch, partner: int, purpose: pb.Purpose, micro: int, edge: int, values: Array
) -> Message:
    return Message(partner, purpose, step.number, micro, step.micros, step.rows, edge, values)
