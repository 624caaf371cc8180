"""Columns of a table: numbers, standardised; or categories, one input each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crowdlearn_host.errors import ConfigError

from .base import listed, whole_order

MISSING = frozenset({"", "na", "n/a", "nan", "null", "?"})
"""Words that stand for a missing value, in small letters."""
MOST_CATEGORIES = 100
MOSTLY = 0.5
"""The share of numbers from which on a word in a column is taken for a mistake."""


def is_missing(cell: str) -> bool:
    """Return whether a cell holds no value."""
    return cell.strip().lower() in MISSING


def number(cell: str) -> float | None:
    """Return a cell as a number; None if it is a word."""
    try:
        value = float(cell) if "_" not in cell else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Numbers:
    """A column of numbers, less `middle` and over `spread`; `usual` takes the place of missing ones."""

    name: str
    usual: float
    middle: float
    spread: float

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the names of the inputs."""
        return (self.name,)

    def encode(self, cells: Sequence[str], lines: Sequence[int], split: str) -> NDArray[np.float32]:
        """Return float32 [N, 1]; a missing value is the usual one. Raises ConfigError if a cell is a word."""
        values = np.zeros((len(cells), 1))
        for at, cell in enumerate(cells):
            value = self.usual if is_missing(cell) else number(cell)
            if value is None:
                raise ConfigError(
                    f"line {lines[at]} of the {split} data: column {self.name} holds {cell!r} among numbers; "
                    "correct it, or name the column in --categories"
                )
            values[at] = (value - self.middle) / self.spread
        return values.astype(np.float32)


@dataclass(frozen=True)
class Categories:
    """A column of categories: one input each, 1 for the sample's own; `usual` is the most frequent."""

    name: str
    words: tuple[str, ...]
    usual: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the names of the inputs."""
        return tuple(f"{self.name}={word}" for word in self.words)

    def encode(self, cells: Sequence[str], lines: Sequence[int], split: str) -> NDArray[np.float32]:
        """Return float32 [N, categories]; a missing value is the usual one.

        Raises ConfigError if a cell holds a category that the training data does not.
        """
        places = {word: place for place, word in enumerate(self.words)}
        values = np.zeros((len(cells), len(self.words)), np.float32)
        for at, cell in enumerate(cells):
            word = self.usual if is_missing(cell) else cell.strip()
            if word not in places:
                raise ConfigError(
                    f"line {lines[at]} of the {split} data: column {self.name} holds {word!r}, and the "
                    f"training data has {listed(self.words)}; correct it, leave the line out, or split with "
                    "another --seed"
                )
            values[at, places[word]] = 1
        return values


def column(
    name: str, cells: Sequence[str], lines: Sequence[int], *, categories: bool, standardise: bool
) -> Numbers | Categories:
    """Return what a column of the training data holds: numbers, if all cells but missing ones are, or
    else categories.

    Raises ConfigError if it is neither for sure, has no value at all, or too many categories.
    """
    present = [(line, cell.strip()) for line, cell in zip(lines, cells, strict=True) if not is_missing(cell)]
    if not present:
        raise ConfigError(f"column {name} has no value in the training data; leave it out with --without")
    values = [number(cell) for _, cell in present]
    numbers = [value for value in values if value is not None]
    if len(numbers) == len(present) and not categories:
        mean = float(np.mean(numbers))
        spread = float(np.std(numbers)) if standardise else 1.0
        return Numbers(name, mean, mean if standardise else 0.0, spread or 1.0)
    if numbers and not categories and len(numbers) >= MOSTLY * len(present):
        line, cell = next(pair for pair, value in zip(present, values, strict=True) if value is None)
        raise ConfigError(
            f"column {name} holds numbers, and {cell!r} in line {line}; correct it, or name the column in "
            "--categories"
        )
    counted = Counter(cell for _, cell in present)
    if len(counted) > MOST_CATEGORIES:
        raise ConfigError(
            f"column {name} holds {len(counted)} different words, at most {MOST_CATEGORIES} become inputs; "
            "leave it out with --without"
        )
    words = tuple(whole_order(list(counted)))
    return Categories(name, words, max(words, key=lambda word: counted[word]))
