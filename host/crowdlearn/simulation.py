"""Simulated crowds in parts, for studies of training; `crowdlearn.simulate` does all of it for a run.

from crowdlearn import simulation

config = simulation.SimulationConfig.parse({"model": "paper-mlp", "devices": 60}, "my study")
devices = simulation.partition(train.labels, config.devices, config.partition, config.seed)
setting = simulation.prepare(config, train, test, devices)
with simulation.InProcess(setting.workload) as workers:
    state = simulation.run(setting, workers, None, lambda state: print(state.records[-1]))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._lazy import lazily

if TYPE_CHECKING:
    from crowdlearn_host.methods.index_space import flat_layout, piece_of_weight
    from crowdlearn_host.methods.slicenet.combining import COMBINATIONS
    from crowdlearn_host.runs.data import load_split
    from crowdlearn_host.simulation.engine import global_weights, run
    from crowdlearn_host.simulation.learners.group import GroupResult
    from crowdlearn_host.simulation.modelled_traffic import shuffle_bytes, sums_per_sample
    from crowdlearn_host.simulation.partition import partition
    from crowdlearn_host.simulation.setting import Setting, prepare
    from crowdlearn_host.simulation.state import RoundRecord, RunState
    from crowdlearn_host.simulation.tasks import EvaluationTask, GroupTask, Task
    from crowdlearn_host.simulation.workers import InProcess, Processes, one_thread
    from crowdlearn_host.spec.simulation import SimulationConfig

__all__ = [
    "COMBINATIONS",
    "EvaluationTask",
    "GroupResult",
    "GroupTask",
    "InProcess",
    "Processes",
    "RoundRecord",
    "RunState",
    "Setting",
    "SimulationConfig",
    "Task",
    "flat_layout",
    "global_weights",
    "load_split",
    "one_thread",
    "partition",
    "piece_of_weight",
    "prepare",
    "run",
    "shuffle_bytes",
    "sums_per_sample",
]

__getattr__, __dir__ = lazily(__name__, __file__)
