"""The global model: what groups have shared, averaged, and what they get of it (SliceNet).

A round's updates are checked as they arrive, and kept as they came until the group's round is over: `close`
makes a record of them, which counts once it is on disk with the group's state. `take_in` is given it then, as
after a restart. A server that dies in between has counted none of them, and no upload ever counts twice.
Where groups wait for each other, a round enters the window when all of them have shared it, in the order of
the groups: the window then depends on no group's pace, and a download that is asked for again is the same.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from math import prod

import numpy as np
from crowdlearn_device.errors import WireError
from crowdlearn_device.program.manifest import ArraySpec
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_device.sharing.selection import CHUNK_WEIGHTS, Stretch, stretches
from crowdlearn_device.sharing.update import Indices, Limits, Update, decode_update, encode_update
from crowdlearn_device.sharing.update_values import ValueType
from crowdlearn_device.state.piece_state import MAX_HEADER, MOST_KINDS, Neurons, state_parts
from numpy.typing import NDArray

from crowdlearn_host.coordinator.group.effects import Merge
from crowdlearn_host.coordinator.group.restore_points import Place
from crowdlearn_host.errors import RunError, UpdateRefused
from crowdlearn_host.methods.slicenet.audit import Suspicion, UploadAudit
from crowdlearn_host.methods.slicenet.combining import COMBINATIONS
from crowdlearn_host.methods.slicenet.round import SharingRound
from crowdlearn_host.methods.slicenet.window import Window

SERVER = 0xFFFFFFFF
"""Owner of the updates that the server sends."""
ROUND, ENTERS = b"R", b"E"
"""Kinds of records: a group's round, with its updates; and that it enters the window."""
PLACE = struct.Struct("<cIII")
"""A record's kind, and whose round it is of: epoch, passes shared before it, group."""
LENGTH = struct.Struct("<I")
"""The number before each update of a round: its bytes."""

Key = tuple[Place, int]
"""A round: its place, and the group."""
Chosen = tuple[Indices, Floats]
"""Weights: where they are in the vector, increasing, and their values."""


class SharedModel:
    """The window over all groups' uploads, in the order of the graph's arrays, each with its neurons first.

    One thread at a time.
    """

    def __init__(
        self,
        arrays: Sequence[ArraySpec],
        initial: Mapping[str, Floats],
        *,
        omega: int = 1,
        tau: float = 0.5,
        values: ValueType = ValueType.FLOAT32,
        combine: str = "mean",
        audit: UploadAudit | None = None,
    ) -> None:
        self._arrays = tuple(arrays)
        self._neurons = {spec.name: len(initial[spec.name]) for spec in arrays}
        self.initial = np.concatenate([initial[spec.name].reshape(-1) for spec in arrays])
        self.omega = omega
        self._combination = COMBINATIONS[combine]
        self._window = Window(self.initial, omega)
        self._window.combine(self._combination)
        self._tau, self._values, self._audit = tau, values, audit
        self._rounds: dict[tuple[int, int], _Round] = {}
        self._waiting: dict[Key, bytes] = {}

    @property
    def state_bytes(self) -> int:
        """Return more than any piece's sealed state has: float32, each in every kind, and as much again
        around them.
        """
        return 2 * (4 * MOST_KINDS * len(self.initial) + MAX_HEADER)

    @property
    def window(self) -> Window:
        return self._window

    @property
    def waiting(self) -> list[bytes]:
        """Return records of the rounds that have not entered the window."""
        return list(self._waiting.values())

    def begin_with(self, arrays: Mapping[str, Floats]) -> None:
        """Take these first weights, float32 [neurons, ...] by array; a window of them is to be resumed."""
        self.initial = np.concatenate([arrays[spec.name].reshape(-1) for spec in self._arrays])

    def resume(self, window: Window, records: Iterator[bytes]) -> None:
        """Go on with a window that was kept, and what was recorded since. Raises RunError if that is no
        record of this model.
        """
        self._window, self._waiting = window, {}
        window.combine(self._combination)
        try:
            for record in records:
                self.take_in(record)
            window.add_up()  # what was in the file before it was taken in again is in no sum
        except (struct.error, KeyError, WireError, UpdateRefused) as error:
            raise RunError(f"the run's shared model is damaged ({error}); start a new run") from error

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
        round_.taken.append(merge.update)

    def close(self, group: int, generation: int, place: Place) -> list[bytes]:
        """Return the record of a group's round that is over, which began at `place`; none if nothing came."""
        done = self._rounds.get((group, generation))
        self._rounds = {key: round_ for key, round_ in self._rounds.items() if key[0] != group}
        if done is None or not done.taken:
            return []
        updates = b"".join(LENGTH.pack(len(update)) + update for update in done.taken)
        return [PLACE.pack(ROUND, *place, group) + updates]

    @staticmethod
    def summed(number: int, place: Place, positions: NDArray[np.int64], mean: Floats) -> list[bytes]:
        """Return the records by which the mean of the secure sum `number` over all groups enters the window:
        float32 [n], at these positions, increasing.
        """
        updates = []
        for start in range(0, len(positions), CHUNK_WEIGHTS):
            part = slice(start, start + CHUNK_WEIGHTS)
            update = Update(SERVER, number, positions[part].astype(np.uint32), mean[part])
            encoded = encode_update(update)
            updates.append(LENGTH.pack(len(encoded)) + encoded)
        return [PLACE.pack(ROUND, *place, 0) + b"".join(updates), PLACE.pack(ENTERS, *place, 0)]

    def entering(self, records: Sequence[bytes] = (), reached: Place | None = None) -> list[bytes]:
        """Return records by which the rounds enter the window that began before `reached` (None: all), those
        of `records` among them.
        """
        keys = {*self._waiting, *map(_key, records)}
        due = sorted(key for key in keys if reached is None or key[0] < reached)
        return [PLACE.pack(ENTERS, *place, group) for place, group in due]

    def judge(self, records: Sequence[bytes]) -> list[Suspicion]:
        """Return what the audit, if there is one, finds suspicious of the rounds that these records let into
        the window: before they are taken in.
        """
        entering = [_key(record) for record in records if record[:1] == ENTERS]
        if self._audit is None or not entering:
            return []
        rounds = {**self._waiting, **{_key(record): record for record in records if record[:1] == ROUND}}
        before, limits = self._window.average(), Limits(len(self._window), CHUNK_WEIGHTS)
        for key in entering:
            upload = before.copy()
            for update in map(partial(decode_update, limits=limits), _updates(rounds[key])):
                upload[update.indices] = update.values
            self._audit.take(key[1], before, upload)
        return self._audit.suspicions([group for _, group in entering])

    def take_in(self, record: bytes) -> None:
        """Do what a record tells, which is on disk."""
        kind, key = record[:1], _key(record)
        if kind == ROUND:
            self._waiting[key] = record
            return
        limits = Limits(len(self._window), CHUNK_WEIGHTS)
        for update in _updates(self._waiting.pop(key)):
            self._window.apply(decode_update(update, limits))

    def model(self) -> dict[str, Floats]:
        """Return the global model's arrays: the windowed average. Each is float32 [neurons, ...]."""
        average = self._window.average()
        model = {}
        for spec in self._arrays:
            shape = (self._neurons[spec.name], *spec.shape)
            model[spec.name] = average[spec.offset : spec.offset + prod(shape)].reshape(shape)
        return model

    def parts(
        self, neurons: tuple[Neurons, ...], model: Mapping[str, Floats] | None = None
    ) -> Iterator[pb.StatePart]:
        """Yield the global model's values for some neurons of each layer, as a device takes them; or those of
        another `model`, float32 [neurons, ...] by array.
        """
        for layer in dict.fromkeys(spec.layer for spec in self._arrays):
            a, b = neurons[layer]
            arrays = {}
            for spec in self._arrays:
                if spec.layer == layer:
                    row = prod(spec.shape)
                    start = spec.offset + a * row
                    if model is None:
                        values = self._window.averaged(start, start + (b - a) * row)
                    else:
                        values = model[spec.name][a:b]
                    arrays[f"value/{spec.name}"] = values.reshape(b - a, *spec.shape).astype(spec.dtype)
            yield from state_parts(neurons, {layer: arrays}, layer, (a, b))

    def patch(self, number: int, neurons: tuple[Neurons, ...], *, whole: bool = False) -> Iterator[bytes]:
        """Yield updates with the weights of these neurons that were uploaded often enough (SliceNet: tau);
        `whole`: all of them, and the frozen ones as they are, for a device that has no state: what a sum that
        was lost would have brought is as it was before.
        """
        parts = self._stretches(neurons)
        for indices, averages in _rechunked(self._due(part, whole=whole) for part in parts):
            yield encode_update(Update(SERVER, number, indices, averages), self._values)
        for part in parts if whole else ():
            for start in range(part.start, part.stop if part.frozen else part.start, CHUNK_WEIGHTS):
                stop = min(start + CHUNK_WEIGHTS, part.stop)
                at = np.arange(start, stop, dtype=np.uint32)
                frozen = Update(SERVER, number, at, self._window.averaged(start, stop))
                yield encode_update(frozen, ValueType.FLOAT32)

    def _due(self, part: Stretch, *, whole: bool) -> Iterator[Chosen]:
        """Yield the weights of a stretch that were uploaded often enough, or the whole of it, by blocks."""
        for start in range(part.start, part.stop, CHUNK_WEIGHTS):
            stop = min(start + CHUNK_WEIGHTS, part.stop)
            if whole and not part.frozen:
                yield np.arange(start, stop, dtype=np.uint32), self._window.averaged(start, stop)
            else:
                yield self._window.download(self._tau, start, stop)

    def _stretches(self, neurons: tuple[Neurons, ...]) -> tuple[Stretch, ...]:
        return stretches(self._arrays, neurons)


def _rechunked(found: Iterable[Iterable[Chosen]]) -> Iterator[Chosen]:
    """Yield the same weights, CHUNK_WEIGHTS at a time."""
    indices, averages = np.zeros(0, np.uint32), np.zeros(0, np.float32)
    for more, values in chain.from_iterable(found):
        indices, averages = np.concatenate([indices, more]), np.concatenate([averages, values])
        if len(indices) >= CHUNK_WEIGHTS:
            yield indices[:CHUNK_WEIGHTS], averages[:CHUNK_WEIGHTS]
            indices, averages = indices[CHUNK_WEIGHTS:], averages[CHUNK_WEIGHTS:]
    if len(indices):
        yield indices, averages


def _key(record: bytes) -> Key:
    _, epoch, shared, group = PLACE.unpack_from(record)
    return (epoch, shared), group


def _updates(record: bytes) -> Iterator[bytes]:
    at = PLACE.size
    while at < len(record):
        (length,) = LENGTH.unpack_from(record, at)
        at += LENGTH.size
        yield record[at : at + length]
        at += length


class _Round:
    """One group's round: what its devices have uploaded so far, encoded as it came."""

    def __init__(self, size: int, values: ValueType) -> None:
        self.taken: list[bytes] = []
        self.of: dict[int, SharingRound] = {}
        self._size = size
        self._values = values

    def __len__(self) -> int:
        return self._size

    def apply(self, update: Update) -> None:
        """Check the values of an update. Raises UpdateRefused if their average could not travel back."""
        if self._values is ValueType.FLOAT16 and (np.abs(update.values) > np.finfo(np.float16).max).any():
            raise UpdateRefused(update.owner, "a weight exceeds float16's range")
