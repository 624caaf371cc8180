"""Train a convolutional network on Fashion-MNIST over four virtual phones."""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

import crowdlearn
import numpy as np

HERE = Path(__file__).parent
IMAGES = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's dataset-fashion-mnist lies."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, default=IMAGES, help="folder with Fashion-MNIST's four files")
    parser.add_argument("--run", type=Path, default=Path("runs/fashion"), help="folder of the run")
    parser.add_argument("--quick", action="store_true", help="train on fewer samples")
    options = parser.parse_args()
    if not (options.images / "train-images-idx3-ubyte.gz").is_file():
        parser.error(f"{options.images} holds no Fashion-MNIST; try: apt-get install dataset-fashion-mnist")
    data = options.run.parent / "fashion-data"
    data.mkdir(parents=True, exist_ok=True)
    samples = {"train": 2000 if options.quick else 6000, "test": 1000}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        write(options.images, prefix, data / f"{split}.npz", samples[split])

    spec = crowdlearn.RunSpec.load(HERE / "run.toml", [f"data={json.dumps(str(data.resolve()))}"])
    run = crowdlearn.train(spec, options.run, listeners=[tell])
    print(f"test accuracy {run.evaluate().accuracy:.3f} of ten classes; report: {run.report()}")


def write(images: Path, prefix: str, target: Path, samples: int) -> None:
    """Write the first samples as crowdlearn reads them: pixels uint8 [N, 1, 28, 28], labels int64 [N]."""
    with gzip.open(images / f"{prefix}-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(16 + samples * 784)[16:], np.uint8).reshape(-1, 1, 28, 28)
    with gzip.open(images / f"{prefix}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(8 + samples)[8:], np.uint8).astype(np.int64)
    np.savez(target, inputs=pixels, labels=labels)


def tell(event: crowdlearn.Event) -> None:
    """Print what an epoch reached."""
    if event.name == "evaluated":
        epoch, loss, accuracy = (event.fields[key] for key in ("epoch", "training_loss", "test_accuracy"))
        print(f"epoch {epoch + 1}: training loss {loss:.3f}, test accuracy {accuracy:.3f}", flush=True)


if __name__ == "__main__":
    main()
