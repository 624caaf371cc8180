"""Runs configurations side by side, one a core, and keeps what they gave, so that nothing is run twice."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from crowdlearn.simulation import InProcess, RoundRecord, SimulationConfig, partition, prepare, run
from crowdlearn_device.data.dataset import load_dataset
from crowdlearn_device.platform.files import write_atomically

ARITHMETIC = 4
"""To be raised where the same configuration gives other numbers: runs that were kept are made anew then."""


@dataclass(frozen=True)
class Job:
    """A run: its configuration, its data, and how many training samples of it (0: all)."""

    config: SimulationConfig
    data: str
    samples: int = 0

    def key(self) -> str:
        """The same for the same run: configuration, data and arithmetic."""
        parts = [self.config.model_dump(mode="json"), self.samples, _contents(self.data), ARITHMETIC]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


Records = tuple[RoundRecord, ...]


@dataclass(frozen=True)
class Finished:
    """What a job recorded, and the seconds of one core's work that it took: a busy machine adds none."""

    records: Records
    cpu_seconds: float


def run_all(
    jobs: Iterable[Job], kept: Path, cores: int, on_finished: Callable[[Finished], None]
) -> dict[str, Finished]:
    """What every job gave, by key; a job found in the folder `kept` is not run again."""
    wanted = {job.key(): job for job in jobs}
    kept.mkdir(parents=True, exist_ok=True)
    done = kept_runs(wanted, kept)
    open_jobs = [job for key, job in wanted.items() if key not in done]
    if not open_jobs:
        return done
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores, mp_context=context) as pool:
        futures = {pool.submit(run_one, job): job for job in open_jobs}
        for future in as_completed(futures):
            job, finished = futures[future], future.result()
            _write(kept / f"{job.key()}.json", job, finished)
            done[job.key()] = finished
            on_finished(finished)
    return done


def kept_runs(keys: Iterable[str], kept: Path) -> dict[str, Finished]:
    """What the jobs of these keys gave, as far as the folder `kept` has them."""
    return {key: _read(kept / f"{key}.json") for key in keys if (kept / f"{key}.json").exists()}


def run_one(job: Job) -> Finished:
    """Simulates the job in this process."""
    began = time.process_time()
    train, test = load_dataset(job.data), load_dataset(job.data, "test")
    if job.samples:
        train, test = train.subset(np.arange(job.samples)), test.subset(np.arange(job.samples // 6))
    config = job.config
    devices = partition(train.labels, config.devices, config.partition, config.seed)
    setting = prepare(config, train, test, devices)
    records = run(setting, InProcess(setting.workload)).records
    return Finished(records, time.process_time() - began)


@lru_cache
def _contents(folder: str) -> str:
    """A hash of the files in a data folder, and of their names."""
    digest = hashlib.sha256()
    for file in sorted(Path(folder).iterdir()):
        if file.is_file():
            digest.update(f"{file.name} {file.stat().st_size} ".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _read(path: Path) -> Finished:
    content = json.loads(path.read_text())
    return Finished(tuple(RoundRecord(**record) for record in content["records"]), content["cpu_seconds"])


def _write(path: Path, job: Job, finished: Finished) -> None:
    fields = {"config": job.config.model_dump(mode="json"), **asdict(finished)}
    write_atomically(path, json.dumps(fields).encode())
