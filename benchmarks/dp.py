"""Training with differential privacy: accuracy at an epsilon, and the cost of a step beside plain SGD.

Samples are drawn by Poisson sampling, clipped by ghost norms, with noise that the accountant asks for at
delta = 1e-5. python -m benchmarks.dp --data FOLDER [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from crowdlearn_device.data.dataset import Dataset, load_dataset
from crowdlearn_host.privacy.dp.accountant import Schedule, noise_for, own_epsilon
from crowdlearn_host.privacy.dp.dp_sgd import DPStep
from torch import Tensor, nn
from torch.nn import functional as F

from .report import machine, write_rows

EPSILONS = (2.0, 2.9, 4.0, 8.0)
DELTA, CLIP, BATCH, RATE = 1e-5, 1.0, 1024, 2.0
WIDTHS = (256, 128)


@dataclass(frozen=True)
class Row:
    """One training. `epsilon` is what the accountant tells of it; infinite for plain SGD."""

    mode: str
    epsilon: float
    noise: float
    steps: int
    seed: int
    accuracy: float
    step_seconds: float


def network(inputs: int, classes: int, seed: int) -> nn.Module:
    """Return a dense network with tanh, which suits clipped gradients."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(inputs, WIDTHS[0]),
        nn.Tanh(),
        nn.Linear(WIDTHS[0], WIDTHS[1]),
        nn.Tanh(),
        nn.Linear(WIDTHS[1], classes),
    )


def losses(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each sample: float32 [B]."""
    return F.cross_entropy(scores, targets, reduction="none")


def trained(train: Dataset, test: Dataset, steps: int, noise: float | None, seed: int) -> Row:
    """Train by DP-SGD with this noise, or by plain SGD without, and return what came of it."""
    inputs = torch.from_numpy(train.inputs.reshape(len(train), -1))
    labels = torch.from_numpy(train.labels)
    model = network(inputs.shape[1], int(labels.max()) + 1, seed)
    generator = torch.Generator().manual_seed(seed)
    rate = BATCH / len(train)
    step = DPStep(CLIP, noise or 0.0, BATCH)
    velocities = [torch.zeros_like(p) for p in model.parameters()]
    began = time.process_time()
    for number in range(steps):
        chosen = torch.rand(len(train), generator=generator) < rate
        x, y = inputs[chosen], labels[chosen]
        if noise is None:
            gradients = torch.autograd.grad(losses(model(x), y).mean(), list(model.parameters()))
        else:
            gradients = tuple(step.gradients(model, losses, x, y, generator))
        falling = RATE * (1 - number / steps)
        with torch.no_grad():
            for p, v, g in zip(model.parameters(), velocities, gradients, strict=True):
                v.mul_(0.9).add_(g, alpha=0.1)
                p.sub_(falling * v)
    seconds = (time.process_time() - began) / steps
    with torch.no_grad():
        scores = model(torch.from_numpy(test.inputs.reshape(len(test), -1)))
    accuracy = float((scores.argmax(1).numpy() == test.labels).mean())
    told = float("inf") if noise is None else own_epsilon(Schedule(noise, rate, steps), DELTA)
    return Row("plain" if noise is None else "dp", told, noise or 0.0, steps, seed, accuracy, seconds)


def main(arguments: list[str] | None = None) -> None:
    """Print a row for plain SGD and for every epsilon and seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with a training and a test set")
    parser.add_argument("--quick", action="store_true", help="epsilon 2.9, one seed, 400 steps")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the rows here")
    wanted = parser.parse_args(arguments)
    train, test = (load_dataset(wanted.data, split) for split in ("train", "test"))
    steps, seeds = (400, 1) if wanted.quick else (wanted.steps, wanted.seeds)
    rate = BATCH / len(train)
    print(machine())
    print("mode   epsilon  noise  steps  seed  accuracy  ms a step")
    rows = []
    for seed in range(seeds):
        for target in (None, *((2.9,) if wanted.quick else EPSILONS)):
            noise = None if target is None else noise_for(target, rate, steps, DELTA)
            row = trained(train, test, steps, noise, seed)
            rows.append(asdict(row))
            print(
                f"{row.mode:5s} {row.epsilon:8.2f} {row.noise:6.2f} {row.steps:6d} {row.seed:5d}"
                f" {100 * row.accuracy:8.2f} % {1000 * row.step_seconds:9.2f}"
            )
    write_rows(wanted.json, rows)


if __name__ == "__main__":
    main()
