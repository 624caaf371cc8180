"""Data on this computer: the test set, and training sets dealt out to emulated phones."""

from __future__ import annotations

import io

import numpy as np
from crowdlearn_device.data.dataset import Dataset, Split, load_dataset
from crowdlearn_device.errors import DataError

from crowdlearn_host.errors import ConfigError
from crowdlearn_host.models.names import input_shape
from crowdlearn_host.spec.run_spec import DIGITS, RunSpec

DIGITS_TRAIN = 1437
"""Of scikit-learn's 1797 images of digits; the rest is the test set."""


def load_split(name: str, split: Split) -> Dataset:
    """A data set by its folder, or "digits". Raises ConfigError where it cannot be read."""
    if name == DIGITS:
        return _digits(split)
    try:
        return load_dataset(name, split)
    except DataError as error:
        raise ConfigError(f"data = {name!r}: {error}") from error


def sample_shape(config: RunSpec, test: Dataset | None) -> tuple[int, ...]:
    """The shape of one sample as the configuration's model takes it."""
    if config.input_shape is not None:
        return config.input_shape
    return input_shape(config.model, test.inputs.shape[1:] if test is not None else ())


def _digits(split: Split) -> Dataset:
    from sklearn.datasets import load_digits  # takes a second, and only this data needs it

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    chosen = order[:DIGITS_TRAIN] if split == "train" else order[DIGITS_TRAIN:]
    return Dataset((bunch.data[chosen] / 16.0).astype(np.float32), bunch.target[chosen].astype(np.int64))


def deal(data: Dataset, devices: int, seed: int) -> list[Dataset]:
    """The samples dealt out at random, as evenly as they divide. Raises ConfigError if there are too few."""
    check_enough(data, devices)
    order = np.random.default_rng(seed).permutation(len(data))
    return [data.subset(part) for part in np.array_split(order, devices)]


def check_enough(data: Dataset, devices: int) -> None:
    """Raise ConfigError if the samples are too few for so many devices."""
    if len(data) < 2 * devices:
        raise ConfigError(
            f"data: {len(data)} samples are too few for {devices} devices; each needs 2 at least"
        )


def to_npz(data: Dataset) -> bytes:
    """The data set as the `train.npz` that a device reads."""
    buffer = io.BytesIO()
    np.savez(buffer, inputs=data.inputs, labels=data.labels)
    return buffer.getvalue()
