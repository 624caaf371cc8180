"""Numbers as integers modulo 2^32: sums of them are exact, in any order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crowdlearn_device.errors import AggregationError

Words = npt.NDArray[np.uint32]
WORD_BYTES = 4


@dataclass(frozen=True)
class FixedPoint:
    """Numbers with `fraction` binary places, of which at most `terms` are summed.

    A number may be as large as `largest`, so that no sum of `terms` of them wraps around.
    """

    terms: int
    fraction: int = 20

    @property
    def largest(self) -> float:
        """Return the largest magnitude of a term."""
        return ((1 << 31) - 1) // self.terms / (1 << self.fraction)

    def encode(self, values: npt.NDArray[np.float32]) -> Words:
        """Return float32 [n] as uint32 [n], each rounded to the nearest step.

        Raises AggregationError if a value is not finite or larger than `largest`.
        """
        most = float(np.abs(values).max(initial=0.0))
        if not most <= self.largest:
            raise AggregationError(
                f"a weight of {most:.3g} does not fit a secure sum of {self.terms} devices (at most "
                f"{self.largest:.3g}): training has diverged; lower training.learning_rate"
            )
        scaled = np.rint(values.astype(np.float64) * (1 << self.fraction)).astype(np.int64)
        return scaled.astype(np.uint32)  # modulo 2^32

    def decode(self, total: Words) -> npt.NDArray[np.float64]:
        """Return the sum uint32 [n] as float64 [n]."""
        return total.astype(np.int32) / float(1 << self.fraction)
