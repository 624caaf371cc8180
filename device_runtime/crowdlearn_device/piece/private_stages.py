"""The stages of a piece in a step of DP-SGD: the norm of each sample's gradient, then the clipped sum.

Norms come from the program, beside the gradients, where the exporter knows how (its ghosts.py). Else the
gradient of each sample is computed alone: every kind of layer that mixes no samples has one. Errors go on to
other pieces for all samples at once. The clip factors come once the norms of all pieces are known. A
sample's gradient is linear in its errors, so that the clipped sum is the gradient of the errors times the
factors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from crowdlearn_device.errors import WireError
from crowdlearn_device.optimizers.clipping import square
from crowdlearn_device.program.executor import Executor
from crowdlearn_device.program.manifest import LOSS, Manifest, Port
from crowdlearn_device.protocol.frames import Array, Floats

from .inbox import Message
from .mini_batch import MiniBatch
from .private_steps import factors_of
from .routes import Routes
from .stages import ByPort, Stages
from .weights import Weights

SQUARE = ""
"""The name under which the squared norms of samples' gradients are among those of arrays."""


class PrivateStages(Stages):
    """Stages whose gradients are clipped sample by sample to the norm `clip`. With `alone` one stage has all
    of them.
    """

    def __init__(
        self,
        manifest: Manifest,
        executor: Executor,
        routes: Routes,
        weights: Weights,
        seed: int,
        clip: float,
        *,
        alone: bool,
    ) -> None:
        super().__init__(manifest, executor, routes, weights, seed)
        if any(array.role == "buffer" for array in manifest.arrays):
            raise WireError(
                "the run clips the gradient of each sample, and running statistics, as batch norm has them, "
                "mix samples; use group or layer norm"
            )
        self._clip, self._alone = clip, alone
        loss = self._methods.get(LOSS)
        self._clips = loss is not None and any(port.role == "clip" for port in loss.inputs)

    @property
    def descend(self) -> bool:
        """Return False: norms come between samples and weights."""
        return False

    def _clipping(self, rows: int) -> ByPort:
        """Return the inputs by which the program clips, if it does: alone, to the clip; else the factors are
        known once the norms of all pieces are.
        """
        if not self._clips:
            return {}
        most = self._clip if self._alone else np.finfo(np.float32).max
        return {("factor", -1): np.ones(rows, np.float32), ("clip", -1): np.array(most, np.float32)}

    def _learn_weights(
        self, step: MiniBatch, micro: int, method: str, by_port: ByPort, gradients: Mapping[str, Array]
    ) -> None:
        """Note the norm of each sample's gradient; alone, add the clipped ones at once."""
        squares = step.squares.setdefault(micro, np.zeros(_rows(by_port), np.float64))
        if not gradients:
            return
        if SQUARE in gradients:
            squares += gradients[SQUARE]
            if self._alone:
                _add(step, {name: each for name, each in gradients.items() if name != SQUARE}, 1.0)
        else:
            for row, one in enumerate(self._one_by_one(by_port)):
                own = self._gradients(step, method, one)
                squares[row] += square(own.values())
                if self._alone:
                    _add(step, own, float(factors_of([squares[row : row + 1]], self._clip)[0]))
        if not self._alone:
            step.ran.append((micro, method, dict(by_port)))

    def _errors(self, step: MiniBatch, micro: int, port: Port, values: Array) -> list[Message]:
        """Copy errors, for other calls follow before they leave."""
        return super()._errors(step, micro, port, np.array(values))

    def add_clipped(self, step: MiniBatch, factors: Floats) -> None:
        """Add the gradients of a mini-batch's samples times their factors, float32 [rows], in their order."""
        starts = np.cumsum([0, *(len(step.squares[micro]) for micro in sorted(step.squares))])
        for micro, method, by_port in step.ran:
            own = factors[starts[micro] : starts[micro + 1]]
            if method == LOSS and not self._clips:
                for one, factor in zip(self._one_by_one(by_port), own, strict=True):
                    _add(step, self._gradients(step, method, one), float(factor))
                continue
            scaled = {
                port: values * own.reshape(-1, *(1 for _ in values.shape[1:]))
                if port[0] in ("error", "factor")
                else values
                for port, values in by_port.items()
            }
            _add(step, self._gradients(step, method, scaled), 1.0)
        step.ran.clear()

    def _gradients(self, step: MiniBatch, method: str, by_port: ByPort) -> dict[str, Array]:
        outputs: Iterable[tuple[Port, Array]] = self._call(step, method, by_port)
        return {port.name: values for port, values in outputs if port.role == "gradient"}

    def _one_by_one(self, by_port: ByPort) -> Iterator[ByPort]:
        """Yield the inputs of each sample alone."""
        for row in range(_rows(by_port)):
            yield {port: values[row : row + 1] if values.ndim else values for port, values in by_port.items()}


def _rows(by_port: ByPort) -> int:
    return next(len(values) for values in by_port.values() if values.ndim)


def _add(step: MiniBatch, gradients: Mapping[str, Array], factor: float) -> None:
    for name, values in gradients.items():
        known = step.gradients.get(name)
        if known is None:
            step.gradients[name] = np.multiply(values, np.float32(factor), dtype=np.float32)
        else:
            known += values if factor == 1 else values * np.float32(factor)
