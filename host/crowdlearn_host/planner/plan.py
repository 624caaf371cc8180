"""Plan: which piece owns which neurons, on which devices, at what cost, and how good that provably is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crowdlearn_export.graph import NeuronGraph

from ..errors import PlanError

Range = tuple[int, int]


@dataclass(frozen=True)
class PiecePlan:
    """The neurons of one piece: per layer a range [start, stop), in the order of `Plan.order`."""

    neurons: tuple[Range, ...]


@dataclass(frozen=True)
class Plan:
    """Pieces of one group. `order[layer]` lists the model's neurons in slice order; () keeps the
    model's own.
    """

    pieces: tuple[PiecePlan, ...]
    order: tuple[tuple[int, ...], ...] = ()


def plan_from_counts(graph: NeuronGraph, counts: Sequence[Sequence[int]]) -> Plan:
    """A plan that gives piece k `counts[k][l]` neurons of layer l, in order.

    Raises PlanError where the counts of a layer do not add up to its neurons.
    """
    starts = [0] * len(graph.layers)
    pieces = []
    for count in counts:
        neurons = []
        for layer, n in enumerate(count):
            neurons.append((starts[layer], starts[layer] + n))
            starts[layer] += n
        pieces.append(PiecePlan(tuple(neurons)))
    for owned, total in zip(graph.layers, starts, strict=True):
        if total != owned.neurons:
            raise PlanError(
                f"layer {owned.name}: pieces own {total} neurons of {owned.neurons}; make them add up"
            )
    return Plan(tuple(pieces))
