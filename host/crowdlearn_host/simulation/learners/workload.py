"""What groups learn from, and in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from crowdlearn_device.data.augmentation.base import Augmentation
from crowdlearn_device.data.augmentation.registry import augmented
from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_device.protocol.schedule import micro_batches, mini_batches, pass_order
from crowdlearn_device.protocol.targets import CLASSES, TargetSpec
from torch import Tensor

from crowdlearn_host.spec.simulation import SimulationConfig

from .rounding import Crossing
from .sparse_inputs import Indices, TakenApart


@dataclass(frozen=True)
class Pass:
    """One dominator's data, once; `epoch` draws the order of its samples."""

    device: int
    epoch: int


@dataclass(frozen=True)
class Workload:
    """The data that stay the same in a run: samples, labels as the loss takes them, the positions of each
    device's samples, the test data; what travels between a group's pieces, the least samples of a mini-batch,
    and the names of frozen arrays. `on_shares` are edges whose modules compute on shares, by name; `unused`
    are tensors of the model that no scores depend on.
    """

    config: SimulationConfig
    inputs: Floats
    labels: Indices
    devices: tuple[Indices, ...]
    test: Dataset
    crossings: tuple[Crossing, ...] = ()
    least_rows: int = 1
    frozen: tuple[str, ...] = ()
    on_shares: Mapping[str, int] = field(default_factory=dict)
    held: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """The neurons of each triple, of what enters a module on shares, by its name."""
    integers: bool = False
    targets: TargetSpec = CLASSES
    unused: frozenset[str] = frozenset()
    learning: tuple[Indices, ...] = ()
    """The places of the weights that learn, of each piece, in the order in which they travel: int64 [n]."""
    apart: TakenApart | None = None
    """The inputs as a learner of dense layers takes them, where there is one; see DenseLearner.prepared."""

    def samples_of(self, inputs: Floats) -> Tensor:
        """Return samples as the model takes them: whole numbers, if it takes no others.

        Samples are float32 [N, ...].
        """
        samples = torch.from_numpy(inputs)
        return samples.long() if self.integers else samples

    @property
    def by_classes(self) -> bool:
        """Return True if a target is a class."""
        return self.targets.are_classes and not self.targets.are_sequences

    def samples(self, each: Pass) -> int:
        """Return how many the dominator has."""
        return len(self.devices[each.device])

    def order(self, each: Pass) -> tuple[Indices, list[slice]]:
        """Return in which order a pass feeds the dominator's samples, and its mini-batches: parts of that
        order. The order is int64 [samples].
        """
        count = self.samples(each)
        rows = pass_order(count, seed=self.config.seed, epoch=each.epoch, device=each.device)
        return rows, self.batches(each)

    def batches(self, each: Pass) -> list[slice]:
        """Return the mini-batches of a pass, as parts of its order."""
        cut = mini_batches(self.samples(each), self.config.training.batch, self.least_rows)
        return [slice(batch.start, batch.stop) for batch in cut]

    def spread(self, each: Pass, most: int) -> tuple[Indices, list[slice]]:
        """Return the places of `most` samples of the dominator, evenly spaced among its own as are those of
        each mini-batch, and the mini-batches: parts of these. The places are int64 [n].
        """
        own = self.devices[each.device]
        count = min(most, len(own))
        cut = mini_batches(count, self.config.training.batch, self.least_rows)
        if cut:
            shares = np.concatenate([(np.arange(len(batch)) + 0.5) / len(batch) for batch in cut])
            turns = np.argsort(np.argsort(shares, kind="stable"))
            own = own[turns * len(own) // count]
        return own, [slice(batch.start, batch.stop) for batch in cut]

    def fed(self, each: Pass) -> tuple[Floats, Indices, list[slice]]:
        """Return the samples float32 [samples, ...] of a pass as they are fed, their labels, and its
        mini-batches.
        """
        rows, batches = self.order(each)
        at = self.devices[each.device][rows]
        return self.inputs_at(each, at, batches), self.labels[at], batches

    def inputs_at(self, each: Pass, at: Indices, batches: Sequence[slice]) -> Floats:
        """Return the samples at these places as a pass feeds them in mini-batches, float32 [n, ...]."""
        inputs = self.inputs[at]
        chain = self.augmentations
        for number, batch in enumerate(batches) if chain else ():
            place = {"epoch": each.epoch, "device": each.device, "number": number}
            inputs[batch] = augmented(chain, inputs[batch], seed=self.config.seed, **place)
        return inputs

    @property
    def augmentations(self) -> list[Augmentation]:
        """Return the changes of samples while they are fed, in their order."""
        return [each.rule for each in self.config.training.augment]

    def parts(self, batch: slice) -> list[slice]:
        """Return the micro-batches of a mini-batch, as positions in a pass."""
        micro = self.config.training.micro_batch
        if not micro:
            return [batch]
        cut = micro_batches(batch.stop - batch.start, micro, self.least_rows)
        return [slice(batch.start + part.start, batch.start + part.stop) for part in cut]
