"""How training samples lie on devices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from crowdlearn_device.data.dataset import Dataset, load_npz, long_axes
from crowdlearn_device.data.unit import check_units
from numpy.typing import NDArray

from crowdlearn_host.errors import ConfigError
from crowdlearn_host.spec.simulation import PartitionConfig

Indices = NDArray[np.int64]
LEAST = 2
"""Samples of a device: batch norm has no variance of one."""


def partition(labels: Indices, devices: int, config: PartitionConfig, seed: int) -> list[Indices]:
    """Return positions of each device's samples, at least 2; every one but a remainder lies on exactly one
    device.

    Raises ConfigError if there are too few samples. Each is int64 [n].
    """
    if (labels.dtype.kind != "i" or labels.ndim > 1) and config.kind in ("dirichlet", "shards"):
        raise ConfigError(
            f"partition {config.kind} needs a class for each sample, and the labels are "
            f"{'numbers' if labels.dtype.kind != 'i' else 'sequences'}; choose iid"
        )
    if len(labels) < LEAST * devices:
        raise ConfigError(
            f"{len(labels)} samples for {devices} devices; each needs {LEAST}, use fewer devices"
        )
    if config.kind == "dealt":
        return np.array_split(np.random.default_rng(seed).permutation(len(labels)), devices)
    rng = np.random.default_rng((seed, 0x5EED))
    if config.kind == "iid":
        return [np.sort(part) for part in np.array_split(rng.permutation(len(labels)), devices)]
    if config.kind == "dirichlet":
        return _dirichlet(labels, devices, config.alpha, rng)
    if config.kind == "shards":
        parts = _shards(labels, devices, config.shards, rng)
        fewest = min(range(devices), key=lambda device: len(parts[device]))
        if len(parts[fewest]) < LEAST:
            raise ConfigError(
                f"device {fewest} has {len(parts[fewest])} of {len(labels)} samples and needs {LEAST}: "
                f"make partition.shards less than {config.shards}, or devices fewer"
            )
        return parts
    raise ConfigError("partition.kind = 'files': the folder's device-*.npz files decide the partition")


def load_device_files(folder: str | Path, devices: int) -> tuple[Dataset, list[Indices]]:
    """Return all of the folder's `device-*.npz`, by name, as one data set, and the positions of each one's
    samples.

    Raises ConfigError if there are not `devices` of them or one holds a single sample, DataError where one
    is damaged. Each is int64 [n].
    """
    paths = sorted(Path(folder).glob("device-*.npz"))
    if len(paths) != devices:
        raise ConfigError(
            f"{folder} has {len(paths)} files device-*.npz for {devices} devices; make them equal"
        )
    parts = [load_npz(path) for path in paths]
    for path, part in zip(paths, parts, strict=True):
        if len(part) < LEAST:
            raise ConfigError(f"{path} holds {len(part)} sample; give the device {LEAST}, or leave it out")
    # One that is flat says nothing of the layout that the others must agree in.
    laid_out = max(range(len(parts)), key=lambda at: len(long_axes(parts[at].inputs.shape[1:])))
    shape = parts[laid_out].inputs.shape[1:]
    parts = [
        part.shaped(shape, f"{path}, unlike {paths[laid_out].name}")
        for path, part in zip(paths, parts, strict=True)
    ]
    for path, part in zip(paths, parts, strict=True):
        check_units(parts[0], part, str(paths[0]), path.name, alike=False)
    ends = np.cumsum([len(part) for part in parts])
    inputs, labels = (
        np.concatenate(arrays) for arrays in zip(*((p.inputs, p.labels) for p in parts), strict=True)
    )
    whole = Dataset(inputs, labels, parts[0].scaled)
    return whole, [np.arange(end - len(part), end) for part, end in zip(parts, ends, strict=True)]


def _dirichlet(labels: Indices, devices: int, alpha: float, rng: np.random.Generator) -> list[Indices]:
    """Draw equal parts; a device draws its class shares once, and takes from what is left of each class.

    Source: Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution", 2019.
    """
    classes = int(labels.max()) + 1
    pools = [rng.permutation(np.flatnonzero(labels == c)).tolist() for c in range(classes)]
    size = len(labels) // devices
    parts = []
    for _ in range(devices):
        shares = rng.dirichlet(np.full(classes, alpha))
        part: list[int] = []
        while len(part) < size:
            left = np.array([len(pool) for pool in pools])
            # A class that ran out hands its share to the others; epsilon keeps shares above a true zero.
            weights = (shares + 1e-12) * (left > 0)
            wanted = rng.multinomial(size - len(part), weights / weights.sum())
            for pool, count in zip(pools, np.minimum(wanted, left), strict=True):
                part += pool[len(pool) - count :]
                del pool[len(pool) - count :]
        parts.append(np.sort(np.array(part, np.int64)))
    return parts


def _shards(labels: Indices, devices: int, shards: int, rng: np.random.Generator) -> list[Indices]:
    """Return samples sorted by label in devices * shards parts, `shards` of them a device (McMahan et al.,
    2017).
    """
    shuffled = rng.permutation(len(labels))
    by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
    parts: Sequence[Any] = np.array_split(by_label, devices * shards)
    drawn = rng.permutation(devices * shards).reshape(devices, shards)
    return [np.sort(np.concatenate([parts[shard] for shard in row])) for row in drawn]
