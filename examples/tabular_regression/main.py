"""Train a network that foretells a number, on scikit-learn's table of diabetes, over four virtual phones."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import crowdlearn
import numpy as np
from sklearn.datasets import load_diabetes

HERE = Path(__file__).parent
TESTED = 100
"""Patients who are for the test."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/diabetes"), help="folder of the run")
    parser.add_argument("--quick", action="store_true", help="train for fewer epochs")
    options = parser.parse_args()
    data = options.run.parent / "diabetes-data"
    data.mkdir(parents=True, exist_ok=True)
    write(data)

    settings = [f"data={json.dumps(str(data.resolve()))}"] + ["training.epochs=8"] * options.quick
    spec = crowdlearn.RunSpec.load(HERE / "run.toml", settings)
    run = crowdlearn.train(spec, options.run, listeners=[tell])
    told = run.evaluate().metrics
    print(f"test R2 {told['r2']:.3f} of at most 1; report: {run.report()}")


def write(data: Path) -> None:
    """Write a training and a test split: inputs float32 [N, 10] and labels float32 [N], standardised."""
    table = load_diabetes()
    order = np.random.default_rng(0).permutation(len(table.target))
    test, train = order[:TESTED], order[TESTED:]
    inputs = (table.data - table.data[train].mean(0)) / table.data[train].std(0)
    targets = (table.target - table.target[train].mean()) / table.target[train].std()
    for split, chosen in (("train", train), ("test", test)):
        np.savez(
            data / f"{split}.npz",
            inputs=inputs[chosen].astype(np.float32),
            labels=targets[chosen].astype(np.float32),
        )


def tell(event: crowdlearn.Event) -> None:
    """Print what an epoch reached."""
    if event.name == "evaluated":
        epoch, loss, tested = (event.fields[key] for key in ("epoch", "training_loss", "test_loss"))
        print(f"epoch {epoch + 1}: training loss {loss:.3f}, test loss {tested:.3f}", flush=True)


if __name__ == "__main__":
    main()
