"""Sums and errors that other pieces sent, until a stage takes them.

They are added in the order of edges and pieces, never of arrival: the same run ends in the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from crowdlearn_device.errors import WireError
from crowdlearn_device.program.manifest import Manifest
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Array, Floats

from .routes import Routes


@dataclass(slots=True)
class Message:
    """Partial sums (ACTIVATION) or errors (ERROR) on one edge, from or to a partner piece."""

    partner: int
    purpose: pb.Purpose
    step: int
    micro: int
    micros: int
    rows: int
    edge: int
    values: Array = field(repr=False)


class Arrivals:
    """The arrivals of one mini-batch."""

    def __init__(self, manifest: Manifest, routes: Routes) -> None:
        self._manifest = manifest
        self._routes = routes
        self._values: dict[tuple[int, int, int, int], Array] = {}

    def put(self, message: Message) -> int:
        """Keep a message; the layer that it is for. Raises WireError if it does not fit or came before."""
        if not 0 <= message.edge < len(self._manifest.edges):
            raise WireError(f"message on edge {message.edge}, which the network does not have")
        edge = self._manifest.edges[message.edge]
        forward = message.purpose == pb.PURPOSE_ACTIVATION
        layer = edge.target if forward else edge.source
        due = self._routes.incoming if forward else self._routes.returning
        if (message.edge, message.partner) not in due.get(layer, []):
            raise WireError(f"piece {message.partner} has nothing to send on edge {message.edge}")
        a, b = (self._routes.entering if forward else self._routes.leaving)(edge, message.partner)
        shape = (b - a, *self._manifest.layers[edge.target].sum_shape)
        if message.values.shape[1:] != shape or not 1 <= message.values.shape[0] <= self._manifest.max_batch:
            raise WireError(
                f"values of shape {message.values.shape} on edge {message.edge}, [rows, {shape}] were due"
            )
        key = (message.purpose, message.micro, message.edge, message.partner)
        if key in self._values:
            raise WireError(
                f"micro-batch {message.micro} on edge {message.edge} came twice from {message.partner}"
            )
        self._values[key] = message.values
        return layer

    def sums(self, micro: int, layer: int) -> Floats:
        """Take what enters `layer`, summed: [rows, its own neurons, ...]."""
        total: Floats | None = None
        start, stop = self._routes.neurons[layer]
        for e, partner in self._routes.incoming[layer]:
            values = self._values.pop((pb.PURPOSE_ACTIVATION, micro, e, partner))
            a, b = self._routes.entering(self._manifest.edges[e], partner)
            if total is None and (a, b) == (start, stop):
                total = values.astype(np.float32)
                continue
            if total is None:
                total = np.zeros((values.shape[0], stop - start, *values.shape[2:]), np.float32)
            _check_rows(values, total)
            total[:, a - start : b - start] += values
        if total is None:
            raise WireError(f"nothing enters layer {layer}")
        return total

    def errors(self, micro: int, layer: int, edge_index: int) -> Floats:
        """Take the errors of all target neurons of an edge from `layer`, as far as this piece feeds them.

        Each is float32 [rows, neurons, ...].
        """
        edge = self._manifest.edges[edge_index]
        whole = (0, self._manifest.layers[edge.target].neurons)
        first, last = self._routes.neurons[layer] if edge.matched else whole
        gathered: Floats | None = None
        for e, partner in self._routes.outgoing[layer]:
            if e != edge_index:
                continue
            values = self._values.pop((pb.PURPOSE_ERROR, micro, e, partner))
            a, b = self._routes.leaving(edge, partner)
            if (a, b) == (first, last):
                return values.astype(np.float32, copy=False)
            if gathered is None:
                gathered = np.empty((values.shape[0], last - first, *values.shape[2:]), np.float32)
            _check_rows(values, gathered)
            gathered[:, a - first : b - first] = values
        if gathered is None:
            raise WireError(f"no errors came back on edge {edge_index}")
        return gathered


def _check_rows(values: Array, total: Floats) -> None:
    if values.shape[0] != total.shape[0]:
        raise WireError(
            f"partners disagree on the rows of a micro-batch: {values.shape[0]} and {total.shape[0]}"
        )
