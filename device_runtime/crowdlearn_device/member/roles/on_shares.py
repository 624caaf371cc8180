"""The linear maps that a network has on shares, and the ring elements that messages hold.

The network has a layer before each shared map that only helpers own. Pieces 1 to 3 are a triple of helpers,
pieces 4 to 6 another, and so on. A triple has the map of a range of the layer's neurons: of all of them, if
it is the only one there. What the dominator's piece sends them is shared among its three helpers. Their
answers come back to the piece as if they had sent sums or errors. Each helper works with its triple's whole
map; of its weights, a third is its own to keep.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from crowdlearn_device.errors import WireError
from crowdlearn_device.piece.routes import Layout
from crowdlearn_device.privacy.shares.linear_map import Convolution, LinearMap, linear_map
from crowdlearn_device.privacy.shares.replicated import HELPERS
from crowdlearn_device.program.manifest import Manifest
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Array

LARGEST = 64 << 20
"""Bytes of an array that a message may hold."""
ANSWERS = 2
"""Roles that answer; the role of this number checks them."""


@dataclass(frozen=True)
class SharedMap:
    """A linear map on shares: of an `edge` of the network, from the neurons [start, stop) of its `layer`.

    `number` is that of the map in messages, and `entry` the identity edge into the layer. `back` tells
    whether errors of what enters it are wanted; `entered` and `left` are the shapes of a sample's activations
    and sums.
    """

    number: int
    edge: int
    entry: int
    layer: int
    triple: int
    start: int
    stop: int
    back: bool
    linear: LinearMap
    entered: tuple[int, ...]
    left: tuple[int, ...]
    matched: bool

    @property
    def name(self) -> str:
        """Return the map's name for people."""
        return (
            f"edge {self.edge}" if self.number == self.edge else f"edge {self.edge} of triple {self.triple}"
        )

    def piece(self, position: int) -> int:
        """Return the piece of its helper at a position."""
        return helper_piece(self.triple, position)

    @property
    def weights(self) -> tuple[int, ...]:
        """Return the shape of its weights, source neurons first."""
        if not isinstance(self.linear, Convolution):
            return (*self.entered, self.left[0])
        return (self.entered[0], 1 if self.matched else self.left[0], *self.linear.kernel)

    def within(self, neurons: tuple[int, int]) -> slice:
        """Return where the layer's neurons [start, stop) are among the map's."""
        return slice(neurons[0] - self.start, neurons[1] - self.start)


def helper_piece(triple: int, position: int) -> int:
    """Return the piece of a triple's helper at a position."""
    return 1 + HELPERS * triple + position


def place_of(piece: int) -> tuple[int, int]:
    """Return the triple of a helper's piece, and its position there; a triple of -1 for the dominator's."""
    return divmod(piece - 1, HELPERS)


def shared_maps(manifest: Manifest, layout: Layout, maps: Iterable[pb.LinearMap]) -> dict[int, SharedMap]:
    """Return the maps of all triples by number; `maps` are those that are not dense.

    Raises WireError if the pieces are not a dominator's and triples of helpers', or a map is none of ours.
    """
    triples, more = place_of(len(layout))
    if more or triples < 1:
        raise WireError(f"{len(layout)} pieces on shares; a dominator's and three for each triple are due")
    known = {each.edge: each for each in maps}
    found = {}
    for layer, (start, stop) in enumerate(layout[0]):
        if stop > start:
            continue
        into = [e for e, edge in enumerate(manifest.edges) if edge.target == layer]
        out = [e for e, edge in enumerate(manifest.edges) if edge.source == layer]
        if len(into) != 1 or len(out) != 1 or not manifest.edges[into[0]].matched:
            raise WireError(f"layer {layer} is no helpers' layer: it passes on one edge to one edge")
        edge = manifest.edges[out[0]]
        source, target = manifest.layers[layer], manifest.layers[edge.target]
        linear = _linear(known.get(out[0]), source.sum_shape, target.sum_shape, matched=edge.matched)
        for triple in range(triples):
            thirds = [layout[helper_piece(triple, position)][layer] for position in range(HELPERS)]
            held = sum(b > a for a, b in thirds)
            if not held:
                continue
            if held < HELPERS:
                raise WireError(f"layer {layer}: {held} of a triple's helpers have neurons, not three")
            a, b = thirds[0][0], thirds[-1][1]
            entered = (b - a, *source.sum_shape)
            left = (b - a if edge.matched else target.neurons, *target.sum_shape)
            number = out[0] + triple * len(manifest.edges)
            back = manifest.edges[into[0]].taught
            found[number] = SharedMap(
                number, out[0], into[0], layer, triple, a, b, back, linear, entered, left, edge.matched
            )
    owned = {of.layer for of in found.values()}
    for piece, neurons in enumerate(layout[1:], 1):
        if any(b > a for layer, (a, b) in enumerate(neurons) if layer not in owned):
            raise WireError(f"piece {piece} has neurons of a layer that is no helpers' layer")
    idle = [triple for triple in range(triples) if triple not in {of.triple for of in found.values()}]
    if idle:
        raise WireError(f"triple {idle[0] + 1} has no map; leave its three pieces out")
    return found


def check_clipping(manifest: Manifest) -> None:
    """Raise WireError if gradients are to be clipped: helpers' norms stay on shares."""
    if manifest.optimizer.clip_norm:
        raise WireError("slices on shares clip no gradients; leave clip_norm out")


def _linear(
    message: pb.LinearMap | None, source: tuple[int, ...], target: tuple[int, ...], *, matched: bool
) -> LinearMap:
    if message is None:
        if target or matched:
            raise WireError("a convolution is on shares, and the run does not name it; update the host")
        return linear_map("dense", {}, ())
    named = {name: tuple(getattr(message, name)) for name in ("kernel", "stride", "padding", "dilation")}
    if any(len(pair) != 2 for pair in named.values()) or not all((*named["kernel"], *named["stride"])):
        raise WireError(f"a convolution with {named} is no map of height and width")
    try:
        linear = linear_map(message.kind, named, source)
    except ValueError as error:
        raise WireError(str(error)) from error
    if (
        not isinstance(linear, Convolution)
        or linear.target != target
        or (message.kind == "depthwise") != matched
    ):
        raise WireError(f"a {message.kind} map of {source} with {named} does not give {target}")
    return linear


def ring_of(message: pb.SharedArray, shape: tuple[int, ...]) -> Array:
    """Return a message's ring elements, uint32 [...] of this shape. Raises WireError if they are not."""
    size = 4 * int(np.prod(shape, dtype=np.int64))
    if tuple(message.shape) != shape or len(message.data) != size or size > LARGEST:
        raise WireError(f"ring elements of shape {tuple(message.shape)} where {shape} are due")
    return np.frombuffer(message.data, "<u4").astype(np.uint32, copy=False).reshape(shape)


def message_of(kind: pb.SharedKind, step: int, edge: int, ring: Array) -> pb.SharedArray:
    """Return the message of ring elements, uint32 [...], that `ring_of` reads."""
    return pb.SharedArray(
        kind=kind, step=step, edge=edge, shape=ring.shape, data=ring.astype("<u4").tobytes()
    )
