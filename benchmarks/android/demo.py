"""The demo on phones of this computer and on phones of ARM: the same weights?

    python -m benchmarks.android.demo [--epochs N] [--json FILE]

Trains what `crowdlearn demo` trains, with sums in float32 so that nothing is rounded at random: on virtual
phones with the usual runtime, and on phones of ARM that run the bundle under QEMU. Ends with exit code 1
if a weight differs by more than 1e-4 of its array's largest, or the accuracies differ.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import tomllib
from pathlib import Path

import crowdlearn
from crowdlearn_host.cli.runs.demo import BUNDLED, CONFIG

ALLOWED = 1e-4


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.android.demo")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    text = CONFIG.format(phones=4, epochs=options.epochs).replace(
        "[training]", '[training]\nwire = "float32"'
    )
    with tempfile.TemporaryDirectory(prefix="crowdlearn-") as folder:
        results = {}
        for name, more in (("here", ""), ("arm64", BUNDLED.format(arch="arm64"))):
            config = crowdlearn.RunSpec.parse(tomllib.loads(text + more), "the demo")
            run = crowdlearn.train(config, Path(folder, name))
            results[name] = run.evaluate().accuracy, run.weights()
    (here, weights), (arm, arm_weights) = results["here"], results["arm64"]
    error = max(
        float((arm_weights[name] - value).abs().max() / value.abs().max().clamp(min=1e-30))
        for name, value in weights.items()
        if value.is_floating_point()
    )
    row = {"accuracy": here, "accuracy_arm64": arm, "max_error": error}
    print(f"accuracy {here:.4f} here, {arm:.4f} on ARM; weights differ by {error:.1e}")
    if options.json:
        options.json.write_text(json.dumps({"rows": [row]}))
    return 0 if error <= ALLOWED and here == arm else 1


if __name__ == "__main__":
    sys.exit(main())
