"""Data on this computer: the test set, and training sets dealt out to emulated phones."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import numpy as np
from crowdlearn_device.data.dataset import Dataset, Split, load_dataset, load_npz
from crowdlearn_device.data.unit import check_units
from crowdlearn_device.errors import DataError

from crowdlearn_host.errors import ConfigError
from crowdlearn_host.models.names import input_shape
from crowdlearn_host.spec.provenance import RunInput, run_inputs
from crowdlearn_host.spec.run_spec import DIGITS, RunSpec
from crowdlearn_host.spec.validation import ValidationSection

VALIDATION = "validation.npz"
DIGITS_TRAIN = 1437
"""The training samples of scikit-learn's 1797 images of digits; the rest is the test set."""


def load_split(name: str, split: Split) -> Dataset:
    """Return a data set by its folder, or "digits". Raises ConfigError if it cannot be read."""
    if name == DIGITS:
        return _digits(split)
    try:
        return load_dataset(name, split)
    except DataError as error:
        convert = "; crowdlearn convert makes a data folder of it" if _may_be_converted(Path(name)) else ""
        raise ConfigError(f"data = {name!r}: {error}{convert}") from error


def validated(
    place: str, wanted: ValidationSection | None, train: Dataset | None, seed: int
) -> tuple[Dataset | None, Dataset | None]:
    """Return the samples to train on and those to validate by: a share of `train`, drawn by `seed`, or the
    file of the data folder; None for what is not wanted.

    Raises ConfigError if there is no such file, or too few samples.
    """
    if wanted is None:
        return train, None
    if not wanted.share:
        file = Path(place) / VALIDATION
        if place == DIGITS or not file.is_file():
            raise ConfigError(
                f"validation.share is 0, and data = {place!r} has no {VALIDATION}: set validation.share = "
                "0.1, or convert the data with --validation-share"
            )
        try:
            return train, load_npz(file)
        except DataError as error:
            raise ConfigError(str(error)) from error
    assert train is not None
    order = np.random.default_rng((seed, 31)).permutation(len(train))
    count = round(len(train) * wanted.share)
    if count < 2:
        raise ConfigError(
            f"validation.share = {wanted.share:g} of {len(train)} training samples are too few; raise it"
        )
    return train.subset(np.sort(order[count:])), train.subset(np.sort(order[:count]))


@dataclass(frozen=True)
class Splits:
    """The samples of a run that this computer has, of the shape `sample` each: to train on, to test and to
    validate by, None for what is not here. `given` is what was read, by name.
    """

    train: Dataset | None
    test: Dataset | None
    validation: Dataset | None
    sample: tuple[int, ...]
    given: dict[str, RunInput]
    folder: str

    def mapped(self, change: Callable[[Dataset, str], Dataset]) -> Self:
        """Return the splits that `change` makes of each and its name in errors."""
        return replace(
            self,
            train=self.train and change(self.train, f"training data of {self.folder}"),
            test=self.test and change(self.test, f"test data of {self.folder}"),
            validation=self.validation and change(self.validation, f"validation data of {self.folder}"),
        )


def splits_of(config: RunSpec) -> Splits:
    """Read the samples of a run, each in the shape that its model takes.

    Raises ConfigError if they cannot be read, or are unlike each other.
    """
    train = load_split(config.data, "train") if config.data and config.device_data is None else None
    test = load_split(config.data, "test") if config.data else None
    train, validation = validated(config.data or "", config.validation, train, config.training.seed)
    given = run_inputs(config.model, config.group.plan, config.data, train, test, validation=validation)
    if train is not None and test is not None:
        # A model that takes flat samples would take splits of different layouts.
        train.shaped(test.inputs.shape[1:], f"training data of {config.data}, unlike its test data")
    for name, other in (("test", test), ("validation", validation)):
        if train is not None and other is not None:
            check_units(train, other, f"training data of {config.data}", f"its {name} data")
    sample = sample_shape(config, test)
    splits = Splits(train, test, validation, sample, given, config.data or "")
    return splits.mapped(lambda data, source: data.shaped(sample, source))


def _may_be_converted(place: Path) -> bool:
    """Return whether a place holds samples of another kind than a data folder's."""
    return place.is_file() or (place.is_dir() and any(place.iterdir()))


def sample_shape(config: RunSpec, test: Dataset | None) -> tuple[int, ...]:
    """Return the shape of one sample as the configuration's model takes it."""
    if config.input_shape is not None:
        return config.input_shape
    return input_shape(config.model, test.inputs.shape[1:] if test is not None else ())


def _digits(split: Split) -> Dataset:
    """Read scikit-learn's digits from its file: importing it takes a second of processor time."""
    package = find_spec("sklearn")
    assert package is not None
    assert package.submodule_search_locations is not None
    (folder,) = package.submodule_search_locations
    table = np.loadtxt(Path(folder, "datasets", "data", "digits.csv.gz"), delimiter=",")
    order = np.random.default_rng(0).permutation(len(table))
    chosen = table[order[:DIGITS_TRAIN] if split == "train" else order[DIGITS_TRAIN:]]
    return Dataset((chosen[:, :-1] / 16.0).astype(np.float32), chosen[:, -1].astype(np.int64))


def deal(data: Dataset, sizes: Sequence[int], seed: int) -> list[Dataset]:
    """Deal so many samples to each device, drawn at random."""
    order = np.random.default_rng(seed).permutation(len(data))
    ends = np.cumsum(sizes)
    return [data.subset(order[end - size : end]) for size, end in zip(sizes, ends, strict=True)]


def shares_of(samples: int, shares: Sequence[int]) -> list[int]:
    """Return how many of all samples each device gets, as near to its share as whole samples come.

    Raises ConfigError if a device would get less than 2.
    """
    total = max(sum(shares), 1)
    sizes = [samples * share // total for share in shares]
    owed = sorted(range(len(shares)), key=lambda k: (-(samples * shares[k] % total), k))
    for k in owed[: samples - sum(sizes)]:
        sizes[k] += 1
    dealt = sum(map(bool, shares))
    if not dealt or any(share and size < 2 for share, size in zip(shares, sizes, strict=True)):
        raise ConfigError(f"data: {samples} samples are too few for {dealt} devices; each needs 2 at least")
    return sizes


def to_npz(data: Dataset) -> bytes:
    """Return the data set as the `train.npz` that a device reads."""
    buffer = io.BytesIO()
    np.savez(buffer, inputs=data.inputs, labels=data.labels)
    return buffer.getvalue()
