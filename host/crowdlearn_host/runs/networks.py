"""Diagnosis, plan and programs of a network, without a terminal."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import torch
from crowdlearn_device.optimizers.base import Optimizer
from crowdlearn_device.platform.files import write_atomically
from crowdlearn_export.doctor.doctor import Diagnosis, diagnose
from crowdlearn_export.doctor.trial import Trial, make_trial
from crowdlearn_export.graph.memory_curves import Footprint
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.losses.registry import make_loss
from crowdlearn_export.program.footprint import footprint
from crowdlearn_export.tracing.trace import neuron_graph
from torch import nn

from crowdlearn_host.common.home import cache_home
from crowdlearn_host.models.named import build_model
from crowdlearn_host.models.names import check_name, stated_shape
from crowdlearn_host.planner.initial_weights import initial_weights
from crowdlearn_host.planner.micro_batch import plan_with_micro_batch, sample_seconds
from crowdlearn_host.planner.plan import Plan
from crowdlearn_host.planner.problem.costs import Training
from crowdlearn_host.planner.problem.fleet import Fleet
from crowdlearn_host.planner.problem.rotations import DEFAULT_ROTATION
from crowdlearn_host.planner.problem.state_bytes import value_bytes
from crowdlearn_host.planner.problem.wire_format import wire_format
from crowdlearn_host.runs.data import load_split, sample_shape
from crowdlearn_host.runs.preflight import check_start
from crowdlearn_host.runs.prepare import check
from crowdlearn_host.runs.prepare import export as export_programs
from crowdlearn_host.spec.run_spec import RunSpec, micro_rows


def diagnosed(model: nn.Module | str, shape: Sequence[int] | None, batch: int, loss: str) -> Diagnosis:
    """Diagnose a network, or that of a name, on random float32 samples [batch, *shape]."""
    network, inputs = _network_and_samples(model, shape, batch)
    return diagnose(network, inputs, make_loss(loss))


def trial_of(model: nn.Module | str, shape: Sequence[int] | None, batch: int, loss: str) -> Trial:
    """Compile a training step on random float32 samples [batch, *shape], to be tried on a phone."""
    network, inputs = _network_and_samples(model, shape, batch)
    return make_trial(network, inputs, make_loss(loss))


def _network_and_samples(
    model: nn.Module | str, shape: Sequence[int] | None, batch: int
) -> tuple[nn.Module, torch.Tensor]:
    stated = "" if shape is None else "x".join(map(str, shape))
    if isinstance(model, str):
        check_name(model)
        sample = stated_shape(model, stated)
        network = build_model(model, 0)
    else:
        sample = stated_shape(type(model).__name__, stated)
        network = model
    generator = torch.Generator().manual_seed(0)
    return network, torch.randn(batch, *sample, generator=generator)


def planned(spec: RunSpec, fleet: Fleet, group_size: int | None, seconds: float) -> Plan:
    """Plan the network of `spec` for a fleet, as `spec` trains it."""
    check_name(spec.model)
    test = load_split(spec.data, "test") if spec.data else None
    network = build_model(spec.model, spec.training.seed)
    graph = neuron_graph(network, torch.zeros(2, *sample_shape(spec, test)), spec.model)
    training, numbers = spec.training, wire_format(spec.training.wire)
    usual = micro_rows(training.batch, sample_seconds(graph, fleet, numbers))
    asked = Training(
        batch=training.batch,
        micro_batch=min(training.micro_batch or usual, training.batch),
        in_flight=training.in_flight,
        momentum=training.momentum > 0,
        optimizer=training.optimizer,
        rotation=spec.group.rotation or DEFAULT_ROTATION,
        theta=spec.sharing.theta,
        wire=numbers,
        staleness=training.staleness,
        snapshot_every=training.snapshot_every,
        value_bytes=value_bytes(spec.sharing.values, initial_weights(graph, network)),
    )
    found = plan_with_micro_batch(
        graph,
        fleet,
        asked,
        _footprints(graph, fleet, training.rule),
        group_size=group_size,
        seconds=seconds,
        compare=False,
    )
    return found.plan


def _footprints(
    graph: NeuronGraph, fleet: Fleet, optimizer: Optimizer
) -> Callable[[int, Collection[int]], Footprint | None]:
    """Return what gives footprints of a graph's layers, only for a fleet that caps memory."""
    capped = any(kind.max_memory for kind in fleet.classes)

    def of(rows: int, regions: Collection[int]) -> Footprint | None:
        folder = cache_home() / "footprints"
        return footprint(graph, rows, folder, regions=regions, optimizer=optimizer) if capped else None

    return of


def exported(spec: RunSpec, folder: Path) -> list[Path]:
    """Export the programs that devices need for `spec` into `folder`; return the paths of the .pte files."""
    check_start(spec)
    prepared = export_programs(check(spec), lambda event, fields: None)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for program in prepared.exported:
        for name, content in program.files().items():
            write_atomically(folder / name, content)
            if name.endswith(".pte"):
                paths.append(folder / name)
    return paths
