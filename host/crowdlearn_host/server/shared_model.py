"""The global model: what groups have shared, averaged, and what they get of it (SliceNet).

A round's updates are checked as they arrive, and enter the window together when the group's round is over: a
server that dies in between has counted none of them, and no upload ever counts twice.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
from crowdlearn_device import wire_pb2 as pb
from crowdlearn_device.manifest import ArraySpec
from crowdlearn_device.sharing import CHUNK_WEIGHTS, Stretch, stretches
from crowdlearn_device.state import Neurons, PieceState
from crowdlearn_device.update import Update, ValueType, chunks, encode_update
from crowdlearn_device.wire import Floats

from ..errors import RunError
from ..sharing.round import SharingRound
from ..sharing.window import Window
from .effects import Merge

SERVER = 0xFFFFFFFF
"""Owner of the updates that the server sends."""


class SharedModel:
    """The window over all groups' uploads, in the order of the graph's arrays, each with its
    neurons first.
    """

    def __init__(
        self,
        arrays: Sequence[ArraySpec],
        initial: Mapping[str, Floats],
        *,
        omega: int = 1,
        tau: float = 0.5,
        values: ValueType = ValueType.FLOAT32,
    ) -> None:
        self._arrays = tuple(arrays)
        self._neurons = {spec.name: len(initial[spec.name]) for spec in arrays}
        vector = np.concatenate([initial[spec.name].reshape(-1) for spec in arrays])
        self._window = Window(vector, omega)
        self._tau, self._values = tau, values
        self._rounds: dict[tuple[int, int], _Round] = {}

    def merge(self, group: int, merge: Merge) -> None:
        """Check a part of a device's upload and keep it. Raises UpdateRefused with the reason."""
        round_ = self._rounds.setdefault((group, merge.generation), _Round(len(self._window)))
        if merge.device not in round_.of:
            owned = np.zeros(len(self._window), np.bool_)
            for part in self._stretches(merge.neurons):
                owned[part.start : part.stop] = True
            round_.of[merge.device] = SharingRound(
                round_, merge.round, {merge.device: owned}, max_weights=CHUNK_WEIGHTS
            )
        round_.of[merge.device].receive(merge.device, merge.update)

    def commit(self, group: int, generation: int) -> None:
        """A group's round is over: what it uploaded enters the window."""
        done = self._rounds.get((group, generation))
        self._rounds = {key: round_ for key, round_ in self._rounds.items() if key[0] != group}
        for update in done.taken if done else ():
            self._window.apply(update)

    def model(self) -> dict[str, Floats]:
        """The global model's arrays: the windowed average."""
        average = self._window.average()
        model = {}
        for spec in self._arrays:
            shape = (self._neurons[spec.name], *spec.shape)
            model[spec.name] = average[spec.offset : spec.offset + prod(shape)].reshape(shape)
        return model

    def parts(self, neurons: tuple[Neurons, ...]) -> list[pb.StatePart]:
        """The global model's values for some neurons of each layer, as a device takes them."""
        layers: dict[int, dict[str, Floats]] = {}
        model = self.model()
        for spec in self._arrays:
            a, b = neurons[spec.layer]
            layers.setdefault(spec.layer, {})[f"value/{spec.name}"] = model[spec.name][a:b]
        state = PieceState(neurons, layers)
        return [part for layer in layers for part in state.parts(layer, neurons[layer])]

    def patch(self, number: int, neurons: tuple[Neurons, ...]) -> list[bytes]:
        """Updates with the weights of these neurons that were uploaded often enough (SliceNet: tau)."""
        indices, averages = self._window.download(self._tau)
        wanted = np.zeros(len(indices), np.bool_)
        for part in self._stretches(neurons):
            a, b = np.searchsorted(indices, [part.start, part.stop])
            wanted[a:b] = True
        update = Update(SERVER, number, indices[wanted], averages[wanted])
        return [encode_update(chunk, self._values) for chunk in chunks(update, CHUNK_WEIGHTS)]

    def to_bytes(self) -> bytes:
        """The window, for a restarted server; rounds under way begin anew."""
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **self._window.state())
        return buffer.getvalue()

    def restore(self, data: bytes) -> None:
        """Take over a window that `to_bytes` gave. Raises RunError where it is not this model's."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                window = Window.from_state(dict(file))
        except (ValueError, OSError, KeyError) as error:
            raise RunError(f"the run's shared model is damaged ({error}); start a new run") from error
        if len(window) != len(self._window) or window.omega != self._window.omega:
            raise RunError("the run's shared model is of another model or window; start a new run")
        self._window = window

    def _stretches(self, neurons: tuple[Neurons, ...]) -> tuple[Stretch, ...]:
        return stretches(self._arrays, neurons)


class _Round:
    """One group's round: what its devices have uploaded so far."""

    def __init__(self, size: int) -> None:
        self.taken: list[Update] = []
        self.of: dict[int, SharingRound] = {}
        self._size = size

    def __len__(self) -> int:
        return self._size

    def apply(self, update: Update) -> None:
        self.taken.append(update)
