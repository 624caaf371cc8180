"""Train on your own phones by adb: each holds its own samples, which stay there.

`crowdlearn devices` lists the serials of phones. For a try, this puts some of scikit-learn's digits
onto each phone; with --there it takes what lies in run.toml's device_data already.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import tomllib
from pathlib import Path

import crowdlearn
import numpy as np
from sklearn.datasets import load_digits

HERE = Path(__file__).parent
FOLDER = tomllib.loads((HERE / "run.toml").read_text())["device_data"]
TESTED = 360
"""Samples that stay on this computer for the test."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("serials", nargs="+", metavar="SERIAL", help="a phone, by its adb serial")
    parser.add_argument("--there", action="store_true", help="the phones hold their samples already")
    parser.add_argument("--run", type=Path, default=Path("runs/own-phones"), help="folder of the run")
    parser.add_argument("--quick", action="store_true", help="train for fewer epochs")
    options = parser.parse_args()
    data = options.run.parent / "own-phones-data"
    data.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    inputs, labels = (digits.data / 16).astype(np.float32), digits.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(labels))
    np.savez(data / "test.npz", inputs=inputs[order[:TESTED]], labels=labels[order[:TESTED]])
    if not options.there:
        shares = np.array_split(order[TESTED:], len(options.serials))
        for serial, share in zip(options.serials, shares, strict=True):
            push(serial, inputs[share], labels[share])

    settings = [f"data={json.dumps(str(data.resolve()))}", f"fleet.phones={json.dumps(options.serials)}"]
    settings += ["training.epochs=2"] * options.quick
    spec = crowdlearn.RunSpec.load(HERE / "run.toml", settings)
    run = crowdlearn.train(spec, options.run)
    print(f"test accuracy {run.evaluate().accuracy:.3f} of ten digits; report: {run.report()}")


def push(serial: str, inputs: np.ndarray, labels: np.ndarray) -> None:
    """Put samples float32 [N, 64] onto a phone, as its training data."""
    if ":" in serial:
        subprocess.run(["adb", "connect", serial], check=True, stdout=subprocess.DEVNULL)
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        np.savez(file, inputs=inputs, labels=labels)
        file.flush()
        subprocess.run(["adb", "-s", serial, "shell", "mkdir", "-p", FOLDER], check=True)
        command = ["adb", "-s", serial, "push", file.name, f"{FOLDER}/train.npz"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
