"""The programs that are measured: a network whole, the pieces of its plans, and PyTorch's own step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.program.slice_program import export_slice
from crowdlearn_export.tracing.trace import neuron_graph
from torch import nn

from crowdlearn_host.devices.probe import macs_a_sample
from crowdlearn_host.models.named import build_model
from crowdlearn_host.models.names import check_name, stated_shape
from crowdlearn_host.planner.balanced import balanced
from crowdlearn_host.planner.plan import Plan
from crowdlearn_host.planner.problem.costs import Training, costs
from crowdlearn_host.planner.problem.problem import Problem, Seat, Wire, downlink, uplink
from crowdlearn_host.planner.problem.wire_format import wire_format

from .subject import Program

WIRES = ("int8", "float32")


def make_programs(
    model: str, shape: str, pieces: Sequence[int], batch: int, cache: Path | None = None
) -> list[Program]:
    """Export the whole network, and dominator and a follower of balanced plans of so many `pieces`; PyTorch's
    eager step comes last. Raises ConfigError if there is no such model, PlanError if it has too few neurons.
    """
    check_name(model)
    network = build_model(model, 0)
    sample = stated_shape(model, shape)
    graph = neuron_graph(network, torch.zeros(2, *sample), model)
    programs = []
    for number in sorted({1, *pieces}):
        plan = balanced(graph, number)
        for k, piece in enumerate(plan.pieces[:2]):  # followers are alike
            exported = export_slice(graph, piece.owned, Sgd(momentum=0.9), max_batch=batch, cache=cache)
            role = "whole network" if number == 1 else f"{'follower' if k else 'dominator'} of {number}"
            traffic = {wire: _bytes(graph, plan, k, batch, wire) for wire in WIRES} if number > 1 else {}
            programs.append(
                Program(
                    role,
                    macs_a_sample(graph, piece.owned),
                    batch,
                    exported.files(),
                    exported.manifest.sha256,
                    k,
                    number,
                    traffic,
                )
            )
    eager = _eager(network, torch.zeros(batch, *sample))
    return [*programs, Program("PyTorch eager, whole network", programs[0].macs, batch, {}, eager=eager)]


def _eager(network: nn.Module, inputs: torch.Tensor) -> Callable[[], None]:
    """Return a training step of PyTorch, without a compiler."""
    sgd = torch.optim.SGD(network.parameters(), 0.1, 0.9)
    labels = torch.zeros(len(inputs), dtype=torch.int64)

    def step() -> None:
        sgd.zero_grad()
        nn.functional.cross_entropy(network(inputs), labels).backward()  # type: ignore[no-untyped-call]
        sgd.step()

    return step


def _bytes(graph: NeuronGraph, plan: Plan, piece: int, batch: int, wire: str) -> tuple[float, float]:
    """Return bytes that a piece sends and receives for a sample."""
    training = Training(batch, batch, wire=wire_format(wire))
    priced = costs(graph, training)
    sent = Wire(training.wire.dtype_bytes, training.wire.overhead_bytes / training.micro_batch)
    problem = Problem(priced.neurons, priced.links, priced.pinned, (Seat("any", 1),), sent=sent)
    counts = [tuple(each.owned[layers[0]] for layers in priced.layers) for each in plan.pieces]
    return uplink(problem, counts, piece), downlink(problem, counts, piece)
