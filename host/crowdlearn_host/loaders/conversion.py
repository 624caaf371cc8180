"""Converting samples into a data folder, and telling what was done."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from crowdlearn_device.data.dataset import checked
from crowdlearn_device.errors import DataError
from crowdlearn_device.platform.files import replacing, write_atomically
from crowdlearn_device.protocol.targets import IGNORED

from crowdlearn_host.errors import ConfigError

from .base import Arrays, Loader, Notes, Samples

FILE = "conversion.json"
"""The record of a conversion, beside the samples."""
SPLITS = ("train", "validation", "test")
LEAST = 2
"""Samples of each split."""


@dataclass(frozen=True)
class Conversion:
    """The record of a conversion: `splits` are samples by split, and `sample` is the shape of one. `labels`
    names their kind; `classes` and `inputs` are names in their order, `notes` are sentences.
    """

    folder: str
    loader: str
    source: str
    options: dict[str, Any]
    splits: dict[str, int]
    sample: tuple[int, ...]
    labels: str
    classes: tuple[str, ...]
    inputs: tuple[str, ...]
    notes: tuple[str, ...]


def convert(
    loader: Loader[Any],
    source: str | Path,
    to: str | Path,
    *,
    test: str | Path | None = None,
    test_share: float = 0.2,
    validation_share: float = 0.0,
    seed: int = 0,
    force: bool = False,
    on_step: Callable[[str], None] = lambda text: None,
) -> Conversion:
    """Write the samples of `source` as a data folder `to`, and return what was done.

    A source that has no test split of its own gives `test_share` of its samples, drawn by `seed`, unless
    `test` names others. Nothing is learned from the test split: no category, mean or size.
    Raises ConfigError if samples do not fit, or `to` holds files that no conversion wrote, unless `force`.
    """
    folder, notes = Path(to), Notes()
    check_folder(folder, force=force)
    places = loader.places(Path(source))
    if test is not None:
        if "test" in places:
            raise ConfigError(f"{source} has a test split of its own; leave --test out, or name its train")
        others = loader.places(Path(test))
        places["test"] = others.get("test", others.get("all", Path(test)))
    read: dict[str, Samples] = {}
    for split, place in places.items():
        on_step(f"reading {place}")
        read[split] = loader.read(place, notes)
    parts = _split(read, test_share, validation_share, seed, notes, str(source))
    encode = loader.encoder(parts["train"], notes)
    written: dict[str, Arrays] = {}
    for split in filter(parts.__contains__, SPLITS):
        on_step(f"converting the {split} data")
        written[split] = encode(parts[split], split)
        _check(written[split], split)
    train = written["train"]
    done = Conversion(
        str(folder.resolve()),
        loader.kind,
        str(Path(source).resolve()),
        _options(loader),
        {split: len(arrays) for split, arrays in written.items()},
        tuple(train.inputs.shape[1:]),
        _summary(train, notes),
        notes.classes,
        notes.inputs,
        tuple(notes.said),
    )
    on_step(f"writing {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        if split not in written:
            (folder / f"{split}.npz").unlink(missing_ok=True)
    for split, arrays in written.items():
        inputs = arrays.inputs if arrays.inputs.dtype == np.uint8 else arrays.inputs.astype(np.float32)
        with replacing(folder / f"{split}.npz") as file:
            np.savez(file, inputs=inputs, labels=arrays.labels)
    write_atomically(folder / FILE, json.dumps(asdict(done), indent=1).encode())
    return done


def check_folder(folder: Path, *, force: bool) -> None:
    """Raise ConfigError if the folder holds anything that no conversion wrote, unless `force`."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--to {folder} is a file; name a folder")
    if force or not folder.is_dir() or (folder / FILE).is_file():
        return
    if any(folder.iterdir()):
        raise ConfigError(
            f"--to {folder} holds files that no conversion wrote; name another folder, or give --force"
        )


def _split(
    read: dict[str, Samples],
    test_share: float,
    validation_share: float,
    seed: int,
    notes: Notes,
    source: str,
) -> dict[str, Any]:
    """Return samples by split; those without a split of their own are dealt out by `seed`."""
    for name, share in (("test", test_share), ("validation", validation_share)):
        if not 0 <= share < 1:
            raise ConfigError(f"--{name}-share {share} must be from 0 to 1, less than 1")
    parts: dict[str, Any] = {split: samples for split, samples in read.items() if split != "all"}
    rest: Any = read.get("all") or parts.pop("train")
    order = np.random.default_rng(seed).permutation(len(rest))
    taken = 0
    for split, share in (("test", test_share), ("validation", validation_share)):
        if split in parts or not (share or split == "test"):
            continue
        count = round(len(rest) * share)
        if count < LEAST:
            raise ConfigError(
                f"{source}: {share:g} of {len(rest)} samples are too few for the {split} data; give a larger "
                f"--{split}-share" + (", or --test FILE" if split == "test" else "")
            )
        parts[split] = rest.subset(np.sort(order[taken : taken + count]))
        taken += count
        notes.say(f"{split}: {count} of {len(rest)} samples, drawn at random by --seed {seed}")
    if len(rest) - taken < LEAST:
        raise ConfigError(f"{source}: {len(rest)} samples leave too few to learn from; give more")
    parts["train"] = rest.subset(np.sort(order[taken:]))
    return parts


def _check(arrays: Arrays, split: str) -> None:
    """Raise ConfigError if a run would refuse the samples, or there is nothing to learn of them."""
    if not arrays.inputs.size:
        raise ConfigError(f"the {split} data has samples {arrays.inputs.shape[1:]}, which hold nothing")
    try:
        labels = checked(arrays.inputs, arrays.labels, f"the {split} data").labels
    except DataError as error:
        raise ConfigError(str(error)) from error
    counted = labels[labels != IGNORED] if labels.ndim > 1 else labels
    if split == "train" and len(counted) and counted.min() == counted.max():
        raise ConfigError(f"all labels of the training data are {counted.min():g}; nothing to learn")


def _summary(arrays: Arrays, notes: Notes) -> str:
    """Return in words what the labels are."""
    labels = arrays.labels
    if labels.dtype.kind == "f":
        return "numbers" if labels.ndim == 1 else f"numbers {list(labels.shape[1:])}"
    counted = labels[labels != IGNORED]
    count = len(notes.classes) or int(counted.max()) + 1
    each = "" if labels.ndim == 1 else f" at each of {labels.shape[1]} positions"
    return f"{count} classes{each}"


def _options(loader: Loader[Any]) -> dict[str, Any]:
    """Return the loader's options as JSON has them."""
    values = {each.name: getattr(loader, each.name) for each in fields(loader)}  # type: ignore[arg-type]
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
