"""Engines in processes of their own, measured in interleaved rounds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from crowdlearn_export.program.parity import relative_error

from .cases import Case
from .engine import Array

SECONDS = 0.12
"""Of one engine in one round, at least one step."""

SLOW, FEW = 10, 3
"""An engine this many times slower than eager is measured in so many rounds only."""

REFERENCE = "eager"
"""The engine that every time is relative to."""

PREPARED = {
    REFERENCE: ("weights.npz",),
    "torch_compile": ("weights.npz",),
    "crowdlearn": ("program.pte", "state.npz"),
    "crowdlearn_fastest": ("fastest.pte", "state.npz"),
    "crowdlearn_least": ("least.pte", "state.npz"),
    "mnn": ("weights.npz",),
}
"""Engines whose files the comparing process writes; the others write theirs before they are measured."""


class EngineFailed(Exception):
    """An engine cannot be measured; the message is the last line that it wrote, or what is missing."""


class Worker:
    """An engine's process, stopped except while it answers."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self._process, self._errors = process, errors

    def ask(self, question: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.stdin.write(question + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise EngineFailed(_last_line(self._errors)) from error
        answer = _answer(self._process, self._errors)
        self._process.send_signal(signal.SIGSTOP)
        return answer


def _answer(process: subprocess.Popen[str], errors: Path) -> dict[str, Any]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("answer "):
            return json.loads(line.removeprefix("answer "))
    raise EngineFailed(_last_line(errors))


def _last_line(file: Path) -> str:
    lines = file.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it wrote nothing"


def _prepare(engine: str, python: str, folder: Path, threads: int) -> dict[str, Any]:
    if engine in PREPARED:
        missing = [name for name in PREPARED[engine] if not (folder / name).exists()]
        if missing:
            raise EngineFailed(f"{missing[0]} was not written")
        return {"artifact_bytes": sum((folder / name).stat().st_size for name in PREPARED[engine])}
    with _process(engine, python, "prepare", folder, threads) as (process, errors):
        return _answer(process, errors)


@contextmanager
def _process(
    engine: str, python: str, action: str, folder: Path, threads: int
) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    errors = folder / f"{engine}.{action}.log"
    root = str(Path(__file__).resolve().parents[2])
    command = [python, "-m", "benchmarks.train_step.engine", engine, action, str(folder)]
    count = str(threads)
    paths = os.pathsep.join([root, *([os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else [])])
    environment = {**os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "PYTHONPATH": paths}
    pipe = subprocess.PIPE
    with errors.open("w") as log:
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True, env=environment)
    try:
        yield process, errors
    finally:
        process.kill()
        process.communicate()


def compare(
    case: Case, engines: Mapping[str, str], folder: Path, exact: Mapping[str, Array], rounds: int
) -> list[dict[str, Any]]:
    """One row for each of `engines` (name to Python); one that fails has a row that says why, and all do
    where the reference fails.

    Ratios are of neighbouring measurements: every round measures every engine.
    """
    rows: dict[str, dict[str, Any]] = {}
    times: dict[str, list[float]] = {}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for engine, python in engines.items():
            rows[engine] = {"engine": engine, **vars(case)}
            try:
                rows[engine] |= _prepare(engine, python, folder, case.threads)
                worker = Worker(*stack.enter_context(_process(engine, python, "serve", folder, case.threads)))
                facts = worker.ask("facts")
                file = folder / f"{engine}.gradients.npz"
                worker.ask(f"gradients {file}")
            except EngineFailed as error:
                rows[engine] = _failed(engine, case, error)
                continue
            found = dict(np.load(file))
            rows[engine] |= {**facts, "grad_error": relative_error(found, dict(exact))}
            workers[engine], times[engine] = worker, []
        for number in range(rounds):
            for engine in list(times if REFERENCE in times else ()):
                one = rows[engine]["one_ms"]
                if number < FEW or one < SLOW * rows[REFERENCE]["one_ms"]:
                    steps = max(1, round(SECONDS / (one / 1e3)))
                    try:
                        times[engine].append(workers[engine].ask(f"run {steps}")["ms"])
                    except EngineFailed as error:
                        rows[engine] = _failed(engine, case, error)
                        del times[engine]
    for engine, measured in times.items():
        if REFERENCE not in times:
            rows[engine] = _failed(
                engine, case, EngineFailed(f"{REFERENCE} failed, and it is told beside it")
            )
            continue
        rows[engine] |= spread(measured, times[REFERENCE])
        del rows[engine]["one_ms"]
    return list(rows.values())


def _failed(engine: str, case: Case, error: EngineFailed) -> dict[str, Any]:
    print(f"{engine} on {case}: {error}", file=sys.stderr)
    return {"engine": engine, **vars(case), "failed": str(error)[:200]}


def spread(times: Sequence[float], reference: Sequence[float]) -> dict[str, float]:
    """The median of `times`, and of their ratios to `reference` the median, 10th and 90th percentile."""
    ratios = sorted(t / r for t, r in zip(times, reference, strict=False))
    return {
        "ms": round(median(times), 3),
        "ratio_to_eager": round(median(ratios), 3),
        "ratio_low": round(ratios[len(ratios) // 10], 3),
        "ratio_high": round(ratios[-1 - len(ratios) // 10], 3),
    }
