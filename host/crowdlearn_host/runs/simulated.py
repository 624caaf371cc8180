"""A simulated run from its description to its model, without a terminal."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from crowdlearn_device.data.dataset import Dataset, load_dataset
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_export.losses.registry import make_loss

from crowdlearn_host.errors import ConfigError, Interrupted
from crowdlearn_host.methods.index_space import unflatten
from crowdlearn_host.methods.round_schedule import doubt_of_sharing
from crowdlearn_host.models.named import build_model
from crowdlearn_host.runs.data import load_split, validated
from crowdlearn_host.runs.interrupt import Interrupt
from crowdlearn_host.runs.results.evaluation import evaluate
from crowdlearn_host.runs.results.metrics import check_metric
from crowdlearn_host.runs.results.own_metrics import own_metrics
from crowdlearn_host.simulation.engine import Judge, ended
from crowdlearn_host.simulation.engine import run as run_rounds
from crowdlearn_host.simulation.engine import validated as validated_by
from crowdlearn_host.simulation.partition import Indices, load_device_files, partition
from crowdlearn_host.simulation.run_folder import RunFolder
from crowdlearn_host.simulation.setting import Setting, prepare
from crowdlearn_host.simulation.state import RunState
from crowdlearn_host.simulation.workers import InProcess, Processes, RayTasks, Workers
from crowdlearn_host.spec.provenance import run_inputs
from crowdlearn_host.spec.run_spec import DIGITS
from crowdlearn_host.spec.simulated import Simulation
from crowdlearn_host.spec.simulation import SimulationConfig

if TYPE_CHECKING:
    from crowdlearn_host.coordinator.hub.records import OnEvent


def simulate_run(
    simulation: Simulation,
    run: Path,
    on_event: OnEvent,
    interrupt: Interrupt,
    *,
    data: str | None = None,
    engine: str = "local",
    processes: int = 1,
) -> RunState:
    """Simulate to the last round in the folder `run`, from where it is, and return the state after it.

    `engine` is "local" or "ray". `data` (a folder or "digits") goes before what the simulation names. Reports
    "begun" (rounds kept, rounds in all) and after every round "round" with its record. 0 `processes` means
    one a core.

    Raises ConfigError or PlanError if something does not fit, RunError if the folder holds another run,
    TrainingError if training diverges or is asked to stop.
    """
    config = simulation.config
    place = data or simulation.data
    if place is None:
        raise ConfigError("the description names no data; add data, or give --data FOLDER")
    with RunFolder(run, simulation) as folder:
        train, validation, test, devices = _samples(simulation, place)
        setting = prepare(config, train, test, devices)
        judge = _judge(setting, validation)
        where = place if place == DIGITS else str(Path(place).resolve())
        folder.begin(setting, run_inputs(config.model, config.plan, where, train, test, devices, validation))
        before = folder.resume()
        if config.strategy.windowed and (doubt := doubt_of_sharing(config.sharing.theta, config.sharing.tau)):
            on_event("note", {"text": doubt})
        on_event("begun", {"kept": len(before.records) if before else 0, "rounds": setting.rounds})
        if setting.rounds < config.rounds:
            text = f"privacy.epsilon pays for {setting.rounds} of {config.rounds} rounds; training ends then"
            on_event("note", {"text": text})

        def on_round(state: RunState) -> None:
            folder.keep_best(setting, state)
            folder.keep(state)
            on_event("round", {**asdict(state.records[-1]), "rounds": setting.rounds})
            over = len(state.records) == setting.rounds or ended(setting, state)
            if interrupt.asked and not over:
                raise Interrupted("interrupted; the same command goes on from the last round")

        try:
            with _workers(setting, engine, processes or os.cpu_count() or 1) as workers:
                state = run_rounds(setting, workers, before, on_round, judge)
        except KeyboardInterrupt:
            on_event("interrupted", {"kept": folder.kept, "rounds": setting.rounds})
            raise
        folder.finish(setting, state)
        if config.validation is not None:
            values = validated_by(setting, state)
            best = config.validation.best(values)
            fields = {"epoch": best, "metric": config.validation.metric, "value": values[best]}
            on_event("chosen", {**fields, "rounds": len(state.records)})
        return state


def _judge(setting: Setting, validation: Dataset | None) -> Judge | None:
    """Return what evaluates weights on the validation split. Raises ConfigError or DataError if it does not
    fit the model or the loss.
    """
    wanted = setting.config.validation
    own_metrics(setting.config.own_metrics)  # what cannot be imported is refused before training
    if validation is None or wanted is None:
        return None
    config, workload = setting.config, setting.workload
    model, loss = build_model(config.model, config.seed), make_loss(**_loss(config))
    data = validation.shaped(workload.inputs.shape[1:], "the validation data")
    check_metric(wanted.metric, workload.targets)
    template = model.state_dict()
    evaluate(model, template, data.subset(np.arange(min(len(data), 2))), loss, config.own_metrics)

    def judge(weights: Floats) -> dict[str, float]:
        found = evaluate(model, unflatten(weights, template, workload.unused), data, loss, config.own_metrics)
        return {"loss": found.loss, **found.metrics}

    return judge


def _loss(config: SimulationConfig) -> dict[str, Any]:
    return {"kind": config.training.loss.kind, **config.training.loss.options}


def _samples(simulation: Simulation, place: str) -> tuple[Dataset, Dataset | None, Dataset, list[Indices]]:
    """Return samples to train on, to validate by, and to test on, and the positions int64 [n] of each
    device's samples.
    """
    config = simulation.config
    if place != DIGITS and config.partition.kind == "files":
        train, devices = load_device_files(place, config.devices)
        _, validation = validated(place, config.validation, train, config.seed)
    else:
        whole = load_split(place, "train") if place == DIGITS else load_dataset(place, "train")
        rest, validation = validated(place, config.validation, whole, config.seed)
        train = rest or whole
        devices = partition(train.labels, config.devices, config.partition, config.seed)
    test = load_split(place, "test") if place == DIGITS else load_dataset(place, "test")
    return train, validation, test, devices


def _workers(setting: Setting, engine: str, processes: int) -> AbstractContextManager[Workers]:
    if engine == "ray":
        return RayTasks(setting.workload)
    return InProcess(setting.workload) if processes == 1 else Processes(setting.workload, processes)
