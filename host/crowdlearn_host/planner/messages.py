"""Whether every message of a division fits the wire.

State and shared weights travel in parts of one size, whatever a piece's is. Two things do not: the sums that
one piece sends to another for a micro-batch, and what belongs to a single neuron.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import permutations
from math import prod

from crowdlearn_device.piece.routes import overlap
from crowdlearn_device.protocol.frames import MAX_FRAME
from crowdlearn_device.state.piece_state import MOST_KINDS
from crowdlearn_export.graph.neuron_graph import FLOAT, NeuronGraph
from crowdlearn_export.graph.shape import array_specs

from crowdlearn_host.errors import PlanError
from crowdlearn_host.planner.problem.bundles import PAIRED

from .plan import Range

ROOM = 64 << 10
"""The bytes of the largest message for what is around the numbers."""


def check_messages(
    graph: NeuronGraph, layout: Sequence[Sequence[Range]], rows: int, dtype_bytes: int
) -> None:
    """Raise PlanError, with what to change, where pieces with these neurons by layer would send too large a
    message: with sums of `rows` samples in numbers of `dtype_bytes`, or with the state of a neuron.
    """
    for edge in graph.edges:
        layer = graph.layers[edge.target]
        if dtype_bytes * rows * layer.neurons * layer.sum_floats + ROOM <= MAX_FRAME:
            continue  # so are those of any of its neurons, and there may be very many pieces
        for sender, receiver in permutations(layout, 2):
            has, wanted = sender[edge.source], receiver[edge.target]
            start, stop = overlap(has, wanted) if edge.kind in PAIRED else wanted
            size = dtype_bytes * rows * max(stop - start, 0) * layer.sum_floats
            if has[1] > has[0] and size + ROOM > MAX_FRAME:
                raise PlanError(
                    f"sums of {rows} samples for {stop - start} neurons of layer {layer.name} take "
                    f"{_too_large(size)}; take smaller micro-batches (--micro-batch, training.micro_batch), "
                    "a shorter wire (int8), or cut the network into more pieces"
                )
    state: defaultdict[int, int] = defaultdict(int)
    for spec in array_specs(graph):
        state[spec.layer] += MOST_KINDS * FLOAT * prod(spec.shape)
    for index, size in state.items():
        if size + ROOM > MAX_FRAME:
            raise PlanError(
                f"one neuron of layer {graph.layers[index].name} takes, with what optimizers keep and sums "
                f"of gradients, {_too_large(size)}; narrow the layers that it feeds"
            )


def _too_large(size: int) -> str:
    return f"{size / 1e6:.1f} MB, and a message has {MAX_FRAME / 1e6:.1f} MB at most"
