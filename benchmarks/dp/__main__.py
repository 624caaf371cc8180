"""Training with differential privacy: accuracy at an epsilon, and the cost of a step beside Opacus's.

Samples are drawn by Poisson sampling, clipped by ghost norms, with noise that the accountant asks for at
delta = 1e-5: in a simulation (dp), and by the runtime of a device that holds all layers (device). With
--opacus FOLDER the same networks are trained by Opacus, in an environment of its own that is made there if it
is missing. Then rows of ratios tell how many times Opacus's steps a second each of ours makes.

Without --data the digits of scikit-learn are enlarged: they are so few that noise costs nearly all, and show
that it runs.

python -m benchmarks.dp [--data FOLDER] [--quick] [--opacus FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from crowdlearn.privacy import DPStep, Schedule, noise_for, own_epsilon
from crowdlearn.simulation import load_split
from crowdlearn_device.data.dataset import Dataset

from benchmarks.report import machine, write_rows

from . import checks, device
from .environment import Opacus
from .networks import BATCH, CLIP, MOMENTUM, Net, accuracy, losses, prepared, rate_of

EPSILONS = (2.9, 2.0, 4.0, 8.0)
DELTA = 1e-5
QUICK, FULL, DIGITS = Net("small", 600), Net("large", 700), Net("small", 100)


@dataclass(frozen=True)
class Row:
    """One training. `mode` is plain, dp, device or opacus; `epsilon` is what the accountant gives, infinite
    without noise; `step_seconds` are processor seconds on one thread.
    """

    mode: str
    net: str
    epsilon: float
    delta: float
    noise: float
    steps: int
    seed: int
    accuracy: float
    step_seconds: float


def trained(train: Dataset, test: Dataset, net: Net, noise: float | None, seed: int) -> Row:
    """Train by DP-SGD with this noise, or by plain SGD without, and return what came of it."""
    inputs, labels = prepared(torch.from_numpy(train.inputs)), torch.from_numpy(train.labels)
    model = net.build(seed)
    generator = torch.Generator().manual_seed(seed)
    rate = batch_of(train) / len(train)
    step = DPStep(CLIP, noise or 0.0, batch_of(train))
    clip = None if noise is None else CLIP
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=MOMENTUM)
    began = time.process_time()
    for number in range(net.steps):
        chosen = torch.rand(len(train), generator=generator) < rate
        x, y = inputs[chosen], labels[chosen]
        if noise is None:
            gradients = list(torch.autograd.grad(losses(model(x), y).mean(), list(model.parameters())))
        else:
            gradients = step.gradients(model, losses, x, y, generator)
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient
        optimizer.param_groups[0]["lr"] = rate_of(number, net.steps, clip)
        optimizer.step()
    seconds = (time.process_time() - began) / net.steps
    right = accuracy(model, prepared(torch.from_numpy(test.inputs)), torch.from_numpy(test.labels))
    epsilon = float("inf") if noise is None else own_epsilon(Schedule(noise, rate, net.steps), DELTA)
    mode = "plain" if noise is None else "dp"
    return Row(mode, net.name, epsilon, DELTA, noise or 0.0, net.steps, seed, right, seconds)


def _ratio(row: Row, opacus_seconds: float) -> dict[str, Any]:
    """Return how many times Opacus's steps a second a training made, beside it."""
    ratio = opacus_seconds / row.step_seconds
    return {"mode": f"{row.mode} over opacus", "net": row.net, "seed": row.seed, "over_opacus": ratio}


def batch_of(train: Dataset) -> int:
    """Return the mean mini-batch: BATCH, or an eighth of a small data set."""
    return min(BATCH, len(train) // 8)


def main(arguments: list[str] | None = None) -> None:
    """Print a row for plain SGD and for every epsilon and seed, and the checks of exactness."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", default="digits", help="folder with MNIST's training and test set (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="epsilon 2.9, one seed, the small network")
    parser.add_argument("--net", choices=("small", "large", "group norm"), help="(large; quick: small)")
    parser.add_argument("--steps", type=int, help="(700; quick: 600; digits: 100)")
    parser.add_argument("--seeds", type=int, help="(3; quick: 1)")
    parser.add_argument("--epsilons", type=float, nargs="+", help="(2.9 2 4 8; quick: 2.9)")
    parser.add_argument("--opacus", type=Path, metavar="FOLDER", help="Opacus's environment, made if missing")
    parser.add_argument("--json", type=Path, help="write the rows here")
    wanted = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if wanted.opacus and wanted.data == "digits":
        parser.error("--opacus compares on MNIST: give --data FOLDER")
    train, test = (load_split(wanted.data, split) for split in ("train", "test"))
    usual = DIGITS if wanted.data == "digits" else QUICK if wanted.quick else FULL
    net = Net(wanted.net or usual.name, wanted.steps or usual.steps)
    epsilons = wanted.epsilons or (EPSILONS[:1] if wanted.quick else EPSILONS)
    peer = Opacus(wanted.opacus, train, test) if wanted.opacus else None
    rate = batch_of(train) / len(train)
    print(machine())
    rows = [asdict(each) for each in checks.all_checks()]
    for each in rows:
        print(f"{each['mode']}: {each['what']}: {each['deviation']:.1e} (at most {each['bound']:.0e})")
    print("mode    net         epsilon  noise  steps  seed  accuracy  ms a step", flush=True)
    for seed in range(wanted.seeds or (1 if wanted.quick else 3)):
        for target in (*epsilons, None):
            if target is None and wanted.quick:
                continue
            noise = None if target is None else noise_for(target, rate, net.steps, DELTA)
            found = [trained(train, test, net, noise, seed)]
            if noise is not None:
                right, seconds = device.train(net, train, test, noise, seed, batch_of(train))
                found.append(replace(found[0], mode="device", accuracy=right, step_seconds=seconds))
            if peer is not None and noise is not None:
                right, seconds = peer.train(net, noise, seed)
                rows += [_ratio(row, seconds) for row in found]
                found.append(replace(found[0], mode="opacus", accuracy=right, step_seconds=seconds))
            for row in found:
                rows.append(asdict(row))
                print(
                    f"{row.mode:7s} {row.net:10s} {row.epsilon:8.2f} {row.noise:6.2f} {row.steps:6d} "
                    f"{row.seed:5d} {100 * row.accuracy:8.2f} % {1000 * row.step_seconds:9.2f}",
                    flush=True,
                )
    for each in rows:
        if "over_opacus" in each:
            print(f"{each['mode']}, {each['net']}: {each['over_opacus']:.2f} times Opacus's steps a second")
    write_rows(wanted.json, rows)


if __name__ == "__main__":
    main()
