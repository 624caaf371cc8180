"""The cost of a run's augmentation: memory and time of the dominator, which changes its samples in NumPy."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from crowdlearn_device.data.augmentation.registry import augmented

from crowdlearn_host.spec.augment import AugmentSection


@dataclass(frozen=True)
class AugmentCost:
    """Bytes that a dominator holds at most while it changes a mini-batch, and seconds of this computer's
    processor for one sample.
    """

    bytes: float
    seconds: float


def augment_cost(chain: Sequence[AugmentSection], sample: tuple[int, ...], batch: int) -> AugmentCost:
    """Return what changing mini-batches of samples of this shape costs, measured on one of them: an array has
    the same bytes on a phone.
    """
    if not chain:
        return AugmentCost(0.0, 0.0)
    rules = [each.rule for each in chain]
    place = {"seed": 0, "epoch": 0, "device": 0, "number": 0}

    def change() -> None:
        augmented(rules, np.zeros((batch, *sample), np.float32), **place)

    change()  # what NumPy imports and keeps is not counted
    started = time.process_time()
    change()
    seconds = (time.process_time() - started) / batch
    tracemalloc.start()
    change()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return AugmentCost(float(most), seconds)


def cost_in_words(chain: Sequence[AugmentSection], cost: AugmentCost, batch: int) -> str:
    """Return the cost in words."""
    names = ", ".join(each.kind for each in chain)
    return (
        f"augmentation ({names}): the dominator holds {cost.bytes / 1e6:.1f} MB more while it changes a "
        f"mini-batch of {batch}; a sample takes {cost.seconds * 1e6:.0f} microseconds of this computer's "
        "processor"
    )
