"""What is trained: the network, its batch, and the exact gradient, as files that every engine reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from crowdlearn_export.program.kinks import MARGIN, Margins
from torch import Tensor, nn

from benchmarks.models import NETWORKS, Network

from .engine import Array
from .layers import Untold, described

RATE = 0.01
DRAWS = 30


@dataclass(frozen=True)
class Case:
    """One row of the comparison: a network, a batch, a number of threads."""

    model: str
    batch: int
    threads: int


def built(model: str) -> nn.Module:
    """The network with the weights that every engine starts from."""
    torch.manual_seed(0)
    return NETWORKS[model].build()


def write_case(case: Case, folder: Path) -> dict[str, Array]:
    """Write case.json, weights.npz and batch.npz to `folder`; return the gradients in float64."""
    folder.mkdir(parents=True, exist_ok=True)
    model = built(case.model)
    x, y = batch_of(case.model, case.batch)
    weights: dict[str, Any] = {n: p.detach().numpy() for n, p in model.named_parameters()}
    np.savez(folder / "weights.npz", **weights)
    np.savez(folder / "batch.npz", x=x.numpy(), y=y.numpy())
    try:
        layers = described(model)
    except Untold:
        layers = []
    (folder / "case.json").write_text(json.dumps({**vars(case), "rate": RATE, "layers": layers}))
    exact = built(case.model).double()
    torch.autograd.backward(nn.functional.cross_entropy(exact(_double(x)), y))
    return {n: p.grad.numpy() for n, p in exact.named_parameters() if p.grad is not None}


def batch_of(model: str, size: int) -> tuple[Tensor, Tensor]:
    """A random batch: samples and labels. Samples for which an input of ReLU or max pooling is so close to
    its kink that float32 and float64 could take different sides are drawn again, as far as `DRAWS` allow.
    """
    network, generator = NETWORKS[model], torch.Generator().manual_seed(2)
    y = torch.randint(0, network.classes, (size,), generator=generator)
    x = _draw(network, size, generator)
    best, widest = x, -1.0
    for _ in range(DRAWS):
        least = margins(model, x)
        if float(least.min()) > widest:
            best, widest = x, float(least.min())
        close = least < MARGIN
        if not close.any():
            break
        x = x.clone()
        x[close] = _draw(network, int(close.sum()), generator)
    return best, y


def margins(model: str, x: Tensor) -> Tensor:
    """How near each sample comes to a kink of ReLU or max pooling, in standard deviations of the map."""
    with torch.no_grad(), Margins(len(x)) as watched:
        built(model).double()(_double(x))
    return watched.least


def _draw(network: Network, size: int, generator: torch.Generator) -> Tensor:
    if network.tokens:
        return torch.randint(0, network.tokens, (size, *network.sample), generator=generator)
    return torch.randn(size, *network.sample, generator=generator)


def _double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def write_onnx(case: Case, folder: Path) -> None:
    """The network as model.onnx, for engines that start from one."""
    x, _ = batch_of(case.model, max(case.batch, 2))
    torch.onnx.export(
        built(case.model).train(),
        (x,),
        str(folder / "model.onnx"),
        input_names=["x"],
        output_names=["scores"],
        dynamic_axes={"x": {0: "batch"}, "scores": {0: "batch"}},
        training=torch.onnx.TrainingMode.TRAINING,
        do_constant_folding=False,
        opset_version=15,
        dynamo=False,
    )


def products_alone(shapes: Sequence[tuple[int, int, int]], threads: int) -> float:
    """Milliseconds that PyTorch needs for matrix products alone: the limit of the machine."""
    from statistics import median

    from .engine import timed

    torch.set_num_threads(threads)
    pairs = [(torch.randn(rows, inner), torch.randn(inner, columns)) for rows, inner, columns in shapes]

    def run() -> None:
        for left, right in pairs:
            torch.mm(left, right)

    run()
    return median(timed(run, 1) for _ in range(9))
