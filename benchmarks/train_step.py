"""How fast a training step is: ours against PyTorch eager and other trainers that run on a device.

Every engine runs in a process of its own. Rounds are interleaved, and while one engine is measured the
others are stopped, so a ratio compares neighbouring moments of the same machine.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

RATE = 0.01
STEPS_FOR_MEMORY = 20
OF_PROGRAM = ("program_bytes", "arena_bytes", "compile_s")


@dataclass(frozen=True)
class Case:
    """One row of the comparison: a network, a batch, a number of threads."""

    model: str
    batch: int
    threads: int


QUICK = [Case("cnn", 32, 1)]
FULL = [
    *(Case("cnn", batch, threads) for batch in (32, 8, 1) for threads in (1, 2)),
    *(Case(model, 32, 1) for model in ("mlp", "paper_mlp", "resnet20", "mobilenet", "transformer")),
    *(Case("mlp", batch, 1) for batch in (8, 1)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the CNN at batch 32 on one thread, no peers")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--models", help="comma-separated; only these networks")
    parser.add_argument("--worker", nargs=2, metavar=("ENGINE", "CASE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options.worker[0], json.loads(options.worker[1]))
    cases = QUICK if options.quick else FULL
    if options.models:
        cases = [case for case in FULL if case.model in options.models.split(",")]
    engines = ["eager", "crowdlearn"]
    with tempfile.TemporaryDirectory() as folder:
        programs = {case.model: compiled(case.model, Path(folder)) for case in cases}
        rows = [row for case in cases for row in compare(case, engines, programs[case.model])]
    Console(width=None if sys.stdout.isatty() else 130).print(as_table(rows))
    if options.json:
        options.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    return None


def compiled(model: str, folder: Path) -> dict[str, Any]:
    """The model's program as a file, and what compiling it said."""
    import numpy as np
    from crowdlearn_export.compile import compile_program
    from crowdlearn_export.lowering import lower
    from crowdlearn_export.lowering.backend import products

    started = time.perf_counter()
    step = step_of(model)
    program = compile_program([step.method], max_batch=32)
    (folder / f"{model}.pte").write_bytes(program.pte)
    np.savez(folder / f"{model}.npz", **{name: value.numpy() for name, value in step.state.items()})
    return {
        "path": str(folder / model),
        "program_bytes": len(program.pte),
        "arena_bytes": program.arena_bytes,
        "compile_s": round(time.perf_counter() - started, 1),
        "products": products(lower(step.method.function, step.method.example, step.method.batched)),
    }


def step_of(model: str) -> Any:
    import torch
    from crowdlearn_export.train_step import train_step

    from benchmarks.models import NETWORKS

    torch.manual_seed(0)
    x, y = batch_of(model, 32)
    return train_step(NETWORKS[model].build(), torch.nn.functional.cross_entropy, x, y)


def batch_of(model: str, size: int) -> tuple[Any, Any]:
    """A random batch of a model: samples and labels."""
    import torch

    from benchmarks.models import NETWORKS

    network, generator = NETWORKS[model], torch.Generator().manual_seed(2)
    y = torch.randint(0, network.classes, (size,), generator=generator)
    if model == "transformer":
        return torch.randint(0, 64, (size, *network.sample), generator=generator), y
    return torch.randn(size, *network.sample, generator=generator), y


def compare(case: Case, engines: list[str], program: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each engine."""
    rounds = 15 if case.batch > 8 else 25
    with ExitStack() as stack:
        workers = {e: stack.enter_context(worker(e, {**vars(case), **program})) for e in engines}
        facts = {engine: w.ask("facts") for engine, w in workers.items()}
        steps = max(2, round(0.12 / (facts["eager"]["ms"] / 1e3)))
        times: dict[str, list[float]] = {engine: [] for engine in engines}
        for _ in range(rounds):
            for engine, w in workers.items():
                times[engine].append(w.ask(f"run {steps}")["ms"])
    rows = []
    for engine in engines:
        ratios = sorted(t / e for t, e in zip(times[engine], times["eager"], strict=True))
        rows.append(
            {
                "engine": engine,
                **vars(case),
                "ms": round(median(times[engine]), 3),
                "ratio_to_eager": round(median(ratios), 3),
                "ratio_low": round(ratios[len(ratios) // 10], 3),
                "ratio_high": round(ratios[-1 - len(ratios) // 10], 3),
                **{k: v for k, v in facts[engine].items() if k != "ms"},
                **({k: program[k] for k in OF_PROGRAM} if engine == "crowdlearn" else {}),
            }
        )
    return rows


class Worker:
    """An engine's process, stopped except while it answers."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, question: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.write(question + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        self._process.send_signal(signal.SIGSTOP)
        if not answer:
            raise SystemExit(f"an engine ended: {' '.join(self._process.args)}")  # type: ignore[arg-type]
        return json.loads(answer)


@contextmanager
def worker(engine: str, case: dict[str, Any]) -> Iterator[Worker]:
    command = [sys.executable, "-m", "benchmarks.train_step", "--worker", engine, json.dumps(case)]
    threads = str(case["threads"])
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
    )
    try:
        yield Worker(process)
    finally:
        process.kill()
        process.wait()


def work(engine: str, case: dict[str, Any]) -> None:
    """Answer the questions of the comparing process."""
    started = time.perf_counter()
    prepare = {"eager": eager, "crowdlearn": crowdlearn}[engine]
    load = prepare(case)
    import_s, started = time.perf_counter() - started, time.perf_counter()
    imported = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    step, gradient_error = load()
    step()
    load_s = time.perf_counter() - started
    for _ in range(STEPS_FOR_MEMORY):
        step()
    memory = {"imported_mb": imported, "growth_mb": round(resident("VmHWM") - imported, 1)}
    facts = {
        "import_s": round(import_s, 2),
        "load_s": round(load_s, 3),
        **memory,
        "ms": timed(step, 3),
        "grad_error": gradient_error(),
    }
    if engine == "eager" and case["batch"] == 32:
        facts["products_ms"] = round(products_alone(case["products"]), 3)
    for question in sys.stdin:
        if question.startswith("run"):
            print(json.dumps({"ms": timed(step, int(question.split()[1]))}), flush=True)
        else:
            print(json.dumps(facts), flush=True)


def timed(step: Callable[[], float], count: int) -> float:
    """Milliseconds of one step, over `count`."""
    started = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - started) / count * 1e3


def products_alone(shapes: list[tuple[int, int, int]]) -> float:
    """Milliseconds that PyTorch needs for the step's matrix products alone: the limit of the machine."""
    import torch

    pairs = [(torch.randn(rows, inner), torch.randn(inner, columns)) for rows, inner, columns in shapes]

    def run() -> float:
        for left, right in pairs:
            torch.mm(left, right)
        return 0.0

    run()
    return median(timed(run, 1) for _ in range(9))


def resident(what: str) -> float:
    """A line of /proc/self/status, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return round(int(line.split()[1]) / 1024, 1)
    raise SystemExit(f"this system does not tell {what}")


Loaded = tuple[Callable[[], float], Callable[[], float]]


def eager(case: dict[str, Any]) -> Callable[[], Loaded]:
    import torch

    from benchmarks.models import NETWORKS

    def load() -> Loaded:
        torch.set_num_threads(case["threads"])
        torch.manual_seed(0)
        model = NETWORKS[case["model"]].build()
        start = {n: p.detach().clone() for n, p in model.named_parameters()}
        x, y = batch_of(case["model"], case["batch"])
        sgd = torch.optim.SGD(model.parameters(), lr=RATE)

        def step() -> float:
            sgd.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x), y)
            torch.autograd.backward(loss)
            sgd.step()
            return loss.item()

        def gradient_error() -> float:
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(start[name])
            sgd.zero_grad()
            torch.autograd.backward(torch.nn.functional.cross_entropy(model(x), y))
            found = {n: p.grad for n, p in model.named_parameters()}
            return relative_error(found, exact_gradient(case))

        return step, gradient_error

    return load


def crowdlearn(case: dict[str, Any]) -> Callable[[], Loaded]:
    import numpy as np
    import torch
    from crowdlearn_device.executor import ExecuTorchExecutor
    from executorch.extension.pybindings import _portable_lib

    def load() -> Loaded:
        torch.set_num_threads(case["threads"])
        _portable_lib._unsafe_reset_threadpool(case["threads"])
        start = dict(np.load(case["path"] + ".npz"))
        x, y = (t.numpy() for t in batch_of(case["model"], case["batch"]))
        executor = ExecuTorchExecutor(Path(case["path"] + ".pte").read_bytes())
        rate = np.array(RATE, np.float32)
        state = list(start.values())

        def step() -> float:
            loss, *state[:] = executor.run("train_step", [*state, x, y, rate])
            return float(loss)

        def gradient_error() -> float:
            whole = np.array(1, np.float32)
            worst, exact = 0.0, exact_gradient(case)
            for _ in range(2):
                new = executor.run("train_step", [*start.values(), x, y, whole])[1:]
                found = {
                    n: torch.from_numpy(old.astype(np.float64) - value)
                    for (n, old), value in zip(start.items(), new, strict=True)
                }
                worst = max(worst, relative_error(found, exact))
            return worst

        return step, gradient_error

    return load


def exact_gradient(case: dict[str, Any]) -> dict[str, Any]:
    """The gradient of the first step in float64."""
    import torch

    from benchmarks.models import NETWORKS

    torch.manual_seed(0)
    model = NETWORKS[case["model"]].build().double()
    x, y = batch_of(case["model"], case["batch"])
    exact = model(x.double() if x.is_floating_point() else x)
    torch.autograd.backward(torch.nn.functional.cross_entropy(exact, y))
    return {n: p.grad for n, p in model.named_parameters()}


def relative_error(found: dict[str, Any], exact: dict[str, Any]) -> float:
    """The largest difference over the largest exact value."""
    scale = max(float(g.abs().max()) for g in exact.values())
    return max(float((found[n] - g).abs().max()) for n, g in exact.items()) / scale


def as_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="one training step; ratio to PyTorch eager: median (10th to 90th percentile)")
    for name in (
        "model",
        "batch",
        "threads",
        "engine",
        "ms",
        "ratio",
        "grad error",
        "import s",
        "load s",
        "growth MB",
        "program kB",
    ):
        table.add_column(name, justify="left" if name in ("model", "engine") else "right")
    for row in rows:
        table.add_row(
            row["model"],
            str(row["batch"]),
            str(row["threads"]),
            row["engine"],
            f"{row['ms']:.2f}",
            f"{row['ratio_to_eager']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})",
            f"{row['grad_error']:.0e}",
            f"{row['import_s']:.1f}",
            f"{row['load_s']:.2f}",
            f"{row['growth_mb']:.0f}",
            f"{row['program_bytes'] / 1e3:.0f}" if "program_bytes" in row else "",
        )
    return table


if __name__ == "__main__":
    main()
