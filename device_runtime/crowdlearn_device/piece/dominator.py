"""The dominator feeds its own samples through the group's network, and learns their loss."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from crowdlearn_device.data.augmentation.registry import augmented, check_augmentations, make_augmentation
from crowdlearn_device.data.dataset import Dataset, as_targets
from crowdlearn_device.errors import DataError, WireError
from crowdlearn_device.privacy.dp.draws import Draws
from crowdlearn_device.privacy.mechanisms.base import Metrics
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Array, Floats
from crowdlearn_device.protocol.schedule import Pass, micro_batches, mini_batches, pass_order

from .piece import Piece


class Dominator:
    """One pass of a device's data. Samples and labels stay here: only sums leave the piece."""

    def __init__(
        self,
        piece: Piece,
        data: Dataset,
        of: Pass,
        assign: pb.Assign,
        device: int,
        order_seed: int,
        on_fed: Callable[[int, int, Array], None] | None = None,
    ) -> None:
        """Begin a pass over samples in an order drawn from `order_seed`; with DP-SGD each mini-batch is
        drawn.

        `on_fed` gets mini-batch, micro-batch and the positions of its samples, int64 [rows].
        """
        training = assign.training
        targets = as_targets(data.labels, piece.targets, piece.classes)
        self._piece = piece
        self._data = Dataset(data.shaped(piece.sample_shape).inputs, targets)
        self._pass = of
        self._on_fed = on_fed
        self._order = pass_order(len(data), seed=order_seed, epoch=assign.epoch, device=device)
        self._batches = mini_batches(len(data), training.batch, training.least_rows)
        self._micro_batch, self._least = training.micro_batch, training.least_rows
        self._in_flight = training.in_flight
        self._next = (piece.boundary, 0)
        try:
            self._chain = [make_augmentation(each.kind, each.options) for each in training.augment]
        except ValueError as error:
            raise WireError(
                f"this device cannot change its samples as the run requires: {error}; update the older"
            ) from error
        check_augmentations(self._chain, piece.sample_shape, integers=False)
        self._place = order_seed, assign.epoch, device
        self._changed: tuple[int, Floats] | None = None
        self._draws: Draws | None = None
        if piece.private is not None:
            self._draws = Draws(order_seed, assign.epoch, device, len(data), training.batch)
            piece.private.draw_from(self._draws, of.first, secret=training.secret_order)
        if of.first + len(self._batches) != of.end:
            raise DataError(
                f"this device has {len(data)} samples, {len(self._batches)} mini-batches, and the "
                "server counts "
                f"{of.end - of.first}; data must not change while a run lasts"
            )

    @property
    def may_feed(self) -> bool:
        """Return True if the pass has another micro-batch and there is room for it."""
        piece = self._piece
        return self._next[0] in piece.under_way and piece.micros_under_way < self._in_flight

    def feed(self) -> bool:
        """Enter the next micro-batch if it may be fed; whether one was entered."""
        if not self.may_feed:
            return False
        piece = self._piece
        number, micro = self._next
        batch = self._rows(number)
        if not len(batch):
            piece.feed_nothing(number)
            self._next = (number + 1, 0)
            return True
        micros = micro_batches(len(batch), self._micro_batch, self._least)
        part = slice(micros[micro].start, micros[micro].stop)
        rows = batch[part]
        if self._on_fed is not None:
            self._on_fed(number, micro, rows)
        weight = 1.0 if self._draws else piece.targets.weight(self._data.labels[batch])
        samples = self._augmented(number, batch)[part] if self._chain else self._data.inputs[rows]
        labels = self._data.labels[rows]
        piece.feed(number, micro, len(micros), len(batch), samples, labels, weight)
        self._next = (number, micro + 1) if micro + 1 < len(micros) else (number + 1, 0)
        return True

    def _augmented(self, number: int, batch: npt.NDArray[np.int64]) -> Floats:
        """Return a mini-batch's samples, changed as a whole: float32 [rows, ...]; kept for its next part."""
        if self._changed is None or self._changed[0] != number:
            seed, epoch, device = self._place
            samples = self._data.inputs[batch]
            place = {"epoch": epoch, "device": device, "number": number - self._pass.first}
            self._changed = number, augmented(self._chain, samples, seed=seed, **place)
        return self._changed[1]

    def _rows(self, number: int) -> npt.NDArray[np.int64]:
        """Return the samples of a mini-batch, int64 [n]."""
        if self._draws is not None:
            return self._draws.rows(number - self._pass.first)
        batch = self._batches[number - self._pass.first]
        return self._order[batch.start : batch.stop]

    def metrics(self) -> Metrics:
        """Return the results of the mini-batch that has just been applied; with DP-SGD nothing but how many
        samples it has in the mean.
        """
        if self._draws is not None:
            rows = len(self._batches[self._piece.boundary - 1 - self._pass.first])
            return Metrics(rows, 0.0, 0, last=self._piece.boundary == self._pass.end)
        results = sorted(self._piece.results, key=lambda result: result.micro)
        rows = sum(result.rows for result in results)
        return Metrics(
            rows=rows,
            loss=sum(result.loss * result.rows for result in results) / rows,
            correct=sum(result.correct for result in results),
            own={
                name: sum(result.own[name] * result.rows for result in results) / rows
                for name in results[0].own
            },
            last=self._piece.boundary == self._pass.end,
        )
