"""A simulated run on disk: what it was asked, what it measured, and where it goes on after a crash."""

from __future__ import annotations

import json
import os
import platform
import time
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from ..config import load_toml
from ..errors import RunError
from ..models import build_model
from ..planner.plan import Plan, save_plan
from ..sharing.flat import unflatten
from ..sharing.window import Window
from .config import SimulationConfig
from .engine import RoundRecord, RunState, Setting, global_weights

CHECKPOINT = "checkpoint.npz"
METRICS = "metrics.jsonl"


class RunFolder:
    """config.toml, environment.json, plan.json, metrics.jsonl, checkpoint.npz and model.safetensors."""

    def __init__(self, folder: str | Path, config_file: str | Path) -> None:
        """Opens the folder, or makes it. Raises RunError where it belongs to another configuration."""
        self.folder = Path(folder)
        self.config = load_toml(config_file, SimulationConfig)
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = self.folder / "config.toml"
        if kept.exists() and load_toml(kept, SimulationConfig) != self.config:
            raise RunError(f"{folder} is a run of another configuration; choose another --run folder")
        _replace(kept, Path(config_file).read_bytes())
        _replace(self.folder / "environment.json", json.dumps(_environment(), indent=1).encode())

    def resume(self) -> RunState | None:
        """The state after the last round that was kept, or None. Raises RunError where it is damaged."""
        path = self.folder / CHECKPOINT
        state = _load_state(path) if path.exists() else None
        done = len(state.records) if state else 0
        metrics = self.folder / METRICS
        lines = metrics.read_bytes().splitlines(keepends=True) if metrics.exists() else []
        _replace(metrics, b"".join(lines[:done]))
        return state

    def keep_plan(self, plan: Plan) -> None:
        """Writes plan.json, as a run of phones has it."""
        save_plan(plan, self.folder / "plan.json")

    def keep(self, state: RunState) -> None:
        """Adds the last round to metrics and checkpoint; a crash leaves either as it was or as it is then."""
        with (self.folder / METRICS).open("a") as file:
            file.write(json.dumps(_row(state.records)) + "\n")
        _save_state(self.folder / CHECKPOINT, state)

    def finish(self, setting: Setting, state: RunState) -> Path:
        """Writes the global model as model.safetensors and returns its path."""
        template = build_model(setting.config.model, setting.config.seed).state_dict()
        path = self.folder / "model.safetensors"
        save_file(unflatten(global_weights(setting, state), template), path)
        return path


def _row(records: tuple[RoundRecord, ...]) -> Mapping[str, object]:
    """The last round as a row of metrics; samples and bytes count from the start of the run."""
    last = records[-1]
    purposes = sorted({purpose for record in records for purpose in record.bytes})
    return {
        "time": time.time(),
        "round": last.round,
        "epoch": last.epoch,
        "samples": sum(record.samples for record in records),
        "loss": last.loss,
        "accuracy": last.accuracy,
        "group_accuracy": last.group_accuracy,
        "samples_per_second": last.samples / last.seconds,
        "bytes": {p: sum(record.bytes.get(p, 0) for record in records) for p in purposes},
    }


def _save_state(path: Path, state: RunState) -> None:
    arrays = {f"window_{name}": array for name, array in state.window.state().items()}
    records = np.frombuffer(json.dumps([asdict(record) for record in state.records]).encode(), np.uint8)
    temporary = path.with_suffix(".partial.npz")
    np.savez(
        temporary,
        allow_pickle=False,
        weights=state.weights,
        momentum=state.momentum,
        records=records,
        **arrays,
    )
    os.replace(temporary, path)


def _load_state(path: Path) -> RunState:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            window = {n.removeprefix("window_"): arrays[n] for n in arrays.files if n.startswith("window_")}
            records = tuple(RoundRecord(**record) for record in json.loads(arrays["records"].tobytes()))
            return RunState(arrays["weights"], arrays["momentum"], Window.from_state(window), records)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise RunError(f"{path} is damaged ({error}); delete it to start the run anew") from error


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{path.name}.partial")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def _environment() -> dict[str, object]:
    return {
        "crowdlearn": version("crowdlearn"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
    }
