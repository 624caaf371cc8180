"""What slices on shares cost: bytes, products, and which linear maps are on shares at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    forward, backward and gradient, per sample. They are the dominator's with its checks, and those of one
    helper of the triple that computes most. A follower that holds the same slices in plain mode has
    `follower_macs`. `helper_checks` are that helper's MACs for checks, per mini-batch. With noise, `private`,
    mini-batches have room for every draw.
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


@dataclass(frozen=True)
class _Part:
    """The part of an edge that a triple computes: of so many source neurons, into so many target ones."""

    graph: NeuronGraph
    edge: Edge
    triple: int
    sources: int

    @property
    def targets(self) -> int:
        return self.sources if self.edge.kind == "depthwise" else self.graph.layers[self.edge.target].neurons

    @property
    def entering(self) -> int:
        """Return floats of a sample that enter."""
        return self.sources * self.graph.layers[self.edge.source].output_floats

    @property
    def leaving(self) -> int:
        """Return floats of a sample that leave."""
        return self.targets * self.graph.layers[self.edge.target].sum_floats

    @property
    def macs(self) -> int:
        return self.edge.macs * self.sources // self.graph.layers[self.edge.source].neurons

    @property
    def parameters(self) -> int:
        return self.edge.parameters * self.sources // self.graph.layers[self.edge.source].neurons

    @property
    def back(self) -> bool:
        """Return True if errors go further back."""
        return self.edge.source != 0

    @property
    def taps(self) -> int:
        """Return the numbers of a kernel; 1 of a dense map."""
        if self.edge.kind == "dense":
            return 1
        return self.parameters // (self.targets * (1 if self.edge.kind == "depthwise" else self.sources))

    @property
    def norms(self) -> int:
        """Return the dominator's MACs for the norm of a sample's gradient."""
        return self.entering + 2 * self.leaving if self.edge.kind == "dense" else NORMS * self.macs

    def seen(self, *, private: bool) -> int:
        """Return the numbers of all checks, of a mini-batch: with noise, gradients are the dominator's to
        check, and nothing travels for it.
        """
        norms = 0 if private else HELPERS * HELPERS
        if self.edge.kind == "depthwise":
            return self.parameters * (COLUMNS * (1 + self.back) + norms)
        back = self.targets * self.taps if self.back else 0
        return COLUMNS * (self.parameters // self.targets * (1 + norms) + back)

    @property
    def checked(self) -> int:
        """Return the dominator's MACs for a column of all checks, per sample."""
        source, target = self.graph.layers[self.edge.source], self.graph.layers[self.edge.target]
        dense = self.edge.kind == "dense"
        gathered = self.sources * (source.output_floats if dense else target.sum_floats * self.taps)
        back = self.entering + self.leaving * self.taps if self.back else 0
        return (self.leaving + gathered) * (1 + HELPERS) + back


def shares_cost(
    graph: NeuronGraph,
    *,
    first_layer: bool,
    private: bool = False,
    held: Mapping[str, Sequence[int]] | None = None,
) -> SharesCost:
    """Return what training costs with these maps on shares; in steps of DP-SGD if `private`.

    `held` are the source neurons of each triple, by the name of a map; without it one triple holds all.
    """
    edges = [graph.edges[number] for number in shared_edges(graph, first_layer=first_layer)]
    parts = [
        _Part(graph, edge, triple, sources)
        for edge in edges
        for triple, sources in enumerate((held or {}).get(edge.module, (graph.layers[edge.source].neurons,)))
        if sources
    ]
    word = COPIES * RING_BYTES
    answered = sum(part.entering for part in parts if part.back)
    further = sum(part.leaving for part in parts if part.back and private)
    most = max(
        ([part for part in parts if part.triple == t] for t in {part.triple for part in parts}),
        key=_in_ring,
        default=[],
    )
    return SharesCost(
        activation=word * sum(part.entering + part.leaving for part in parts),
        error=word * (sum(part.leaving for part in parts) + answered + further),
        gradient=OPENED * RING_BYTES * sum(part.parameters for part in parts),
        checks=RING_BYTES * sum(part.seen(private=private) for part in parts),
        dominator_macs=_macs(list(graph.edges))
        - _macs(edges)
        + sum(COLUMNS * part.checked + (part.norms if private else 0) for part in parts),
        helper_macs=_in_ring(most) / HELPERS,
        helper_checks=COLUMNS * sum(CHECKS * part.parameters for part in most),
        follower_macs=sum(part.macs * (2 + part.back) for part in most),
        model_macs=_macs(list(graph.edges)),
        private=private,
    )


def _in_ring(parts: Sequence[_Part]) -> int:
    """Return the ring products of three helpers, per sample."""
    always = PRODUCTS["forward"] + PRODUCTS["gradient"]
    return sum(part.macs * (always + PRODUCTS["backward"] * part.back) for part in parts)


def _macs(edges: Sequence[Edge]) -> int:
    """Return MACs of forward, backward (none to the input) and gradient."""
    return sum(edge.macs * (2 + (edge.source != 0)) for edge in edges)
