"""A model without layers of neurons in a step of DP-SGD: forward, back and clipping in one method."""

from __future__ import annotations

from torch import Tensor

from crowdlearn_export.graph.held.registry import HELD

from .clipped_region import ClippedRegion
from .ghosts import clipped
from .uses.norms import norms, plan_of


class ClippedWhole(ClippedRegion):
    """The whole network, all of whose arrays that learn have ghosts (uses/norms.py)."""

    def _function(self, *given: Tensor) -> tuple[Tensor, ...]:
        *rest, labels, scale, factor, clip = given
        whole = self._graph.whole
        assert whole is not None
        ports = list(zip(self._ports, rest, strict=False))
        arrays = HELD[self._graph.frozen_as].widened({port.name: x for port, x in ports if port.name})
        masks = [x for port, x in sorted(ports, key=lambda each: each[0].layer) if port.role == "mask"]
        (samples,) = (x for port, x in ports if port.role == "sum")
        found = norms(
            whole,
            plan_of(self._graph),
            samples,
            arrays,
            masks,
            lambda scores: self._loss.value(scores, labels, scale),
        )
        ghosts = [found.ghosts[port.name] for port in self._spec.outputs if port.role == "gradient"]
        squared = sum((ghost.squared for ghost in ghosts[1:]), ghosts[0].squared)
        factors = factor * clipped(squared, clip)
        return (found.value, found.scores, *(ghost.summed(factors) for ghost in ghosts), squared)
