"""Peak memory: by how much a device's process grows while it holds a piece.

It peaks in one of two moments. While a mini-batch is under way, the process holds the piece's state, its
gradients, what the program needs to run, the sums that neurons keep between forward and backward, and
messages on their way. When a snapshot is sent the gradients are gone, but the state is there three times
more: wrapped, encoded and sent. What a process takes in any case was measured (`benchmarks.memory`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crowdlearn_export.footprint import Curve, Footprint, Line
from crowdlearn_export.graph import FLOAT, NeuronGraph

from .bundles import PAIRED
from .problem import Budget

PROCESS_BYTES = 10.7e6
"""Connections, keys, the executor's own tables, and libraries that load late."""
MESSAGE_COPIES = 3
"""Of the sums or errors of a micro-batch on their way: gathered, encoded, sealed, framed."""
SNAPSHOT_COPIES = 3
ROWS = 2
"""Limits of a piece's program that the planner tells apart; smaller ones count as one."""


@dataclass(frozen=True)
class BundleMemory:
    """Bytes that each neuron of a bundle takes: its `state`, and beside it what it takes in `training`.

    `program` is what running it needs, and `messages` what its widest message needs; a piece has the largest
    sum of the two over its bundles. `ahead` is for messages of input and output layer, which leave while
    others are under way.
    """

    state: float
    training: float
    program: Curve
    messages: float
    ahead: float


def bundle_memory(
    graph: NeuronGraph,
    members: Sequence[int],
    state: float,
    gradient: float,
    rows: int,
    micro_batch: int,
    footprint: Footprint | None,
) -> BundleMemory:
    """The memory of one bundle with `rows` samples in flight; programs count where a `footprint` is known."""
    last = len(graph.layers) - 1
    kept = sum(FLOAT * rows * graph.layers[layer].sum_floats for layer in members if layer != last)
    widest = max(
        (
            graph.layers[edge.target].neurons * graph.layers[edge.target].sum_floats
            for layer in members
            for edge in graph.outgoing(layer)
            if edge.kind not in PAIRED
        ),
        default=0,
    )
    program: Curve = (Line(0.0, 0.0),)
    if footprint is not None:
        arenas = [line for layer in members for line in footprint.arenas[layer]]
        workspaces = [line for layer in members for line in footprint.workspaces[layer]]
        program = tuple(Line(a.each + w.each, a.neuron + w.neuron) for a in arenas for w in workspaces)
    messages = float(MESSAGE_COPIES * FLOAT * micro_batch * widest)
    ahead = 0 in members or last in members
    return BundleMemory(
        state, gradient + kept, _highest(program), 0.0 if ahead else messages, messages if ahead else 0.0
    )


def _highest(curve: Curve) -> Curve:
    """Without the lines that lie below another one."""
    lines = tuple(dict.fromkeys(curve))
    return tuple(
        line
        for line in lines
        if not any(o != line and o.each >= line.each and o.neuron >= line.neuron for o in lines)
    )


def peak_memory(bundles: Sequence[BundleMemory], counts: Sequence[int]) -> float:
    """Bytes by which the process of a device with these neurons grows at its peak."""
    owned = [(bundle, count) for bundle, count in zip(bundles, counts, strict=True) if count]
    state = sum(bundle.state * count for bundle, count in owned)
    kept = sum(bundle.training * count + bundle.ahead for bundle, count in owned)
    running = [max(line.at(count) for line in bundle.program) for bundle, count in owned]
    messages = [bundle.messages for bundle, _ in owned]
    training = kept + max(map(sum, zip(running, messages, strict=True)), default=0.0)
    snapshot = SNAPSHOT_COPIES * state + max(running, default=0.0)
    return PROCESS_BYTES + state + max(training, snapshot)


def memory_budgets(bundles: Sequence[BundleMemory], neurons: Sequence[int], limit: float) -> list[Budget]:
    """Linear limits that hold where `peak_memory` is at most `limit`, or slightly less.

    One for each of the largest programs in either moment: the others count as what the largest of them needs.
    """
    found = []
    for copies, keeps in ((0, True), (SNAPSHOT_COPIES, False)):
        per_neuron = [(1 + copies) * b.state + (b.training if keeps else 0.0) for b in bundles]
        ahead = tuple(b.ahead if keeps else 0.0 for b in bundles)
        needs = [
            (k, line.each + (bundle.messages if keeps else 0.0), line.neuron)
            for k, bundle in enumerate(bundles)
            for line in bundle.program
        ]
        needs.sort(key=lambda need: need[1] + need[2] * neurons[need[0]], reverse=True)
        rest = max((each + neuron * neurons[k] for k, each, neuron in needs[ROWS:]), default=0.0)
        found.append(Budget("memory", "B", tuple(per_neuron), ahead, PROCESS_BYTES + rest, limit))
        for k, each, neuron in needs[:ROWS]:
            if each + neuron * neurons[k] > rest:
                rates, presence = list(per_neuron), list(ahead)
                rates[k] += neuron
                presence[k] += each
                found.append(Budget("memory", "B", tuple(rates), tuple(presence), PROCESS_BYTES, limit))
    distinct = list(dict.fromkeys(found))
    return [one for one in distinct if not any(_covers(other, one) for other in distinct)]


def _covers(one: Budget, other: Budget) -> bool:
    """Whether a piece that meets the limit `one` meets `other` in any case."""
    pairs = zip(
        (one.fixed, *one.per_neuron, *one.per_presence),
        (other.fixed, *other.per_neuron, *other.per_presence),
        strict=True,
    )
    return one != other and all(a >= b for a, b in pairs)
