"""The same training by Opacus, run by the Python of Opacus's own environment: prints one JSON object.

Reads JSON from its standard input: file (.npz of x, y, test_x, test_y), net, steps, noise, seed.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path


def main() -> None:
    """Train by Opacus's GradSampleModule and DPOptimizer, mini-batches drawn as ours are."""
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import numpy as np
    import torch
    from opacus import GradSampleModule  # type: ignore[import-not-found]
    from opacus.optimizers import DPOptimizer  # type: ignore[import-not-found]

    from benchmarks.dp import networks

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    asked = json.load(sys.stdin)
    data = {name: torch.from_numpy(each) for name, each in np.load(asked["file"]).items()}
    inputs, tested = networks.prepared(data["x"]), networks.prepared(data["test_x"])
    steps, rate = asked["steps"], networks.BATCH / len(inputs)
    model = GradSampleModule(networks.Net(asked["net"], steps).build(asked["seed"]), loss_reduction="mean")
    generator = torch.Generator().manual_seed(asked["seed"])
    plain = torch.optim.SGD(model.parameters(), lr=1.0, momentum=networks.MOMENTUM)
    optimizer = DPOptimizer(
        plain,
        noise_multiplier=asked["noise"],
        max_grad_norm=networks.CLIP,
        expected_batch_size=networks.BATCH,
        generator=generator,
    )
    began = time.process_time()
    for number in range(steps):
        chosen = torch.rand(len(inputs), generator=generator) < rate
        optimizer.zero_grad()
        loss = networks.losses(model(inputs[chosen]), data["y"][chosen]).mean()
        torch.autograd.backward([loss])
        plain.param_groups[0]["lr"] = networks.rate_of(number, steps, networks.CLIP)
        optimizer.step()
    seconds = (time.process_time() - began) / steps
    found = {"accuracy": networks.accuracy(model, tested, data["test_y"]), "step_seconds": seconds}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
