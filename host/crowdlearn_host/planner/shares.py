"""What slices on shares cost: bytes, products, and which linear maps are on shares at all."""

from __future__ import annotations

from dataclasses import dataclass

from crowdlearn_device.privacy.dp.draws import most_drawn
from crowdlearn_device.privacy.shares.checks import COLUMNS
from crowdlearn_export.graph.neuron_graph import Edge, NeuronGraph

RING_BYTES = 4
HELPERS = 3
COPIES = 2
"""Helpers that get the part of a shared value that travels, and helpers that answer a product."""
OPENED = HELPERS * (HELPERS - 1)
"""Messages by which three helpers open a gradient to each other; with noise, to the dominator and from it."""
CHECKS = 4
"""The most matrices like the weights that a helper multiplies by its lots in a mini-batch, on average: the
gradient, two parts of it, and the weights forward and backward in every third.
"""
PRODUCTS = {"forward": 2, "backward": 2, "gradient": 5}
"""Ring products of all three helpers together, for one product of plain numbers."""
NORMS = 3
"""A dominator's products for norms of samples, over those of a convolution's gradient: before and after
errors are clipped, and once more where rounding raised a norm.
"""


@dataclass(frozen=True)
class SharesCost:
    """Costs of one group's slices on shares. Bytes are payload, counted once a hop; MACs do not count limbs.

    `activation` and `error` bytes are per sample, `gradient` and `checks` bytes per mini-batch. MACs are of
    forward, backward and gradient, per sample: the dominator's with its checks, those of one helper of three,
    and those of a follower that holds the same slices in plain mode. `helper_checks` are a helper's MACs for
    checks, per mini-batch. With noise, `private`, mini-batches have room for every draw.
    """

    activation: int
    error: int
    gradient: int
    checks: int
    dominator_macs: float
    helper_macs: float
    helper_checks: float
    follower_macs: float
    model_macs: float
    private: bool = False

    def bytes_per_sample(self, batch: int) -> float:
        """Return bytes for each sample of mini-batches of `batch`, all in."""
        each = (self.activation + self.error) * self._room(batch)
        return each + (self.gradient + self.checks) / batch

    def helper_macs_per_sample(self, batch: int) -> float:
        """Return MACs of a helper for each sample of mini-batches of `batch`, with its checks."""
        return self.helper_macs * self._room(batch) + self.helper_checks / batch

    def _room(self, batch: int) -> float:
        """Return the samples that a mini-batch of `batch` has room for, over these."""
        return most_drawn(batch) / batch if self.private else 1.0


def shared_edges(graph: NeuronGraph, *, first_layer: bool) -> tuple[int, ...]:
    """Return the edges that are on shares.

    All have weights that learn. Those into the output layer are not among them, as their gradients reveal
    labels. Nor are those of the input, unless `first_layer`, nor those of layers with fewer neurons than
    helpers.
    """
    last = len(graph.layers) - 1
    return tuple(
        number
        for number, edge in enumerate(graph.edges)
        if edge.kind != "identity" and edge.target != last and (first_layer or edge.source != 0)
        if graph.layers[edge.source].neurons >= HELPERS and f"{edge.module}.weight" not in graph.frozen
    )


def shares_cost(graph: NeuronGraph, *, first_layer: bool, private: bool = False) -> SharesCost:
    """Return what training costs with these maps on shares; in steps of DP-SGD if `private`."""
    on = [graph.edges[number] for number in shared_edges(graph, first_layer=first_layer)]
    entering = sum(_entering(graph, edge) for edge in on)
    leaving = sum(_leaving(graph, edge) for edge in on)
    answered = sum(_entering(graph, edge) for edge in on if edge.source != 0)
    word = COPIES * RING_BYTES
    total, helped = _macs(list(graph.edges)), _macs(on)
    forward, backward, gradient = _each(on)
    in_ring = (
        PRODUCTS["forward"] * forward + PRODUCTS["backward"] * backward + PRODUCTS["gradient"] * gradient
    )
    further = sum(_leaving(graph, edge) for edge in on if edge.source != 0)
    norms = sum(_norms(graph, edge) for edge in on) if private else 0
    return SharesCost(
        activation=word * (entering + leaving),
        error=word * (leaving + answered + (further if private else 0)),
        gradient=OPENED * RING_BYTES * sum(edge.parameters for edge in on),
        checks=RING_BYTES * sum(_seen(graph, edge, private=private) for edge in on),
        dominator_macs=total - helped + COLUMNS * sum(_checked(graph, edge) for edge in on) + norms,
        helper_macs=in_ring / HELPERS,
        helper_checks=COLUMNS * sum(CHECKS * edge.parameters for edge in on),
        follower_macs=helped,
        model_macs=total,
        private=private,
    )


def _entering(graph: NeuronGraph, edge: Edge) -> int:
    source = graph.layers[edge.source]
    return source.neurons * source.output_floats


def _leaving(graph: NeuronGraph, edge: Edge) -> int:
    target = graph.layers[edge.target]
    return target.neurons * target.sum_floats


def _each(edges: list[Edge]) -> tuple[int, int, int]:
    """Return MACs of forward, backward (none to the input) and gradient."""
    forward = sum(edge.macs for edge in edges)
    return forward, sum(edge.macs for edge in edges if edge.source != 0), forward


def _norms(graph: NeuronGraph, edge: Edge) -> int:
    """Return the dominator's MACs for the norm of a sample's gradient, of an edge."""
    return _entering(graph, edge) + 2 * _leaving(graph, edge) if edge.kind == "dense" else NORMS * edge.macs


def _seen(graph: NeuronGraph, edge: Edge, *, private: bool) -> int:
    """Return the numbers of all checks of an edge, of a mini-batch: with noise, gradients are the dominator's
    to check, and nothing travels for it.
    """
    told = 0 if private else HELPERS * HELPERS
    entering, taps = edge.parameters // graph.layers[edge.target].neurons, _taps(graph, edge)
    back = 0 if edge.source == 0 else graph.layers[edge.target].neurons * taps
    if edge.kind == "depthwise":
        return edge.parameters * (COLUMNS * (1 + (edge.source != 0)) + told)
    return COLUMNS * (entering * (1 + told) + back)


def _checked(graph: NeuronGraph, edge: Edge) -> int:
    """Return the dominator's MACs for a column of all checks of an edge, per sample."""
    source, taps = graph.layers[edge.source], _taps(graph, edge)
    places = _leaving(graph, edge)
    gathered = source.neurons * (
        source.output_floats if edge.kind == "dense" else graph.layers[edge.target].sum_floats * taps
    )
    back = 0 if edge.source == 0 else _entering(graph, edge) + places * taps
    return (places + gathered) * (1 + HELPERS) + back


def _taps(graph: NeuronGraph, edge: Edge) -> int:
    """Return the numbers of a kernel; 1 of a dense map."""
    if edge.kind == "dense":
        return 1
    pairs = 1 if edge.kind == "depthwise" else graph.layers[edge.source].neurons
    return edge.parameters // (pairs * graph.layers[edge.target].neurons)


def _macs(edges: list[Edge]) -> int:
    return sum(_each(edges))
