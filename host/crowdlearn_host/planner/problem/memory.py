"""Peak memory: by how much a device's process grows while it holds a piece.

It peaks while a mini-batch is under way: the process holds the piece's state, its gradients, what the program
needs to run, sums kept between forward and backward, and messages on their way. At any other time it holds
one state and parts of it: so it is read, sealed and sent to disk, to heirs and to the next holder. What a
process takes in any case, such parts included, was measured (`benchmarks.memory`).

The last layers, as many as a piece owns whole, are one program. It keeps no sums from call to call and sends
none, but its arena holds all of them, or all gradients, at once. If it is the whole network, and a mini-batch
is one micro-batch, a training step is one call with its own arena, without gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from crowdlearn_export.graph.memory_curves import Curve, Footprint, Line
from crowdlearn_export.graph.neuron_graph import FLOAT, NeuronGraph

from .bundles import PAIRED, bundles
from .problem import Budget

PROCESS_BYTES = 10.7e6
"""Connections, keys, the executor's own tables, and libraries that load late."""
MESSAGE_COPIES = 3
"""The copies of the sums or errors of a micro-batch on their way: gathered, encoded, sealed, framed."""
ROWS = 2
"""The most limits of a piece's program that the planner distinguishes; smaller ones count as one."""


@dataclass(frozen=True)
class BundleMemory:
    """Bytes that each neuron of a bundle takes: its `state`, and in training `gradients` and kept `sums`.

    `program` is what running it needs, and `messages` what its widest message needs; a piece has the largest
    sum of the two over its bundles. `ahead` is for messages of input and output layer, which leave while
    others are under way, and for samples that are changed before they enter.
    """

    neurons: int
    state: float
    gradients: float
    sums: float
    program: Curve
    messages: float
    ahead: float

    @property
    def training(self) -> float:
        """Return bytes beside the state."""
        return self.gradients + self.sums


@dataclass(frozen=True)
class Tail:
    """The last layers as one program, of a piece that owns every neuron of `bundles`.

    It needs so many `bytes`, sums on their way in and errors out with them; of bundles that are `inside` it
    altogether no sums are kept and no messages sent, nor any gradients where it `steps` by itself.
    """

    bundles: frozenset[int]
    inside: frozenset[int]
    bytes: float
    steps: bool = False


@dataclass(frozen=True)
class Memory:
    """The memory that a network takes, by bundle, and the tails that are known; the others count layer by
    layer.
    """

    bundles: tuple[BundleMemory, ...]
    tails: tuple[Tail, ...] = ()

    def tail(self, counts: Sequence[int]) -> Tail | None:
        """Return the longest known tail that a piece with these neurons owns whole."""
        whole = {b for b, bundle in enumerate(self.bundles) if counts[b] == bundle.neurons}
        owned = (tail for tail in self.tails if tail.bundles <= whole)
        return max(owned, key=lambda tail: len(tail.bundles), default=None)


def bundle_memory(
    graph: NeuronGraph,
    members: Sequence[int],
    state: float,
    gradient: float,
    rows: int,
    micro_batch: int,
    footprint: Footprint | None,
) -> BundleMemory:
    """Return the memory of one bundle with `rows` samples in flight; programs count where a `footprint` is
    known. Sums are kept for errors, where these come back.
    """
    last = len(graph.layers) - 1
    keeping = graph.backward.intersection(members) - {last}
    kept = sum(FLOAT * rows * graph.layers[layer].sum_floats for layer in keeping)
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
        graph.layers[members[0]].neurons,
        state,
        gradient,
        kept,
        _highest(program),
        0.0 if ahead else messages,
        messages if ahead else 0.0,
    )


def tails(
    graph: NeuronGraph, micro_batch: int, footprint: Footprint | None, *, steps: bool
) -> tuple[Tail, ...]:
    """Return the tails whose regions a footprint tells; `steps`: a mini-batch is one call of the whole
    network.
    """
    if footprint is None:
        return ()
    known = {**footprint.regions, **({0: footprint.step} if steps and footprint.step else {})}
    return tuple(
        _tail(graph, first, micro_batch, bytes, steps=steps and first == 0) for first, bytes in known.items()
    )


def _tail(graph: NeuronGraph, first: int, micro_batch: int, program: float, *, steps: bool) -> Tail:
    members = list(enumerate(bundles(graph)))
    entered = {edge.target for edge in graph.edges if edge.source < first <= edge.target}
    floats = sum(graph.layers[layer].neurons * graph.layers[layer].sum_floats for layer in entered or {0})
    copies = MESSAGE_COPIES if first else 1  # samples are only fed
    return Tail(
        frozenset(b for b, layers in members if layers[-1] >= first),
        frozenset(b for b, layers in members if layers[0] >= first),
        program + copies * FLOAT * micro_batch * floats,
        steps,
    )


def _highest(curve: Curve) -> Curve:
    """Drop the lines that lie below another one."""
    lines = tuple(dict.fromkeys(curve))
    return tuple(
        line
        for line in lines
        if not any(o != line and o.each >= line.each and o.neuron >= line.neuron for o in lines)
    )


def peak_memory(memory: Memory, counts: Sequence[int]) -> float:
    """Return bytes by which the process of a device with these neurons grows at its peak."""
    tail = memory.tail(counts)
    owned = [
        (b, bundle, count)
        for b, (bundle, count) in enumerate(zip(memory.bundles, counts, strict=True))
        if count
    ]
    cut = [(bundle, count) for b, bundle, count in owned if tail is None or b not in tail.inside]
    region = tail.bytes if tail is not None else 0.0
    state = sum(bundle.state * count for _, bundle, count in owned)
    learned = tail is None or not tail.steps
    gradients = sum(bundle.gradients * count for _, bundle, count in owned) if learned else 0.0
    kept = gradients + sum(bundle.sums * count + bundle.ahead for bundle, count in cut)
    running = [max(line.at(count) for line in bundle.program) for bundle, count in cut]
    messages = [bundle.messages for bundle, _ in cut]
    return PROCESS_BYTES + state + kept + max([region, *map(sum, zip(running, messages, strict=True))])


def memory_budgets(memory: Memory, limit: float) -> list[Budget]:
    """Return linear limits that hold where `peak_memory` is at most `limit`, or slightly less.

    One for each of the largest programs: the others count as what the largest of them needs. And one for
    every tail. Layers of a tail count as cut ones too, which may be more than its program needs; what the
    whole network needs is taken as it is.
    """
    bundles = memory.bundles
    neurons = tuple(bundle.neurons for bundle in bundles)
    exact = peak_memory(memory, neurons)
    whole = (neurons, exact) if memory.tail(neurons) else None
    per_neuron = tuple(bundle.state + bundle.training for bundle in bundles)
    ahead = tuple(bundle.ahead for bundle in bundles)
    needs = [
        (k, line.each + bundle.messages, line.neuron)
        for k, bundle in enumerate(bundles)
        for line in bundle.program
    ]
    needs.sort(key=lambda need: need[1] + need[2] * neurons[need[0]], reverse=True)
    rest = max((each + neuron * neurons[k] for k, each, neuron in needs[ROWS:]), default=0.0)
    found = [Budget("memory", "B", per_neuron, ahead, PROCESS_BYTES + rest, limit)]
    for k, each, neuron in needs[:ROWS]:
        if each + neuron * neurons[k] > rest:
            rates, presence = list(per_neuron), list(ahead)
            rates[k] += neuron
            presence[k] += each
            found.append(Budget("memory", "B", tuple(rates), tuple(presence), PROCESS_BYTES, limit))
    found += [_tail_budget(memory, tail, limit) for tail in memory.tails]
    distinct = list(dict.fromkeys(found))
    return [
        replace(one, alone=whole) for one in distinct if not any(_covers(other, one) for other in distinct)
    ]


def _tail_budget(memory: Memory, tail: Tail, limit: float) -> Budget:
    """Return what a piece with the whole tail needs while that runs. Each neuron that is missing takes away
    what the program needs. So for any other piece this is no more than its layers need one by one.
    """
    rates, presence = [], []
    for b, bundle in enumerate(memory.bundles):
        sums, ahead = (0.0, 0.0) if b in tail.inside else (bundle.sums, bundle.ahead)
        held = bundle.state + (0.0 if tail.steps else bundle.gradients) + sums
        rates.append(held + (tail.bytes if b in tail.bundles else 0.0))
        presence.append(ahead)
    missing = sum(memory.bundles[b].neurons for b in tail.bundles) - 1
    fixed = PROCESS_BYTES - tail.bytes * missing
    return Budget("memory", "B", tuple(rates), tuple(presence), fixed, limit)


def _covers(one: Budget, other: Budget) -> bool:
    """Return whether a piece that meets the limit `one` meets `other` in any case."""
    pairs = zip(
        (one.fixed, *one.per_neuron, *one.per_presence),
        (other.fixed, *other.per_neuron, *other.per_presence),
        strict=True,
    )
    return one != other and all(a >= b for a, b in pairs)
