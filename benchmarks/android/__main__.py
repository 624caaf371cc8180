"""Our programs on Android's own ExecuTorch library and on the bundle's, beside the Python runtime here.

    python -m benchmarks.android [--quick] [--json FILE]

ARM's library and bundle run under QEMU: their arithmetic is ARM's, their time is not told. Ends with exit
code 1 if a difference is more than 1e-5 or an operator is missing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from crowdlearn.errors import FleetError
from crowdlearn.phones import make_bundle, runner
from crowdlearn.testing import cache_home
from crowdlearn_device.program.replay import Arrays

from .agreement import ALLOWED, agreement
from .library import LIBRARIES, AndroidLibrary, Missing, android_library
from .programs import Program, programs

QUICK = ("dense", "transformer")
BUNDLES = {"bundle-arm64": "arm64-v8a", "bundle-x86_64": "x86_64"}

Run = Callable[[Sequence[Program]], list[Arrays]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.android")
    parser.add_argument("--quick", action="store_true", help="dense layers and a transformer's step alone")
    parser.add_argument("--json", type=Path, help="file for the rows")
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    missing: list[str] = []
    with tempfile.TemporaryDirectory(prefix="crowdlearn-") as folder:
        libraries = dict(_libraries(Path(folder), missing))
        operators = {n: android_library(n).operators() for n in libraries if n in LIBRARIES}
        print(f"{'program':20} {'method':12} {'library':15} {'max error':>9}  bit-equal  cancelling")
        compiled = list(programs(QUICK) if options.quick else programs())
        found = {name: run(compiled) for name, run in libraries.items()}
        for number, program in enumerate(compiled):
            rows += _rows(program, {name: all_of[number] for name, all_of in found.items()}, operators)
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "not_run": missing}, indent=1))
    for reason in missing:
        print(f"not run: {reason}")
    wrong = [row for row in rows if not row["holds"]]
    print(f"{len(rows)} rows, {len(wrong)} with a difference above {ALLOWED:.0e} or an operator missing")
    return 1 if wrong or missing else 0


def _rows(
    program: Program, arrays: dict[str, Arrays], operators: dict[str, frozenset[str]]
) -> Iterator[dict[str, object]]:
    for name, found in arrays.items():
        absent = sorted(set(program.operators) - operators.get(name, frozenset(program.operators)))
        for method in program.methods:
            row = agreement(program, method, found)
            print(
                f"{program.name:20} {method:12} {name:15} {row.error:9.1e}  {row.bit_equal!s:9}  "
                f"{row.cancelling}{'  MISSING ' + ', '.join(absent) if absent else ''}",
                flush=True,
            )
            yield {
                "program": program.name,
                "method": method,
                "library": name,
                "max_error": row.error,
                "bit_equal": row.bit_equal,
                "cancelling": row.cancelling,
                "missing_operators": len(absent),
                "holds": row.holds and not absent,
            }


def _libraries(folder: Path, missing: list[str]) -> Iterator[tuple[str, Run]]:
    for name in LIBRARIES:
        try:
            library = android_library(name)
        except Missing as reason:
            missing.append(f"{name}: {reason}")
            continue
        yield name, partial(_run_each, library)
    for name, abi in BUNDLES.items():
        try:
            command = _unpacked(abi, folder / name)
        except FleetError as reason:
            missing.append(f"{name}: {reason}")
            continue
        yield name, partial(_replayed, command, folder)


def _unpacked(abi: str, folder: Path) -> list[str]:
    """The words that run `crowdlearn-device` of a bundle on this computer. Raises FleetError."""
    before = runner("arm64" if abi == "arm64-v8a" else abi)
    bundle = make_bundle(abi, cache_home() / "bundles")
    for archive in (bundle.python, bundle.device):
        with tarfile.open(archive.path) as tar:
            tar.extractall(folder / archive.digest, filter="data")
    return [*before, *bundle.command(str(folder))]


def _run_each(library: AndroidLibrary, programs: Sequence[Program]) -> list[Arrays]:
    return [library.run(program.pte, program.inputs) for program in programs]


def _replayed(command: list[str], folder: Path, programs: Sequence[Program]) -> list[Arrays]:
    """In one process: a bundle's Python takes seconds to start under QEMU."""
    for program in programs:
        program.save(folder)
    outputs = [folder / f"{program.name}.out.npz" for program in programs]
    words = [
        *("--program", *(str(folder / f"{program.name}.pte") for program in programs)),
        *("--inputs", *(str(folder / f"{program.name}.npz") for program in programs)),
        *("--outputs", *map(str, outputs), "--threads", "1"),
    ]
    done = subprocess.run([*command, "replay", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-500:])
    found = []
    for path in outputs:
        with np.load(path) as archive:
            found.append({name: archive[name] for name in archive.files})
    return found


if __name__ == "__main__":
    sys.exit(main())
