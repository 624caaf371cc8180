"""Who sends a piece sums and errors, and whom it sends them."""

from __future__ import annotations

from collections.abc import Sequence

from crowdlearn_device.program.manifest import EdgeSpec, Manifest
from crowdlearn_device.state.piece_state import Neurons

Layout = tuple[tuple[Neurons, ...], ...]
"""The division of a network: for each piece, its range of neurons in every layer."""
Partners = dict[int, list[tuple[int, int]]]
"""Edges and partner pieces by layer, in the order in which they are summed."""


def overlap(a: Neurons, b: Neurons) -> Neurons:
    """Return the neurons both ranges hold; empty ranges start where they stop."""
    start = max(a[0], b[0])
    return start, max(start, min(a[1], b[1]))


class Routes:
    """The routes of the piece `index`, which owns `neurons`. Edges between `turning` layers, which are one
    stage, carry no messages.
    """

    def __init__(self, manifest: Manifest, layout: Layout, index: int, turning: Sequence[int]) -> None:
        self.turning = turning
        self.neurons = tuple(layout[index])
        self._layout = layout
        self._index = index
        edges = list(enumerate(manifest.edges))
        pieces = range(len(layout))
        owned = [layer for layer, neurons in enumerate(self.neurons) if _some(neurons)]
        self.incoming: Partners = {
            layer: [
                (e, p)
                for e, edge in edges
                if edge.target == layer and not {layer, edge.source} <= set(turning)
                for p in pieces
                if _some(self.joined(edge, p, index))
            ]
            for layer in owned
        }
        self.outgoing: Partners = {
            layer: [
                (e, p)
                for e, edge in edges
                if edge.source == layer
                for p in pieces
                if _some(self.joined(edge, index, p))
            ]
            for layer in owned
        }
        # Errors go the other way, where somebody learns from them.
        self.answered = _on(self.incoming, manifest.edges)
        self.returning = _on(self.outgoing, manifest.edges)

    def joined(self, edge: EdgeSpec, source: int, target: int) -> Neurons:
        """Return the target neurons of `target` that get sums from `source` on this edge."""
        a, b = self._layout[source][edge.source], self._layout[target][edge.target]
        if edge.matched:
            return overlap(a, b)
        return b if a[1] > a[0] else (b[0], b[0])

    def entering(self, edge: EdgeSpec, partner: int) -> Neurons:
        """Return the own neurons that get sums from a partner."""
        return self.joined(edge, partner, self._index)

    def leaving(self, edge: EdgeSpec, partner: int) -> Neurons:
        """Return a partner's neurons that get sums from here."""
        return self.joined(edge, self._index, partner)


def _on(partners: Partners, edges: Sequence[EdgeSpec]) -> Partners:
    return {layer: [(e, p) for e, p in found if edges[e].taught] for layer, found in partners.items()}


def _some(neurons: Neurons) -> bool:
    return neurons[1] > neurons[0]
