"""The global model: what groups have shared, averaged, and what they get of it (SliceNet).

A round's updates are checked as they arrive, and enter the window together when the group's round is over: a
server that dies in between has counted none of them, and no upload ever counts twice. Where groups wait for
each other, a round enters when all of them have shared it, in the order of the groups: the window then
depends on nobody's pace, and whoever asks again for a round's download gets the same.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
from crowdlearn_device.program.manifest import ArraySpec
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_device.sharing.selection import CHUNK_WEIGHTS, Stretch, stretches
from crowdlearn_device.sharing.update import Update, chunks, encode_update
from crowdlearn_device.sharing.update_values import ValueType
from crowdlearn_device.state.piece_state import KINDS, MAX_HEADER, Neurons, PieceState
from numpy.typing import NDArray

from crowdlearn_host.common.files import DAMAGED_ARCHIVE
from crowdlearn_host.coordinator.group.effects import Merge
from crowdlearn_host.coordinator.group.restore_points import Place
from crowdlearn_host.errors import RunError, UpdateRefused
from crowdlearn_host.methods.slicenet.round import SharingRound
from crowdlearn_host.methods.slicenet.window import Window

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
        self._committed: dict[tuple[Place, int], Update] = {}

    @property
    def state_bytes(self) -> int:
        """More than any piece's sealed state has: float32, each in every kind, and as much again around
        them.
        """
        return 2 * (4 * len(KINDS) * len(self._window) + MAX_HEADER)

    def merge(self, group: int, merge: Merge) -> None:
        """Check a part of a device's upload and keep it. Raises UpdateRefused with the reason."""
        round_ = self._rounds.setdefault((group, merge.generation), _Round(len(self._window), self._values))
        if merge.device not in round_.of:
            owned = np.zeros(len(self._window), np.bool_)
            for part in self._stretches(merge.neurons):
                owned[part.start : part.stop] = not part.frozen
            round_.of[merge.device] = SharingRound(
                round_, merge.round, {merge.device: owned}, max_weights=CHUNK_WEIGHTS
            )
        round_.of[merge.device].receive(merge.device, merge.update)

    def commit(self, group: int, generation: int, place: Place) -> None:
        """A group's round is over, which began at `place`: what it uploaded counts from its release on."""
        done = self._rounds.get((group, generation))
        self._rounds = {key: round_ for key, round_ in self._rounds.items() if key[0] != group}
        if done and done.taken:
            self._committed[place, group] = _together(done.taken)

    def release(self, reached: Place | None = None) -> bool:
        """Let rounds that began before `reached` (None: all) enter the window; whether there were any."""
        due = sorted(key for key in self._committed if reached is None or key[0] < reached)
        for key in due:
            self._window.apply(self._committed.pop(key))
        return bool(due)

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

    def patch(self, number: int, neurons: tuple[Neurons, ...], *, whole: bool = False) -> list[bytes]:
        """Updates with the weights of these neurons that were uploaded often enough (SliceNet: tau); `whole`:
        and the frozen ones, as they are, for a device that has no state.
        """
        indices, averages = self._window.download(self._tau)
        wanted = np.zeros(len(indices), np.bool_)
        for part in self._stretches(neurons):
            a, b = np.searchsorted(indices, [part.start, part.stop])
            wanted[a:b] = True
        update = Update(SERVER, number, indices[wanted], averages[wanted])
        encoded = [encode_update(chunk, self._values) for chunk in chunks(update, CHUNK_WEIGHTS)]
        for part in self._stretches(neurons) if whole else ():
            if part.frozen:
                at = np.arange(part.start, part.stop, dtype=np.uint32)
                frozen = chunks(Update(SERVER, number, at, self._window.average()[at]), CHUNK_WEIGHTS)
                encoded += [encode_update(chunk, ValueType.FLOAT32) for chunk in frozen]
        return encoded

    def to_bytes(self) -> bytes:
        """The window and what is to enter it, for a restarted server; rounds under way begin anew."""
        buffer = io.BytesIO()
        waiting: dict[str, NDArray[np.generic]] = {}
        for (place, group), update in self._committed.items():
            name = "{}.{}.{}".format(*place, group)
            waiting[f"indices.{name}"], waiting[f"values.{name}"] = update.indices, update.values
        np.savez(buffer, allow_pickle=False, **self._window.state(), **waiting)
        return buffer.getvalue()

    def restore(self, data: bytes) -> None:
        """Take over a window that `to_bytes` gave. Raises RunError where it is not this model's."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                state = dict(file)
            window = Window.from_state(state)
            committed = {}
            for name in state:
                if name.startswith("indices."):
                    epoch, shared, group = map(int, name.split(".")[1:])
                    values = state[name.replace("indices", "values", 1)]
                    committed[(epoch, shared), group] = Update(SERVER, 0, state[name], values)
        except DAMAGED_ARCHIVE as error:
            raise RunError(f"the run's shared model is damaged ({error}); start a new run") from error
        if len(window) != len(self._window) or window.omega != self._window.omega:
            raise RunError("the run's shared model is of another model or window; start a new run")
        self._window, self._committed = window, committed

    def _stretches(self, neurons: tuple[Neurons, ...]) -> tuple[Stretch, ...]:
        return stretches(self._arrays, neurons)


def _together(updates: Sequence[Update]) -> Update:
    """One update of several, none of which names another's weights."""
    indices = np.concatenate([update.indices for update in updates])
    order = np.argsort(indices)
    return Update(SERVER, 0, indices[order], np.concatenate([u.values for u in updates])[order])


class _Round:
    """One group's round: what its devices have uploaded so far."""

    def __init__(self, size: int, values: ValueType) -> None:
        self.taken: list[Update] = []
        self.of: dict[int, SharingRound] = {}
        self._size = size
        self._values = values

    def __len__(self) -> int:
        return self._size

    def apply(self, update: Update) -> None:
        """Keep a checked update. Raises UpdateRefused where its average could not travel back."""
        if self._values is ValueType.FLOAT16 and (np.abs(update.values) > np.finfo(np.float16).max).any():
            raise UpdateRefused(update.owner, "it holds a weight that float16 cannot tell")
        self.taken.append(update)
