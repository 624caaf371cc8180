"""The linear maps that a network has on shares, and the ring elements that messages hold.

The network has a layer before each shared map that only helpers own, a third each. What the dominator's piece
sends them is shared among all three. Their answers come back to the piece as if they had sent sums or errors.
Each helper works with the whole map; of its weights, a third is its own to keep.
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
    """A linear map on shares: edge `number` of the network, the identity edge `entry` into its layer, and the
    layer. `back` tells whether errors of what enters it are wanted; `entered` and `left` are the shapes of a
    sample's activations and sums.
    """

    number: int
    entry: int
    layer: int
    back: bool
    linear: LinearMap
    entered: tuple[int, ...]
    left: tuple[int, ...]
    matched: bool


def shared_maps(manifest: Manifest, layout: Layout, told: Iterable[pb.LinearMap]) -> dict[int, SharedMap]:
    """Return the maps of a network's helper layers by edge; `told` are those that are not dense.

    Raises WireError if the pieces are not a dominator's and three helpers', or a map is none of ours.
    """
    if len(layout) != 1 + HELPERS:
        raise WireError(f"{len(layout)} pieces on shares; a dominator's and three helpers' are due")
    known = {each.edge: each for each in told}
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
        entered, left = (source.neurons, *source.sum_shape), (target.neurons, *target.sum_shape)
        back = manifest.edges[into[0]].taught
        found[out[0]] = SharedMap(out[0], into[0], layer, back, linear, entered, left, edge.matched)
    if not found:
        raise WireError("no layer is the helpers'")
    return found


def check_clipping(manifest: Manifest) -> None:
    """Raise WireError if gradients are to be clipped: helpers' norms stay on shares."""
    if manifest.optimizer.clip_norm:
        raise WireError("slices on shares clip no gradients; leave clip_norm out")


def _linear(
    told: pb.LinearMap | None, source: tuple[int, ...], target: tuple[int, ...], *, matched: bool
) -> LinearMap:
    if told is None:
        if target or matched:
            raise WireError("a convolution is on shares, and the run does not name it; update the host")
        return linear_map("dense", {}, ())
    named = {name: tuple(getattr(told, name)) for name in ("kernel", "stride", "padding", "dilation")}
    if any(len(pair) != 2 for pair in named.values()) or not all((*named["kernel"], *named["stride"])):
        raise WireError(f"a convolution with {named} is no map of height and width")
    try:
        linear = linear_map(told.kind, named, source)
    except ValueError as error:
        raise WireError(str(error)) from error
    if (
        not isinstance(linear, Convolution)
        or linear.target != target
        or (told.kind == "depthwise") != matched
    ):
        raise WireError(f"a {told.kind} map of {source} with {named} does not give {target}")
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
