"""Why two libraries can differ by 1e-2 in a gradient: one close call, decided otherwise.

    python -m benchmarks.android.flip [--batches N] [--runs N]

Looks for the batches of random images whose closest calls, in a max pool or a ReLU, are the closest. Runs a
training step of the CIFAR CNN on each of these here and on Android's x86-64 library. Where the first
convolution's momentum differs by more than 1e-5, each close call is decided otherwise in float64. It is
printed which one gives the difference that was observed. Ends with exit code 1 if none was found.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_device.program.replay import replay_arrays
from crowdlearn_export.compiler.compile import compile_program
from crowdlearn_export.compiler.method import Method
from crowdlearn_export.stages.train_step import train_step
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.models import cnn

from .library import android_library

BATCH = 32
NEAR = 5e-8
"""A call is close below this part of the largest activation."""
DIFFERS = 1e-5
GRADIENT = "momentum.0.weight"
"""The momentum of the first convolution's weight, which begins at zero: its gradient."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.android.flip")
    parser.add_argument("--batches", type=int, default=60, help="batches of random images to choose from")
    parser.add_argument("--runs", type=int, default=8, help="batches to run")
    options = parser.parse_args()
    torch.manual_seed(0)
    model, targets = cnn(), torch.arange(BATCH) % 10
    step = train_step(
        model, functional.cross_entropy, torch.randn(BATCH, 3, 32, 32), targets, Sgd(momentum=0.9)
    )
    names, state, rate = list(step.state), list(step.state.values()), torch.tensor(0.05)
    method = step.method
    example = (*state, torch.randn(BATCH, 3, 32, 32), targets, rate)
    whole = Method(method.name, method.function, example, method.batched, method.updates)
    pte = compile_program([whole], max_batch=BATCH).pte
    here, library = ExecuTorchExecutor(pte), android_library("android-x86_64")
    layers = list(model.double().children())
    explained = False
    for closest, seed in sorted((_closest(layers, _images(seed)), seed) for seed in range(options.batches))[
        : options.runs
    ]:
        given = {
            f"train_step/in{i}": x.detach().float().numpy().copy() if x.is_floating_point() else x.numpy()
            for i, x in enumerate((*state, _images(seed), targets, rate))
        }
        mine, theirs = replay_arrays(here, given), library.run(pte, given)
        off = {
            name: _difference(mine[f"train_step/after{i}"], theirs[f"train_step/after{i}"])
            for i, name in enumerate(names)
        }
        text = ", ".join(f"{name} {error:.1e}" for name, error in off.items() if error > DIFFERS)
        print(f"batch {seed}, closest call {closest:.1e}: {text or 'no difference'}", flush=True)
        if off[GRADIENT] > DIFFERS:
            key = f"train_step/after{names.index(GRADIENT)}"
            observed = theirs[key].astype(np.float64) - mine[key]
            explained = _explain(layers, _images(seed), targets, observed) or explained
    return 0 if explained else 1


def _images(seed: int) -> Tensor:
    """Return random images, float32 [BATCH, 3, 32, 32]."""
    return torch.randn(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(1000 + seed))


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(np.float64) - other).max() / np.abs(one).max())


def _closest(layers: Sequence[nn.Module], images: Tensor) -> float:
    """Return by how much the closest call is decided, as a part of its layer's largest activation."""
    return min(gap for _, _, gap, _ in _close_calls(layers, images.double(), 1.0, most=1))


def _explain(layers: Sequence[nn.Module], images: Tensor, targets: Tensor, observed: np.ndarray) -> bool:
    images, (weight, _) = images.double(), layers[0].parameters()

    def gradient(layer: int, bump: Tensor | float) -> np.ndarray:
        loss = functional.cross_entropy(_run(layers[layer:], _run(layers[:layer], images) + bump), targets)
        (found,) = torch.autograd.grad(loss, weight)
        return found.numpy()

    usual = gradient(0, 0.0)
    best = (0.0, 0.0, "none that is close")
    for layer, bump, _, text in _close_calls(layers, images, NEAR, most=4):
        flipped = gradient(layer, bump) - usual
        size = float(np.linalg.norm(flipped) / np.linalg.norm(observed))
        if size:
            cosine = abs(float((flipped * observed).sum())) / (size * float((observed**2).sum()))
            best = max(best, (cosine, size, text))
    print(f"    {best[2]}; decided otherwise: cosine {best[0]:.6f}, {best[1]:.4f} times as large", flush=True)
    return best[0] > 0.999


def _run(layers: Sequence[nn.Module], values: Tensor) -> Tensor:
    for layer in layers:
        values = layer(values)
    return values


def _close_calls(
    layers: Sequence[nn.Module], values: Tensor, near: float, most: int
) -> Iterator[tuple[int, Tensor, float, str]]:
    """Yield the closest calls of each layer, at most so many: its number, an addend to its inputs that
    decides one otherwise, by how much it was decided, and the call in words.
    """
    for number, layer in enumerate(layers):
        largest = float(values.detach().abs().max())
        if isinstance(layer, nn.MaxPool2d):
            windows = functional.unfold(values.detach().flatten(0, 1).unsqueeze(1), 2, stride=2)
            top = windows.reshape(*values.shape[:2], 4, -1).topk(2, dim=2)
            gap = (top.values[:, :, 0] - top.values[:, :, 1]) / largest
            for place in _least(gap, near, most):
                sample, channel, window = place
                row, column = divmod(window, values.shape[3] // 2)
                inner = int(top.indices[sample, channel, 1, window])
                bump = torch.zeros_like(values)
                by = float(gap[sample, channel, window])
                bump[sample, channel, 2 * row + inner // 2, 2 * column + inner % 2] = 2 * by * largest
                text = f"max pool {number}, sample {sample}, channel {channel}: two values differ by "
                yield number, bump, by, f"{text}{by:.1e} of the largest"
        elif isinstance(layer, nn.ReLU):
            for place in _least(values.detach().abs() / largest, near, most):
                value = float(values[tuple(place)])
                bump = torch.zeros_like(values)
                bump[tuple(place)] = -2 * value
                by = abs(value) / largest
                yield number, bump, by, f"ReLU {number}, at {place}: {value / largest:.1e} of the largest"
        with torch.no_grad():
            values = layer(values)


def _least(gaps: Tensor, near: float, most: int) -> list[list[int]]:
    """Return the places of the least gaps below `near` that are not 0, at most so many."""
    flat = torch.where(gaps > 0, gaps, torch.inf).flatten()
    least = flat.topk(min(most, flat.numel()), largest=False)
    chosen = least.indices[least.values < near]
    return [list(map(int, np.unravel_index(int(at), tuple(gaps.shape)))) for at in chosen]


if __name__ == "__main__":
    sys.exit(main())
