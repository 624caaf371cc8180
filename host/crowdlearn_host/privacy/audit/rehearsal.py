"""A group's training in one process: the devices' own code, programs and messages, without sockets.

Every device is tapped. An attacker that knows the weights can rehearse a pass on samples of its own, too: so
it learns which views belong to which samples.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import numpy as np
from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.member.roles.base import Assigned, Deliver, Results
from crowdlearn_device.member.roles.registry import role_for
from crowdlearn_device.privacy.mechanisms.base import Place
from crowdlearn_device.privacy.mechanisms.outgoing import outgoing_of
from crowdlearn_device.privacy.tap import MemoryTap, Record
from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_device.protocol.schedule import mini_batches
from crowdlearn_device.state.piece_state import PieceState
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.graph.shape import array_specs
from crowdlearn_export.program.slice_program import SliceProgram

from crowdlearn_host.planner.plan import Plan

SECRET = 1 << 200
"""The secret of the first device; each has one of its own."""
Arrays = Mapping[str, Floats]
"""The whole network's weights by name, float32, in slice order; dimension 0 runs over source neurons."""


@dataclass(frozen=True)
class Recipe:
    """A group's network, its cut, and how it trains. `programs` are the pieces'; devices get `training`."""

    graph: NeuronGraph
    plan: Plan
    programs: tuple[SliceProgram, ...]
    training: pb.Training

    @cached_property
    def executors(self) -> tuple[ExecuTorchExecutor, ...]:
        """Return one a piece."""
        return tuple(ExecuTorchExecutor(program.pte) for program in self.programs)


@dataclass(frozen=True)
class Moment:
    """A group between two mini-batches: values, and what the optimizer keeps, by slot."""

    values: Arrays
    slots: Mapping[str, Arrays]


@dataclass(frozen=True)
class PassTape:
    """The records of one pass by piece, and the group before and after it."""

    before: Moment
    after: Moment
    records: tuple[tuple[Record, ...], ...]


class _Carrier:
    """The way out of one piece: messages go into the common queue."""

    def __init__(self, piece: int, queue: deque[tuple[int, int, pb.Purpose, bytes]]) -> None:
        self._piece, self._queue = piece, queue

    def deliver(self, piece: int, purpose: pb.Purpose, content: bytes, *, express: bool) -> None:
        self._queue.append((self._piece, piece, purpose, content))

    def common_key(self, piece: int) -> bytes:
        """Return the key of two pieces, drawn for all rehearsals: an attacker rehearses both."""
        return sha256(f"{min(self._piece, piece)} {max(self._piece, piece)}".encode()).digest()

    def carry_out(self, results: Results) -> None:
        """Deliver messages; progress and snapshots are not needed here."""
        for result in results:
            if isinstance(result, Deliver):
                self.deliver(result.piece, result.purpose, result.content, express=result.express)


def rehearse(
    recipe: Recipe, start: Moment, data: Dataset, *, epoch: int, device: int, learning: bool = True
) -> PassTape:
    """Run one pass over `data` from `start` in all pieces; with `learning` off, weights stay as they are."""
    training = pb.Training()
    training.CopyFrom(recipe.training)
    if not learning:
        training.learning_rate = 0.0
    batches = len(mini_batches(len(data), training.batch, training.least_rows))
    layout = tuple(piece.neurons for piece in recipe.plan.pieces)
    queue: deque[tuple[int, int, pb.Purpose, bytes]] = deque()
    taps = [MemoryTap() for _ in layout]
    carriers = [_Carrier(piece, queue) for piece in range(len(layout))]
    works = []
    for piece, program in enumerate(recipe.programs):
        assign = pb.Assign(generation=1, epoch=epoch, piece=piece, pass_end=batches, training=training)
        state = _piece_state(recipe.graph, layout[piece], start)
        works.append(
            role_for(
                Assigned(
                    assign,
                    program.manifest,
                    recipe.executors[piece],
                    layout,
                    state,
                    carriers[piece].common_key,
                    outgoing_of(training.outgoing, Place(), taps[piece]),
                    SECRET + device,
                )
            )
        )
    for carrier, work in zip(carriers, works, strict=True):
        carrier.carry_out(work.go(lambda: data, device))
    busy = True
    while busy:
        while queue:
            source, target, purpose, content = queue.popleft()
            carriers[target].carry_out(works[target].receive(source, purpose, content))
        busy = any(work.ready for work in works)
        for carrier, work in zip(carriers, works, strict=True):
            carrier.carry_out(work.run())
    after = _merged([work.state() for work in works])
    return PassTape(start, after, tuple(tuple(tap.records) for tap in taps))


def _piece_state(graph: NeuronGraph, neurons: Sequence[tuple[int, int]], moment: Moment) -> PieceState:
    layers: dict[int, dict[str, Floats]] = {}
    for spec in array_specs(graph):
        a, b = neurons[spec.layer]
        if b > a:
            part = layers.setdefault(spec.layer, {})
            for kind, arrays in {"value": moment.values, **moment.slots}.items():
                if spec.name in arrays:
                    part[f"{kind}/{spec.name}"] = np.array(arrays[spec.name][a:b])
    return PieceState(tuple(neurons), layers)


def _merged(states: Sequence[PieceState]) -> Moment:
    parts: dict[str, list[Floats]] = {}
    for state in states:
        for arrays in state.layers.values():
            for key, array in arrays.items():
                parts.setdefault(key, []).append(array)
    whole = {key: np.concatenate(arrays) for key, arrays in parts.items()}
    kinds: dict[str, dict[str, Floats]] = {}
    for key, array in whole.items():
        kind, _, name = key.partition("/")
        kinds.setdefault(kind, {})[name] = array
    values = kinds.pop("value")
    kinds.pop("gradient", None)
    return Moment(values, dict(kinds))
