"""The process that an engine runs in: it prepares its files, or loads them and trains when asked.

Needs NumPy alone, so that it runs in the environment of any peer:

    python -m benchmarks.train_step.engine NAME prepare|serve FOLDER

`engines/NAME.py` has `load(given)`, which returns an Engine, and where it needs files of its own
`prepare(given)`, which writes them and returns those that a device would need. What the module imports is
the engine's runtime.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Layer = dict[str, Any]
"""A layer as layers.py describes it."""
STEPS_FOR_MEMORY = 20
SECONDS_FOR_MEMORY = 15.0
"""An engine that is very slow takes fewer steps."""


@dataclass(frozen=True)
class Given:
    """What every engine starts from: a folder with the same weights and the same batch.

    `layers` describes the network, as layers.py does, for engines that have to be told; it is empty where it
    cannot be described.
    """

    folder: Path
    model: str
    batch: int
    threads: int
    rate: float
    layers: tuple[Layer, ...]

    @classmethod
    def read(cls, folder: Path) -> Given:
        case = json.loads((folder / "case.json").read_text())
        return cls(folder, **{**case, "layers": tuple(case["layers"])})

    def weights(self) -> dict[str, Array]:
        """The initial parameters by their PyTorch names, in PyTorch's layout."""
        return dict(np.load(self.folder / "weights.npz"))

    def data(self) -> tuple[Array, Array]:
        """Samples (float32 [batch, ...] or int64) and labels (int64 [batch])."""
        data = np.load(self.folder / "batch.npz")
        return data["x"], data["y"]


def every(layers: Sequence[Layer]) -> Iterator[Layer]:
    """All layers, those inside of sums too."""
    for layer in layers:
        for path in layer.get("paths", ()):
            yield from every(path)
        yield layer


class Engine(Protocol):
    """A network that trains on the batch."""

    def step(self) -> float:
        """Forward, backward and SGD once; the loss."""
        ...

    def gradients(self) -> dict[str, Array]:
        """The gradients at the initial weights by their PyTorch names, in PyTorch's layout."""
        ...


def serve(name: str, given: Given) -> None:
    """Load the engine, then answer: `facts`, `gradients FILE`, or `run STEPS`."""
    started = time.perf_counter()
    module = importlib.import_module(f"benchmarks.train_step.engines.{name}")
    import_s, started = time.perf_counter() - started, time.perf_counter()
    imported = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    engine: Engine = module.load(given)
    engine.step()
    load_s = time.perf_counter() - started
    deadline = time.perf_counter() + SECONDS_FOR_MEMORY
    for _ in range(STEPS_FOR_MEMORY):
        engine.step()
        if time.perf_counter() > deadline:
            break
    peak = resident("VmHWM")
    facts = {
        "import_s": round(import_s, 2),
        "load_s": round(load_s, 3),
        "imported_mb": imported,
        "growth_mb": round(peak - imported, 1),
        "peak_mb": peak,
        "one_ms": timed(engine.step, 1),
    }
    for question in sys.stdin:
        word, _, rest = question.strip().partition(" ")
        answer: dict[str, Any] = facts
        if word == "gradients":
            gradients: dict[str, Any] = engine.gradients()
            np.savez(rest, **gradients)
            answer = {}
        elif word == "run":
            answer = {"ms": timed(engine.step, int(rest))}
        print("answer " + json.dumps(answer), flush=True)


def timed(step: Callable[[], object], count: int) -> float:
    """Milliseconds of one step, over `count`."""
    started = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - started) / count * 1e3


def resident(what: str) -> float:
    """A line of /proc/self/status, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return round(int(line.split()[1]) / 1024, 1)
    raise SystemExit(f"this system does not tell {what}")


def main() -> None:
    name, action, folder = sys.argv[1:]
    given = Given.read(Path(folder))
    if action == "serve":
        return serve(name, given)
    files = importlib.import_module(f"benchmarks.train_step.engines.{name}").prepare(given)
    print("answer " + json.dumps({"artifact_bytes": sum(file.stat().st_size for file in files)}))
    return None


if __name__ == "__main__":
    main()
