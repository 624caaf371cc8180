"""The learning rate rises and falls as PyTorch's schedulers have it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from crowdlearn_device.protocol.schedule import warmed
from crowdlearn_host.methods.round_schedule import LAST_RATE
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, StepLR

from tests.host.coordinator.crowd import settings_for

RATE, EPOCHS = 0.4, 7
SCHEDULERS: dict[str, Callable[[Optimizer], LRScheduler]] = {
    "constant": lambda own: StepLR(own, EPOCHS + 1),
    "linear": lambda own: LinearLR(own, 1.0, LAST_RATE, EPOCHS),
    "cosine": lambda own: CosineAnnealingLR(own, EPOCHS, LAST_RATE * RATE),
    "step": lambda own: StepLR(own, 3, 0.2),
}


def own_optimizer() -> Optimizer:
    return SGD([torch.nn.Parameter(torch.zeros(1))], RATE)


@pytest.mark.parametrize("fall", SCHEDULERS)
def test_the_rate_falls_from_epoch_to_epoch_as_torchs(fall: Any) -> None:
    steps: dict[str, Any] = {"step_epochs": 3, "step_factor": 0.2} if fall == "step" else {}
    settings = settings_for(epochs=EPOCHS, learning_rate=RATE, fall=fall, **steps)
    own = own_optimizer()
    scheduler = SCHEDULERS[fall](own)
    for epoch in range(EPOCHS):
        assert settings.rate(epoch, 0, 4) == pytest.approx(own.param_groups[0]["lr"])
        own.step()
        scheduler.step()


def test_the_rate_rises_over_the_first_mini_batches() -> None:
    own, warmup = own_optimizer(), 5
    scheduler = LinearLR(own, 1 / warmup, 1.0, warmup - 1)
    for number in range(8):
        assert warmed(RATE, number + 1, warmup) == pytest.approx(own.param_groups[0]["lr"])
        own.step()
        scheduler.step()
    assert warmed(RATE, 1, 0) == RATE
