"""The arrays of a piece: its weights and running statistics, the optimizer's, and |gradient| for sharing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from crowdlearn_device.program.manifest import Manifest, Port
from crowdlearn_device.protocol.frames import Array, Floats
from crowdlearn_device.protocol.schedule import warmed
from crowdlearn_device.state.piece_state import PieceState

from .descent import descend


class Weights:
    """The weights of a piece, changed in place once a mini-batch. While mini-batches overlap there are two
    versions: the newest, and the `stale` one before the last update, on which the earlier mini-batch runs.
    """

    def __init__(
        self, state: PieceState, manifest: Manifest, rate: float, boundary: int, warmup: int = 0
    ) -> None:
        """Copy the state's arrays. `warmup` is the number of mini-batches in which the learning rate rises to
        `rate`.
        """
        self.boundary = boundary
        """The number of mini-batches that the newest weights have had."""
        self._rate, self._warmup = rate, warmup
        self._manifest = manifest
        self._optimizer = manifest.optimizer
        self._neurons = state.neurons
        self._values: dict[str, Floats] = {}
        self._slots: dict[str, dict[str, Floats]] = {slot: {} for slot in self._optimizer.slots}
        self._accumulated: dict[str, Floats] = {}
        self._stale: dict[str, Floats] = {}
        known = {"value": self._values, **self._slots, "gradient": self._accumulated}
        held_as = {array.name: array.dtype for array in manifest.arrays}
        for arrays in state.layers.values():
            for key, array in arrays.items():
                kind, name = key.split("/", 1)
                known[kind][name] = np.require(array, held_as[name], ["C", "W"])  # steps write them in place

    @property
    def ranked(self) -> bool:
        """Return True if |gradient| is accumulated."""
        return bool(self._accumulated)

    @property
    def two_versions(self) -> bool:
        return bool(self._stale)

    def arrays(self) -> list[Floats]:
        """Return what steps take, and change in place. Each is [neurons, ...]: float32, or frozen."""
        return [*self._values.values(), *(x for arrays in self._slots.values() for x in arrays.values())]

    @property
    def numbers(self) -> dict[str, np.float32]:
        """Return numbers of the optimizer's next step, by name."""
        step = self.boundary + 1
        of_step = self._optimizer.of_step(warmed(self._rate, step, self._warmup), step)
        return {name: np.float32(number) for name, number in of_step.items()}

    def at_port(self, port: Port, step: int) -> Array:
        """Return what a program takes at a port for an array or one of its slots in mini-batch `step`.

        It is of the port's dtype, [neurons, ...].
        """
        if port.role in self._slots:
            return self._slots[port.role][port.name]
        newest = self._values[port.name]
        return self._stale.get(port.name, newest) if step == self.boundary else newest

    def keep(self, port: Port, values: Array) -> None:
        """Keep running statistics as a program leaves them. Each is float32 [neurons]."""
        self._values[port.name] = np.array(values)

    def update(self, gradients: Mapping[str, Floats], *, ahead: bool, factor: float = 1.0) -> None:
        """Take a step of the optimizer; `ahead`: a mini-batch is under way that needs the weights as they
        were.

        Gradients are float32 [neurons, ...], like the weights; clipping multiplies them by `factor`.
        """
        numbers = self.numbers
        for name, gradient in gradients.items():
            if ahead:
                self._stale[name], self._values[name] = self._values[name], self._next_version(name)
            descend(
                self._optimizer,
                self._values[name],
                gradient,
                [arrays[name] for arrays in self._slots.values()],
                self._accumulated.get(name),
                numbers,
                factor,
            )
        if not ahead:
            self._stale.clear()
        self.boundary += 1

    def _next_version(self, name: str) -> Floats:
        newest = self._values[name]
        version = self._stale.get(name)
        if version is None:
            return newest.copy()
        np.copyto(version, newest)
        return version

    def state(self) -> PieceState:
        """Return all of it, where there is one version."""
        layer_of = {array.name: array.layer for array in self._manifest.arrays}
        layers: dict[int, dict[str, Floats]] = {}
        known = {"value": self._values, **self._slots, "gradient": self._accumulated}
        for kind, arrays in known.items():
            for name, array in arrays.items():
                layers.setdefault(layer_of[name], {})[f"{kind}/{name}"] = array
        return PieceState(self._neurons, layers)
