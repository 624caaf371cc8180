"""Why two libraries can differ by 1e-2 in a gradient: one close call, decided otherwise.

    python -m benchmarks.android.flip [--tries N]

Runs a training step of the CIFAR CNN on images of flat patches here and on Android's x86-64 library until a
gradient differs by more than 1e-5. Then decides, in float64, each close call of a max pool or a ReLU
otherwise, and tells which one gives the difference that was observed.
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
from crowdlearn_export.compiler.compile import Method, compile_program
from crowdlearn_export.stages.train_step import train_step
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.models import cnn

from .library import android_library

BATCH, PATCH = 32, 4
NEAR = 3e-7
"""A call is close below this part of the largest activation."""
GRADIENT = "train_step/after12"
"""The momentum of the second convolution's weight, which begins at zero: its gradient."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.android.flip")
    parser.add_argument("--tries", type=int, default=12)
    tries = parser.parse_args().tries
    torch.manual_seed(0)
    model, targets = cnn(), torch.arange(BATCH) % 10
    step = train_step(
        model, functional.cross_entropy, torch.randn(BATCH, 3, 32, 32), targets, Sgd(momentum=0.9)
    )
    state, rate = list(step.state.values()), torch.tensor(0.05)
    method = step.method
    example = (*state, torch.randn(BATCH, 3, 32, 32), targets, rate)
    whole = Method(method.name, method.function, example, method.batched, method.updates)
    pte = compile_program([whole], max_batch=BATCH).pte
    here, library = ExecuTorchExecutor(pte), android_library("android-x86_64")
    for number in range(tries):
        images = _patches(number)
        given = {
            f"train_step/in{i}": x.detach().numpy().copy()
            for i, x in enumerate((*state, images, targets, rate))
        }
        mine, theirs = replay_arrays(here, given), library.run(pte, given)
        observed = theirs[GRADIENT].astype(np.float64) - mine[GRADIENT]
        error = np.abs(observed).max() / np.abs(mine[GRADIENT]).max()
        print(f"images {number}: the gradient of the second convolution differs by {error:.1e}", flush=True)
        if error > 1e-5:
            return _explain(model, images, targets, observed)
    print("no difference was found; try more images")
    return 1


def _patches(seed: int) -> Tensor:
    small = np.random.default_rng(seed).integers(0, 3, (BATCH, 3, 32 // PATCH, 32 // PATCH))
    return torch.tensor(small.repeat(PATCH, 2).repeat(PATCH, 3) * (100 / 255), dtype=torch.float32)


def _explain(model: nn.Module, images: Tensor, targets: Tensor, observed: np.ndarray) -> int:
    layers = list(model.double())  # type: ignore[call-overload]
    images = images.double()

    def gradient(layer: int, bump: Tensor | float) -> np.ndarray:
        weight = layers[3].weight
        loss = functional.cross_entropy(_run(layers[layer:], _run(layers[:layer], images) + bump), targets)
        (found,) = torch.autograd.grad(loss, weight)
        return found.numpy()

    usual = gradient(0, 0.0)
    best = (0.0, 0.0, "")
    for layer, bump, told in _close_calls(layers, images):
        flipped = gradient(layer, bump) - usual
        size = float(np.linalg.norm(flipped) / np.linalg.norm(observed))
        if size:
            cosine = abs(float((flipped * observed).sum())) / (size * float((observed**2).sum()))
            best = max(best, (cosine, size, told))
    print(best[2])
    print(f"decided otherwise it gives the difference: cosine {best[0]:.6f}, {best[1]:.4f} times as large")
    return 0 if best[0] > 0.999 else 1


def _run(layers: Sequence[nn.Module], values: Tensor) -> Tensor:
    for layer in layers:
        values = layer(values)
    return values


def _close_calls(layers: Sequence[nn.Module], images: Tensor) -> Iterator[tuple[int, Tensor, str]]:
    """A layer, what added to its inputs decides one close call otherwise, and that call in words."""
    for number, layer in enumerate(layers):
        with torch.no_grad():
            given = _run(layers[:number], images)
        largest = float(given.abs().max())
        if isinstance(layer, nn.MaxPool2d):
            windows = functional.unfold(given.flatten(0, 1).unsqueeze(1), 2, stride=2)
            top = windows.reshape(*given.shape[:2], 4, -1).topk(2, dim=2)
            gap = (top.values[:, :, 0] - top.values[:, :, 1]) / largest
            for sample, channel, place in torch.nonzero((gap < NEAR) & (gap > 0)).tolist():
                row, column = divmod(place, given.shape[3] // 2)
                inner = int(top.indices[sample, channel, 1, place])
                bump = torch.zeros_like(given)
                bump[sample, channel, 2 * row + inner // 2, 2 * column + inner % 2] = 2 * NEAR * largest
                told = f"max pool {number}, sample {sample}, channel {channel}: two values differ by "
                yield number, bump, f"{told}{float(gap[sample, channel, place]):.1e} of the largest"
        elif isinstance(layer, nn.ReLU):
            for place in torch.nonzero((given.abs() < NEAR * largest) & (given != 0)).tolist():
                value = given[tuple(place)]
                bump = torch.zeros_like(given)
                bump[tuple(place)] = -2 * value
                yield number, bump, f"ReLU {number}, at {place}: {float(value) / largest:.1e} of the largest"


if __name__ == "__main__":
    sys.exit(main())
