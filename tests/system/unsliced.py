"""The training that phones do together, done by one network in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from crowdlearn_device.protocol.schedule import dominator_order, mini_batches, pass_order
from crowdlearn_host.runs.data import deal, load_split, shares_of
from crowdlearn_host.runs.prepare import prepare
from crowdlearn_host.spec.run_spec import RunSpec
from torch import nn


def unsliced(
    values: dict[str, Any], phones: int, dtype: torch.dtype
) -> tuple[dict[str, torch.Tensor], list[float]]:
    """The weights after the same model, seed and batches, and the losses of all mini-batches.

    With staleness 1 a gradient is taken at the weights before the last update, but where the pipeline is
    drained: at a pass's beginning, and after every `snapshot_every` mini-batches.
    """
    config = RunSpec.model_validate(values)
    model = prepare(config, lambda event, fields: None).model
    return plain_sgd(model, config, phones, dtype)


def plain_sgd(
    model: nn.Module, config: RunSpec, phones: int, dtype: torch.dtype, order: Sequence[int] = ()
) -> tuple[dict[str, torch.Tensor], list[float]]:
    """The same of an untrained model, which is trained in place; devices dominate in this `order`, or else in
    one that is drawn.
    """
    settings = config.training
    least = 2 if any(isinstance(module, nn.BatchNorm1d) for module in model.modules()) else 1
    model.to(dtype)
    sgd = torch.optim.SGD(
        model.parameters(), settings.learning_rate, settings.momentum, weight_decay=settings.weight_decay
    )
    data = load_split(config.data or "", "train")
    parts = deal(
        data, [len(data) // phones] * phones if order else shares_of(len(data), [1] * phones), settings.seed
    )
    losses = []
    for epoch in range(settings.epochs):
        for device in order or dominator_order(range(phones), seed=settings.seed, epoch=epoch):
            data = parts[device].shaped(config.input_shape or parts[device].inputs.shape[1:])
            permutation = pass_order(len(data), seed=settings.seed, epoch=epoch, device=device)
            for number, batch in enumerate(mini_batches(len(data), settings.batch, least)):
                newest = [p.detach().clone() for p in model.parameters()]
                if settings.staleness == 0 or number % settings.snapshot_every == 0:
                    before = newest
                _set(model, before)
                sgd.zero_grad()
                total = 0.0
                for micro in mini_batches(len(batch), settings.micro_batch or settings.batch, least):
                    rows = permutation[batch.start + micro.start : batch.start + micro.stop]
                    out = model(torch.from_numpy(data.inputs[rows]).to(dtype))
                    labels = torch.from_numpy(data.labels[rows])
                    loss = nn.functional.cross_entropy(out, labels, reduction="sum") / len(batch)
                    loss.backward()
                    total += loss.item()
                _set(model, newest)
                sgd.step()
                before = newest
                losses.append(total)
    return model.state_dict(), losses


def _set(model: nn.Module, weights: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), weights, strict=True):
            parameter.copy_(value)
