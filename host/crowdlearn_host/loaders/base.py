"""A loader: one way in which people keep samples, as an object."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from crowdlearn_host.errors import ConfigError

MAX_SAMPLES_BYTES = 2 << 30
"""Bytes of the samples of one split, as a device reads them."""
MOST_DIGITS = 18
"""Digits of a whole number; longer ones are names."""
SHOWN = 5
"""Names that a message lists at most."""


class Samples(Protocol):
    """Samples as they were read, before anything is learned about them."""

    def __len__(self) -> int: ...

    def subset(self, indices: NDArray[np.int64]) -> Self:
        """Return the samples at `indices` int64 [n], in that order."""


Item = TypeVar("Item")
Raw = TypeVar("Raw", bound=Samples)


@dataclass(frozen=True)
class Items(Generic[Item]):
    """Samples that are objects one by one."""

    items: tuple[Item, ...]

    def __len__(self) -> int:
        return len(self.items)

    def subset(self, indices: NDArray[np.int64]) -> Items[Item]:
        """Return the samples at `indices` int64 [n], in that order."""
        return Items(tuple(self.items[index] for index in indices))


@dataclass(frozen=True)
class Arrays:
    """Samples as a data folder holds them: `inputs` uint8 (which a device divides by 255), int32 or float32
    [N, ...], `labels` int64 or float32 [N, ...].
    """

    inputs: NDArray[Any]
    labels: NDArray[Any]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: NDArray[np.int64]) -> Arrays:
        """Return the samples at `indices` int64 [n], in that order."""
        return Arrays(self.inputs[indices], self.labels[indices])


@dataclass
class Notes:
    """The record of a conversion: `said` in sentences, the `classes` in their order, and the `inputs` by
    name, if they have names.
    """

    said: list[str] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()

    def say(self, text: str) -> None:
        """Add a sentence, once."""
        if text not in self.said:
            self.said.append(text)


Encode = Callable[[Raw, str], Arrays]
"""Makes arrays of the samples of one split, which the second argument names."""


class Loader(ABC, Generic[Raw]):
    """A way to keep samples. Subclasses are frozen dataclasses whose fields are the loader's options, each
    `Annotated` with its help.
    """

    kind: ClassVar[str]
    about: ClassVar[str]
    """One line for the help."""
    suffixes: ClassVar[tuple[str, ...]] = ()
    """The endings of its files."""

    @abstractmethod
    def read(self, place: Path, notes: Notes) -> Raw:
        """Return all samples of one file or folder. Raises ConfigError if one cannot be read."""

    @abstractmethod
    def encoder(self, train: Raw, notes: Notes) -> Encode[Raw]:
        """Return what makes arrays of samples, by what the training split alone tells: categories, means,
        sizes. Raises ConfigError, then or when called, if samples do not fit.
        """

    def places(self, source: Path) -> dict[str, Path]:
        """Return where each split lies, if `source` is a folder with files `train` and `test` (and perhaps
        `validation`) of the loader's kind; otherwise the one place "all".
        """
        if not source.exists():
            raise ConfigError(f"{source} is not there; name what is to be converted")
        if not source.is_dir():
            return {"all": source}
        found = {
            split: path
            for split in ("train", "validation", "test")
            for suffix in self.suffixes
            if (path := source / f"{split}{suffix}").exists()
        }
        if "train" not in found:
            files = listed([f"train{suffix}" for suffix in self.suffixes], " or ")
            raise ConfigError(f"{source} is a folder without {files}; name a file, or a folder with that")
        return found


def extra(module: str, package: str, name: str) -> ModuleType:
    """Return an optional package. Raises ConfigError that names the extra to install."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"this needs the package {package}; install it with: pip install 'crowdlearn[{name}]'"
        ) from error


def listed(names: Sequence[object], last: str = ", ") -> str:
    """Return the first SHOWN names in a row, and how many more there are."""
    shown = [str(name) for name in names[:SHOWN]]
    more = len(names) - len(shown)
    return ", ".join(shown) + f" and {more} more" if more else last.join(shown)


def class_numbers(found: Sequence[str], classes: Sequence[str], where: Callable[[int], str]) -> NDArray[Any]:
    """Return int64 [N], the place of each sample's class in `classes`.

    Raises ConfigError with `where` of the first sample, counted from 0, whose class is none of them.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    for at, name in enumerate(found):
        if name not in numbers:
            raise ConfigError(
                f"{where(at)}: class {name!r} is none of the training data's {len(classes)}: "
                f"{listed(classes)}; correct it, or leave the sample out"
            )
    return np.array([numbers[name] for name in found], np.int64)


def check_size(samples: int, values: int, bytes_each: int, source: object) -> None:
    """Raise ConfigError if so many samples of so many values would be more than MAX_SAMPLES_BYTES."""
    size = samples * values * bytes_each
    if size > MAX_SAMPLES_BYTES:
        raise ConfigError(
            f"{source}: {samples} samples of {values} values are {size / (1 << 30):.1f} GiB; at most "
            f"{MAX_SAMPLES_BYTES >> 30} GiB fit a data folder; take fewer or smaller samples"
        )


def whole_order(names: Sequence[str]) -> list[str]:
    """Return names in order: whole numbers by their value, before words by their letters."""
    return sorted(names, key=lambda name: (0, int(name), name) if is_whole(name) else (1, 0, name))


def is_whole(text: str) -> bool:
    """Return whether a text is a whole number in ASCII digits."""
    digits = text[1:] if text[:1] in "+-" else text
    return digits.isascii() and digits.isdigit() and len(digits) <= MOST_DIGITS
