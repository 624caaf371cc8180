"""Data on this computer: the test set, and training sets dealt out to emulated phones."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from crowdlearn_device.data.dataset import Dataset, Split, load_dataset, load_npz
from crowdlearn_device.errors import DataError

from crowdlearn_host.errors import ConfigError
from crowdlearn_host.models.names import input_shape
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


def _may_be_converted(place: Path) -> bool:
    """Return whether a place holds samples of another kind than a data folder's."""
    return place.is_file() or (place.is_dir() and any(place.iterdir()))


def sample_shape(config: RunSpec, test: Dataset | None) -> tuple[int, ...]:
    """Return the shape of one sample as the configuration's model takes it."""
    if config.input_shape is not None:
        return config.input_shape
    return input_shape(config.model, test.inputs.shape[1:] if test is not None else ())


def _digits(split: Split) -> Dataset:
    from sklearn.datasets import load_digits  # takes a second, and only this data needs it

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    chosen = order[:DIGITS_TRAIN] if split == "train" else order[DIGITS_TRAIN:]
    return Dataset((bunch.data[chosen] / 16.0).astype(np.float32), bunch.target[chosen].astype(np.int64))


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
