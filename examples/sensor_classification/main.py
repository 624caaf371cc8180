"""Train a network on a smartwatch's signals over six virtual phones, and test it on people it never saw."""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from typing import Any

import crowdlearn
import numpy as np

HERE = Path(__file__).parent
TIMES, STEP = 100, 50
"""Samples of a window at 50 Hz, and by how much the next one is later."""
TESTED = (9, 10)
"""The people whose exercises are for the test."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/exercises"), help="folder of the run")
    parser.add_argument("--quick", action="store_true", help="train on fewer samples")
    options = parser.parse_args()
    found = importlib.util.find_spec("seglearn")
    if found is None or not found.submodule_search_locations:
        parser.error("the signals come with seglearn; try: pip install --no-deps seglearn")
    recorded = Path(found.submodule_search_locations[0]) / "data" / "watch_dataset.npy"
    data = options.run.parent / "exercises-data"
    data.mkdir(parents=True, exist_ok=True)
    write(recorded, data, every=3 if options.quick else 1)

    spec = crowdlearn.RunSpec.load(HERE / "run.toml", [f"data={json.dumps(str(data.resolve()))}"])
    run = crowdlearn.train(spec, options.run, listeners=[tell])
    print(f"test accuracy {run.evaluate().accuracy:.3f} of seven exercises; report: {run.report()}")


def write(recorded: Path, data: Path, every: int) -> None:
    """Cut the recordings into windows float32 [N, 6, 1, 100], of people for training and of others."""
    # Lists of arrays are pickled. Read so only what you would run: this file came with a package.
    told: dict[str, Any] = np.load(recorded, allow_pickle=True).item()
    usual = np.concatenate(told["X"])
    mean, spread = usual.mean(0), usual.std(0)
    windows: dict[str, list[Any]] = {"train": [], "test": []}
    labels: dict[str, list[int]] = {"train": [], "test": []}
    for signals, label, person in zip(told["X"], told["y"], told["subject"], strict=True):
        split = "test" if person in TESTED else "train"
        scaled = ((signals - mean) / spread).astype(np.float32)
        for start in range(0, len(scaled) - TIMES + 1, STEP * (every if split == "train" else 1)):
            windows[split].append(scaled[start : start + TIMES].T[:, None, :])
            labels[split].append(int(label))
    for split in windows:
        np.savez(data / f"{split}.npz", inputs=np.stack(windows[split]), labels=np.array(labels[split]))


def tell(event: crowdlearn.Event) -> None:
    """Print what an epoch reached."""
    if event.name == "evaluated":
        epoch, loss, accuracy = (event.fields[key] for key in ("epoch", "training_loss", "test_accuracy"))
        print(f"epoch {epoch + 1}: training loss {loss:.3f}, test accuracy {accuracy:.3f}", flush=True)


if __name__ == "__main__":
    main()
