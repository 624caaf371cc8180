"""What it costs in accuracy, and saves in memory, that devices hold frozen weights rounded."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from crowdlearn_export.graph.freezing import hold_frozen
from crowdlearn_export.graph.held.base import SPACING
from crowdlearn_export.graph.neuron_graph import FrozenAs, NeuronGraph
from crowdlearn_export.graph.shape import array_specs
from crowdlearn_export.tracing.copies import copied


@dataclass(frozen=True)
class Rounding:
    """The rounding of frozen weights, which devices hold as `frozen_as`, in `bytes` in place of
    `float_bytes`. `difference` is the largest one between scores of `samples` samples, over the largest.
    """

    frozen_as: FrozenAs
    bytes: int
    float_bytes: int
    difference: float
    samples: int

    def __str__(self) -> str:
        return (
            f"frozen weights as {self.frozen_as} take {self.bytes:,} bytes in place of {self.float_bytes:,}; "
            f"scores of {self.samples} samples differ by at most {self.difference:.0e} of the largest"
        )


def held_frozen(
    graph: NeuronGraph, model: nn.Module, frozen_as: FrozenAs, samples: Tensor
) -> tuple[NeuronGraph, Rounding | None]:
    """Round the frozen weights of a model to the type in which devices hold them. Return the graph that says
    so, and what that does to the scores of `samples` [B, ...]; None if they are held as they are.

    Raises UnsupportedModule if there are none, or one is too large for the type.
    """
    if frozen_as == "float32":
        return graph, None
    before = _scores(model, samples)
    held = hold_frozen(graph, model, frozen_as)
    after = _scores(model, samples)
    narrow = {spec.name for spec in array_specs(held) if spec.frozen and spec.shape}
    return held, Rounding(
        frozen_as,
        _bytes(held, narrow | {name + SPACING for name in narrow}),
        _bytes(graph, narrow),
        float((after - before).abs().max() / before.abs().max().clamp(min=1e-30)),
        len(samples),
    )


def _bytes(graph: NeuronGraph, names: Container[str]) -> int:
    """Return bytes of these arrays as devices hold them."""
    return sum(
        np.dtype(spec.dtype).itemsize * graph.layers[spec.layer].neurons * prod(spec.shape)
        for spec in array_specs(graph)
        if spec.name in names
    )


@torch.no_grad()
def _scores(model: nn.Module, samples: Tensor) -> Tensor:
    scores: Tensor = copied(model).eval()(samples)
    return scores
