"""A simulated run on disk: what it was asked, what it measured, and where it goes on after a crash."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from crowdlearn_device.platform.files import naming, replacing, write_atomically
from crowdlearn_device.protocol.frames import Floats
from numpy.typing import NDArray
from safetensors.torch import save

from crowdlearn_host.common.files import DAMAGED_ARCHIVE, LOCK, locked
from crowdlearn_host.common.home import make_private
from crowdlearn_host.errors import RunError
from crowdlearn_host.methods.index_space import unflatten
from crowdlearn_host.methods.slicenet.window import Window
from crowdlearn_host.models.named import build_model
from crowdlearn_host.planner.plan import save_plan
from crowdlearn_host.spec.provenance import NAME as INPUTS
from crowdlearn_host.spec.provenance import RunInput, RunInputs, check_inputs
from crowdlearn_host.spec.simulated import Simulation, load_simulation

from .engine import global_weights, validated
from .setting import Setting
from .state import RoundRecord, RunState

CHECKPOINT = "checkpoint.npz"
METRICS = "metrics.jsonl"
MODEL, BEST = "model.safetensors", "best.safetensors"
QUICK_SECONDS, SHARE = 1.0, 20
"""A checkpoint that took less is written after every round, another after so many times what it took."""


class RunFolder:
    """The folder of a simulated run: config.toml, environment.json, inputs.json, plan.json, metrics.jsonl,
    checkpoint.npz and model.safetensors; for one process at a time, until it is closed.
    """

    def __init__(self, folder: str | Path, simulation: Simulation) -> None:
        """Open the folder, or makes it; a run that kept no round yet gives way. Raises RunError if the folder
        belongs to another configuration, or to phones, or is in use.
        """
        self.folder = Path(folder)
        self.config = simulation.config
        self._config_folder = simulation.folder.resolve()
        make_private(self.folder)
        if (self.folder / "run.db").exists():
            raise RunError(f"{folder} is a run of phones; choose another --run folder")
        kept = self.folder / "config.toml"
        keeps = kept.exists() and (self.begun or not (self.folder / LOCK).exists())
        # The files that it names may lie elsewhere now; what they contain is checked later.
        if keeps and load_simulation(kept, self._config_folder).config != self.config:
            raise RunError(f"{folder} is a run of another configuration; choose another --run folder")
        self._lock = locked(self.folder)
        self.kept = 0
        """Rounds of which the checkpoint tells."""
        self._due = 0.0
        self._rounds = self.config.rounds
        write_atomically(kept, simulation.text.encode())
        write_atomically(self.folder / "environment.json", json.dumps(_environment(), indent=1).encode())

    @property
    def begun(self) -> bool:
        """Return True if a round was kept."""
        return any((self.folder / name).exists() for name in (CHECKPOINT, MODEL))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def begin(self, setting: Setting, given: dict[str, RunInput]) -> None:
        """Write plan.json, as a run of phones has it, and inputs.json. Raises RunError if the run began with
        other contents.
        """
        if self.begun:
            check_inputs(self.folder, given)
        self._rounds = setting.rounds
        inputs = RunInputs(config_folder=self._config_folder, given=given)
        write_atomically(self.folder / INPUTS, inputs.to_json().encode())
        save_plan(setting.plan, self.folder / "plan.json")

    def resume(self) -> RunState | None:
        """Return the state after the last round that was kept, or None; metrics are of the same rounds then.

        Raises RunError if the checkpoint is damaged.
        """
        path = self.folder / CHECKPOINT
        state = _load_state(path) if path.exists() else None
        records = state.records if state else ()
        self.kept = len(records)
        metrics = self.folder / METRICS
        lines = metrics.read_bytes().splitlines(keepends=True) if metrics.exists() else []
        rows = [line for line in lines if line.endswith(b"\n")][: len(records)]
        if len(rows) < len(records):
            rows = [line.encode() for line in _rows_anew(records, path.stat().st_mtime)]
        write_atomically(metrics, b"".join(rows))
        return state

    def keep(self, state: RunState) -> None:
        """Add the last round to the metrics and, if it is due, write the checkpoint.

        A crash leaves either as it was or as it is then. Of a crowd whose checkpoint takes seconds to write,
        rounds are computed again rather than spend more than a twentieth of the time on it.
        """
        metrics = self.folder / METRICS
        with naming(metrics), metrics.open("a") as file:
            file.write(_row(state.records, time.time()))
        began = time.monotonic()
        if began >= self._due or len(state.records) == self._rounds:
            _save_state(self.folder / CHECKPOINT, state)
            self.kept = len(state.records)
            took = time.monotonic() - began
            self._due = time.monotonic() + (SHARE * took if took > QUICK_SECONDS else 0)

    def keep_best(self, setting: Setting, state: RunState) -> None:
        """Write the global model as that of the best epoch, if the last one is."""
        wanted, values = setting.config.validation, validated(setting, state)
        if wanted is not None and state.records[-1].validation and wanted.best(values) == len(values) - 1:
            self._write(BEST, setting, state)

    def finish(self, setting: Setting, state: RunState) -> Path:
        """Write the global model, or that of the best epoch if validation chooses one, as model.safetensors.
        Return its path.
        """
        path = self.folder / MODEL
        if setting.config.validation is None:
            return self._write(MODEL, setting, state)
        write_atomically(path, (self.folder / BEST).read_bytes())
        return path

    def _write(self, name: str, setting: Setting, state: RunState) -> Path:
        template = build_model(setting.config.model, setting.config.seed).state_dict()
        path, weights = self.folder / name, global_weights(setting, state)
        write_atomically(path, save(unflatten(weights, template, setting.workload.unused)))
        return path


def _row(records: tuple[RoundRecord, ...], at: float) -> str:
    """Return the last round, over at `at`, as a line of metrics; samples and bytes are those of the run so
    far.
    """
    last = records[-1]
    purposes = sorted({purpose for record in records for purpose in record.bytes})
    row: Mapping[str, object] = {
        "time": at,
        "round": last.round,
        "epoch": last.epoch,
        "samples": sum(record.samples for record in records),
        "loss": last.loss,
        "accuracy": last.accuracy,
        "group_accuracy": last.group_accuracy,
        "test_loss": last.test_loss,
        "samples_per_second": last.samples / last.seconds,
        **({} if last.epsilon is None else {"epsilon": last.epsilon}),
        **({"validation": last.validation} if last.validation else {}),
        **({"device_metrics": last.device_metrics} if last.device_metrics else {}),
        **({} if last.group_epsilon is None else {"group_epsilon": last.group_epsilon}),
        **({"epsilons": last.epsilons} if last.epsilons else {}),
        "bytes": {p: sum(record.bytes.get(p, 0) for record in records) for p in purposes},
    }
    return json.dumps(row) + "\n"


def _rows_anew(records: tuple[RoundRecord, ...], ended: float) -> list[str]:
    """Write metrics that were lost; their times are the last one's less the seconds that the rounds after
    took.
    """
    after = [sum(record.seconds for record in records[at:]) for at in range(1, len(records) + 1)]
    return [_row(records[: at + 1], ended - seconds) for at, seconds in enumerate(after)]


def _save_state(path: Path, state: RunState) -> None:
    arrays = {f"window_{name}": array for name, array in state.window.state().items()}
    records = np.frombuffer(json.dumps([asdict(record) for record in state.records]).encode(), np.uint8)
    with replacing(path) as file:
        np.savez(
            file,
            allow_pickle=False,
            records=records,
            **_columns("weights", state.weights),
            **_columns("slots", state.slots),
            updates=np.array(state.updates, np.int64),
            kept=state.kept,
            **arrays,
        )


def _columns(name: str, rows: Floats) -> dict[str, NDArray[Any]]:
    """Return float32 [groups, weights] as what all groups have alike, once, and the columns in which they
    differ: after a sharing these are few.
    """
    differ = np.zeros(rows.shape[1], np.bool_)
    bits = rows.view(np.uint32)  # zeros of both signs are equal, and not the same
    for row in bits[1:]:
        differ |= row != bits[0]
    places = np.flatnonzero(differ)
    return {name: rows[0], f"{name}_places": places, f"{name}_rows": rows[:, places]}


def _rows(name: str, arrays: Mapping[str, NDArray[Any]]) -> Floats:
    """Return what `_columns` was given."""
    own = arrays[f"{name}_rows"]
    rows = np.tile(arrays[name], (len(own), 1))
    rows[:, arrays[f"{name}_places"]] = own
    return rows


def _load_state(path: Path) -> RunState:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            window = {n.removeprefix("window_"): arrays[n] for n in arrays.files if n.startswith("window_")}
            records = tuple(RoundRecord(**record) for record in json.loads(arrays["records"].tobytes()))
            weights, slots = (_rows(name, arrays) for name in ("weights", "slots"))
            updates = tuple(arrays["updates"].tolist())
            return RunState(weights, slots, Window.from_state(window), records, updates, arrays["kept"])
    except DAMAGED_ARCHIVE as error:
        raise RunError(f"{path} is damaged ({error}); delete it to start the run anew") from error


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
