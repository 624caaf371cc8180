"""Learn features of digits 0 to 4 here, freeze them, and train digits 5 to 9 over three virtual phones."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import crowdlearn
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from model import FEATURES, features  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/transfer"), help="folder of the run")
    parser.add_argument("--quick", action="store_true", help="train for fewer epochs")
    options = parser.parse_args()
    data = options.run.parent / "transfer-data"
    data.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    images, labels = (digits.images[:, None] / 16).astype(np.float32), digits.target.astype(np.int64)
    pretrain(images[labels < 5], labels[labels < 5], data / "features.pt")
    write(images[labels >= 5], labels[labels >= 5] - 5, data)

    os.environ["FEATURES"] = str((data / "features.pt").resolve())
    settings = [f"data={json.dumps(str(data.resolve()))}"] + ["training.epochs=3"] * options.quick
    spec = crowdlearn.RunSpec.load(HERE / "run.toml", settings)
    run = crowdlearn.train(spec, options.run)
    print(f"test accuracy {run.evaluate().accuracy:.3f} of five digits; report: {run.report()}")


def pretrain(images: np.ndarray, labels: np.ndarray, target: Path) -> None:
    """Train the extractor, with a head that is thrown away, in plain PyTorch; some seconds."""
    torch.manual_seed(0)
    extractor = features()
    whole = nn.Sequential(extractor, nn.Linear(FEATURES, 5))
    optimizer = torch.optim.Adam(whole.parameters(), 0.01)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(whole(x), y).backward()
        optimizer.step()
    torch.save(extractor.state_dict(), target)


def write(images: np.ndarray, labels: np.ndarray, data: Path) -> None:
    """Write a training and a test split: float32 [N, 1, 8, 8], int64 [N]."""
    order = np.random.default_rng(0).permutation(len(labels))
    for split, chosen in (("train", order[200:]), ("test", order[:200])):
        np.savez(data / f"{split}.npz", inputs=images[chosen], labels=labels[chosen])


if __name__ == "__main__":
    main()
