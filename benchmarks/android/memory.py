"""The memory of a device runtime: with torch here, without in a bundle, x86-64 and ARM.

    python -m benchmarks.android.memory [--json FILE]

Each runtime loads a program, runs one training step of the paper's multilayer perceptron, and ends. Its peak
of resident memory is the kernel's (ru_maxrss), beside that of a process that only tells its options. ARM's
contains QEMU and the code that it translates, so it is more than a phone's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from crowdlearn.errors import FleetError
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_export.compiler.compile import compile_program
from crowdlearn_export.compiler.method import Method
from crowdlearn_export.stages.train_step import train_step
from torch import nn
from torch.nn import functional

from .__main__ import BUNDLES, _unpacked

BATCH = 32
_STARTER = """
import os, sys
pid = os.fork()
if not pid:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.execv(sys.argv[1], sys.argv[1:])
_, status, used = os.wait4(pid, 0)
print(used.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""
HERE = "torch-x86_64"


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.android.memory")
    parser.add_argument("--json", type=Path, help="file for the rows")
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    missing: list[str] = []
    with tempfile.TemporaryDirectory(prefix="crowdlearn-") as made:
        folder = Path(made)
        _write_step(folder)
        commands = {HERE: [sys.executable, "-m", "crowdlearn_device.cli"]}
        for name, abi in BUNDLES.items():
            try:
                commands[name] = _unpacked(abi, folder / name)
            except FleetError as reason:
                missing.append(f"{name}: {reason}")
        for name, command in commands.items():
            step = ["--program", str(folder / "step.pte"), "--inputs", str(folder / "step.npz")]
            out = ["--outputs", str(folder / f"{name}.npz"), "--threads", "1", "--isolation", "none"]
            started = _peak([*command, "--help"])
            stepped = _peak([*command, "replay", *step, *out])
            rows.append({"runtime": name, "started_mb": started, "step_mb": stepped})
            print(f"{name:15} {started:7.1f} MB started  {stepped:7.1f} MB with a training step", flush=True)
    for why in missing:
        print(f"not run: {why}")
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "not_run": missing}, indent=1))
    return 1 if missing else 0


def _write_step(folder: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
    x, targets, rate = torch.randn(BATCH, 784), torch.arange(BATCH) % 10, torch.tensor(0.05)
    step = train_step(model.train(), functional.cross_entropy, x, targets, Sgd(momentum=0.9))
    given = (*step.state.values(), x, targets, rate)
    method = step.method
    whole = Method(method.name, method.function, given, method.batched, method.updates)
    (folder / "step.pte").write_bytes(compile_program([whole], max_batch=BATCH).pte)
    arrays = {f"{method.name}/in{n}": value.detach().numpy() for n, value in enumerate(given)}
    np.savez(folder / "step.npz", allow_pickle=False, **arrays)


def _peak(command: Sequence[str]) -> float:
    """The peak of resident memory of a program that ends well, in MB.

    A small process starts it: the kernel counts what a process was before it became the program, too.
    """
    small = [sys.executable, "-S", "-c", _STARTER, *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(small, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with code {done.returncode}: {done.stderr[-300:]}")
    return round(int(done.stdout.split()[-1]) * 1024 / 1e6, 1)


if __name__ == "__main__":
    sys.exit(main())
