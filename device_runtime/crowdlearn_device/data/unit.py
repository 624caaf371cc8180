"""The unit that samples are in, so that a model never meets samples of another unit without a word."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any, Self

import numpy as np

from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.errors import DataError

LOOKED_AT = 1 << 20
"""Values of a data set that are looked at, at most, spread evenly."""
MOST_APART = 8.0
"""Times by which two data sets of one unit may differ in reach."""
ENOUGH = 200
"""Values that a data set must have for its reach and its share below 0 to mean something."""
FEW, FAR_APART = 20, 64.0
"""Fewer values, and times by which these are apart for certain, as levels of 0 to 255 and 0 to 1 are."""
BELOW_ZERO = 0.1
"""The share of values below 0 that data in a unit of 0 to 1 does not have."""


@dataclass(frozen=True)
class Unit:
    """The numbers of a data set: `count` of them, from `least` to `most`. 99 of 100 are no larger than
    `reach` in size, and `negative` is the share below 0. Bytes were `scaled` to 0 to 1.
    """

    scaled: bool
    count: int
    least: float
    most: float
    reach: float
    negative: float

    @classmethod
    def of(cls, data: Dataset) -> Self:
        """Return the unit of a data set that is not empty."""
        values = data.inputs.reshape(-1)
        some = values[:: -(-values.size // LOOKED_AT)]
        reach = float(np.quantile(np.abs(some), 0.99))
        return cls(
            data.scaled,
            values.size,
            float(values.min()),
            float(values.max()),
            reach,
            float(np.mean(some < 0)),
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the unit that `to_json` wrote. Raises DataError if the text is none."""
        try:
            fields: Any = json.loads(text)
            numbers = {name: float(fields[name]) for name in ("least", "most", "reach", "negative")}
            return cls(bool(fields["scaled"]), int(fields["count"]), **numbers)
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise DataError(f"{text[:100]!r} is no unit of samples: {error}") from error

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @property
    def within_one(self) -> bool:
        """Return True if all numbers are from 0 to 1."""
        return self.least >= 0 and self.most <= 1

    def __str__(self) -> str:
        return "bytes, which are scaled to 0 to 1" if self.scaled else f"from {self.least:g} to {self.most:g}"


def check_units(
    data: Dataset | Unit, other: Dataset | Unit, source: str, other_source: str, *, alike: bool = True
) -> None:
    """Raise DataError, naming both sources, if the two are not in one unit: bytes and numbers beyond 0 to 1;
    numbers of another size; or values from 0 to 1 and values of which many are below 0. The samples of one
    device need not be `alike` others, as a quiet room is not: then only sizes that are far apart count.
    """
    one, two = (each if isinstance(each, Unit) else Unit.of(each) for each in (data, other))
    if one.scaled and two.scaled:
        return
    small, large = sorted((one.reach, two.reach))
    mixed = one.scaled != two.scaled and not (one.within_one and two.within_one)
    count = min(one.count, two.count)
    sure = alike and count >= ENOUGH
    allowed = MOST_APART if sure else FAR_APART if count >= FEW else inf
    apart = small > 0 and large > allowed * small
    negative = one.within_one != two.within_one and max(one.negative, two.negative) > BELOW_ZERO
    if mixed or apart or (negative and sure):
        raise DataError(
            f"{source} and {other_source} are not in one unit: numbers of the first are {one}, of the other "
            f"{two}; save both as uint8, or both as float32 in one unit"
        )


def load_unit(path: Path) -> Unit | None:
    """Return the unit that a file holds; None if there is no such file. Raises DataError if it is damaged."""
    try:
        return Unit.from_json(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); take the model anew") from error
