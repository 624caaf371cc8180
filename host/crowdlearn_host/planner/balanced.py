"""The plan that needs no solver: every follower gets an equal share of every layer."""

from __future__ import annotations

from dataclasses import replace

from crowdlearn_export.graph.neuron_graph import NeuronGraph

from crowdlearn_host.errors import PlanError
from crowdlearn_host.planner.problem.bundles import bundles
from crowdlearn_host.planner.problem.costs import piece_macs

from .plan import Plan, plan_from_counts


def balanced(graph: NeuronGraph, pieces: int) -> Plan:
    """Divide evenly into `pieces` pieces: the dominator owns input and output layer, followers own equal
    parts of every hidden layer.

    What does not divide evenly goes to the follower with the fewest neurons so far, weighted by their
    parameters. One piece owns the whole network. Raises PlanError if there are more followers than hidden
    neurons.
    """
    if pieces < 1:
        raise PlanError(f"{pieces} pieces; at least 1 is possible")
    if pieces == 1:
        return _with_loads(graph, plan_from_counts(graph, [[layer.neurons for layer in graph.layers]]))
    counts = [[0] * len(graph.layers) for _ in range(pieces)]
    loads = [0.0] * pieces
    for members in bundles(graph):
        neurons = graph.layers[members[0]].neurons
        weight = sum(edge.macs for layer in members for edge in graph.outgoing(layer)) / neurons
        if 0 in members or len(graph.layers) - 1 in members:
            shares = {0: neurons}
        else:
            followers = sorted(range(1, pieces), key=lambda piece: (loads[piece], piece))
            even, extra = divmod(neurons, pieces - 1)
            shares = {piece: even + (rank < extra) for rank, piece in enumerate(followers)}
        for piece, share in shares.items():
            loads[piece] += share * weight
            for layer in members:
                counts[piece][layer] = share
    empty = [piece for piece in range(1, pieces) if not any(counts[piece])]
    if empty:
        raise PlanError(
            f"{graph.name}: {pieces} pieces, but only {pieces - len(empty)} get a neuron; ask for fewer"
        )
    return _with_loads(graph, plan_from_counts(graph, counts))


def _with_loads(graph: NeuronGraph, plan: Plan) -> Plan:
    """Return the plan with the multiplications of each piece."""
    loaded = (replace(piece, macs=piece_macs(graph, piece.owned)) for piece in plan.pieces)
    return replace(plan, pieces=tuple(loaded))
