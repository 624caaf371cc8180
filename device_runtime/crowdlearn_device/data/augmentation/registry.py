"""Augmentations by name, and the chain of them that a run has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

import numpy as np

from crowdlearn_device.errors import DataError

from .base import Augmentation, Samples
from .maps import Crop, Erase, Flip
from .values import Noise, Offset, Scale, Shift

AUGMENTATIONS: dict[str, type[Augmentation]] = {
    each.kind: each for each in (Crop, Flip, Erase, Noise, Scale, Offset, Shift)
}
MOST = 32
"""Changes of a run: a device spends no more on what a host names."""
AUGMENTED = 7
"""Tells these draws from all others of a run's seed."""


def make_augmentation(kind: str, options: Mapping[str, float]) -> Augmentation:
    """Return an augmentation by its name and options. Raises ValueError naming what there is."""
    of = AUGMENTATIONS.get(kind)
    if of is None:
        raise ValueError(f"no augmentation {kind[:80]!r}; there are {', '.join(sorted(AUGMENTATIONS))}")
    known = [field.name for field in fields(of)]
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(
            f"augmentation {kind} has no {', no '.join(unknown)[:80]}; it has {', '.join(known)}"
        )
    whole = {field.name for field in fields(of) if field.type == "int"}
    given = {name: int(x) if name in whole and x == x // 1 else x for name, x in options.items()}
    return of(**given)


def check_augmentations(chain: Sequence[Augmentation], sample: tuple[int, ...], *, integers: bool) -> None:
    """Raise DataError if samples of this shape cannot be changed so; `integers` are codes, not numbers."""
    if len(chain) > MOST:
        raise DataError(f"training.augment has {len(chain)} changes, {MOST} are possible; leave some out")
    if chain and integers:
        raise DataError(
            "training.augment changes numbers, and this model takes whole numbers (tokens, categories); "
            "leave it out"
        )
    for each in chain:
        if why := each.misfit(sample):
            raise DataError(
                f"training.augment: {why}, and a sample here has shape {list(sample)}; leave {each.kind} "
                "out, or give another model or option"
            )


def augmented(
    chain: Sequence[Augmentation], samples: Samples, *, seed: int, epoch: int, device: int, number: int
) -> Samples:
    """Return the samples of mini-batch `number` of a device's pass, changed: float32 [rows, ...].

    The same seed and place give the same numbers, whatever was fed before.
    """
    draw = np.random.default_rng((seed, epoch, device, number, AUGMENTED))
    for each in chain:
        samples = each.applied(samples, draw)
    return np.ascontiguousarray(samples, np.float32)
