"""What the planner counts as memory: never less than it foretells, and micro-batches that fit."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import partial
from math import ceil, inf

import pytest
import torch
from crowdlearn_export.graph.memory_curves import Footprint, Line
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.stages.piece_stages import loss_region
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_host.errors import InfeasiblePlan, PlanError
from crowdlearn_host.models.named import mlp
from crowdlearn_host.planner.micro_batch import plan_with_micro_batch, sample_seconds
from crowdlearn_host.planner.problem.costs import Training, costs
from crowdlearn_host.planner.problem.memory import PROCESS_BYTES, memory_budgets, peak_memory
from crowdlearn_host.planner.problem.wire_format import wire_format
from crowdlearn_host.spec.run_spec import micro_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import fleet


def programs(graph: NeuronGraph, rows: int, regions: Collection[int] = ()) -> Footprint:
    """Arenas that grow with the rows of a micro-batch, in two straight parts; a region's with its layers."""
    arenas = tuple((Line(1000.0 * rows, 10.0), Line(0.0, 300.0 * rows)) for _ in graph.layers)
    known = {first: 1e4 * rows * (len(graph.layers) - first) for first in regions}
    return Footprint(arenas, tuple((Line(500.0, 20.0),) for _ in graph.layers), known)


@given(st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_limits_hold_where_the_foretold_peak_does(graph: NeuronGraph, data: st.DataObject) -> None:
    training = Training(momentum=data.draw(st.booleans()))
    regions = data.draw(st.sets(st.sampled_from(range(len(graph.layers)))))
    priced = costs(graph, training, footprint=programs(graph, training.micro_batch, regions))
    counts = [data.draw(st.integers(0, n) | st.just(n)) for n in priced.neurons]
    counted = max(budget.use(counts) for budget in memory_budgets(priced.memory, inf))
    foretold = peak_memory(priced.memory, counts)
    assert foretold <= counted * (1 + 1e-12)
    assert counted <= foretold * 1.2


def test_a_piece_that_misses_a_neuron_of_a_tail_does_not_count_as_one_program(graph: NeuronGraph) -> None:
    """And one that owns all of it keeps no sums of it, but holds its arena."""
    training = Training()
    known, none = (
        costs(graph, training, footprint=programs(graph, training.micro_batch, regions)).memory
        for regions in ((2,), ())
    )
    whole = [layer.neurons if layer.index in (0, 2, 3, 4) else 0 for layer in graph.layers]
    almost = [whole[0], 0, whole[2], whole[3] - 1, whole[4]]
    assert peak_memory(known, almost) == peak_memory(none, almost)
    arena = 1e4 * training.micro_batch * 3
    assert peak_memory(known, whole) > PROCESS_BYTES + arena > peak_memory(none, whole)
    limits = memory_budgets(known, inf)
    assert max(budget.use(whole) for budget in limits) == pytest.approx(peak_memory(known, whole))
    assert max(budget.use(almost) for budget in limits) == max(
        budget.use(almost) for budget in memory_budgets(none, inf)
    )


def test_a_region_counts_where_a_plan_would_have_it() -> None:
    """A dominator with room for the last layers one by one, but not as one program, gets others."""
    graph = neuron_graph(mlp((40, 4, 12, 24, 20)), torch.zeros(1, 40), "narrow first")
    training, asked = Training(batch=8, micro_batch=8), list[set[int]]()

    def programs_for(rows: int, regions: Collection[int]) -> Footprint:
        asked.append(set(regions))
        return programs(graph, rows, regions)

    def room(*counts: int) -> int:
        memory = costs(graph, training, footprint=programs(graph, 8)).memory
        return ceil(max(budget.use(counts) for budget in memory_budgets(memory, inf)))

    kinds = [
        {"name": "data", "count": 1, "samples": 10, "max_memory": room(40, 0, 12, 24, 20) + 10 * 160},
        {"name": "other", "count": 1, "max_memory": room(0, 4, 6, 0, 0)},
    ]
    planned = plan_with_micro_batch(graph, fleet(*kinds), training, programs_for, seconds=5, compare=False)
    assert asked == [{0}, {0, 2}]
    assert planned.plan.micro_batch == 8
    first, *_ = planned.plan.pieces
    known = costs(graph, training, footprint=programs(graph, 8, asked[-1])).memory
    assert first.memory_bytes == peak_memory(known, first.owned) <= room(40, 0, 12, 24, 20)
    assert loss_region(graph, first.owned) in (*asked[-1], 4)


def test_the_whole_network_counts_as_one_program_where_layers_one_by_one_would_not_fit(
    graph: NeuronGraph,
) -> None:
    training = Training(batch=32, micro_batch=2)
    small = replace(programs(graph, 2), regions={0: 1.0})
    priced = costs(graph, training, footprint=small)
    exact = peak_memory(priced.memory, priced.neurons)
    assert exact < peak_memory(replace(priced.memory, tails=()), priced.neurons) - 100
    kind = {"name": "phone", "count": 1, "samples": 10, "max_memory": round(exact) + 1 + 10 * 160}
    planned = plan_with_micro_batch(
        graph, fleet(kind), training, lambda rows, regions: small, seconds=5, compare=False
    )
    assert [piece.memory_bytes for piece in planned.plan.pieces] == [exact]
    assert all(budget.share <= 1 for budget in planned.plan.pieces[0].budgets)
    assert planned.plan.certificate is not None
    assert planned.plan.certificate.optimal


def test_a_training_step_in_one_call_holds_no_gradients(graph: NeuronGraph) -> None:
    """Which are there where sharing ranks weights by them, and where mini-batches are cut or overlap."""
    known = replace(programs(graph, 8, [0]), step=5e6)
    of = [
        (Training(batch=8, micro_batch=8, theta=1.0), True),
        (Training(batch=9, micro_batch=8, theta=1.0), False),
        (Training(batch=8, micro_batch=8, staleness=1, theta=1.0), False),
        (Training(batch=8, micro_batch=8, theta=0.5), False),
        (Training(batch=8, micro_batch=8, theta=1.0), True),
    ]
    for training, steps in of:
        priced = costs(graph, training, known)
        bundles = zip(priced.memory.bundles, priced.neurons, strict=True)
        state, gradients = (
            sum(n * x for n, x in zip(priced.neurons, each, strict=True))
            for each in zip(*((bundle.state, bundle.gradients) for bundle, _ in bundles), strict=True)
        )
        samples = 4 * 8 * graph.layers[0].neurons * graph.layers[0].sum_floats
        program = 5e6 if steps else known.regions[0] + gradients
        assert peak_memory(priced.memory, priced.neurons) == pytest.approx(
            PROCESS_BYTES + state + program + samples
        )


def test_the_largest_micro_batch_that_every_device_has_memory_for_is_planned(graph: NeuronGraph) -> None:
    training, tried = Training(batch=64, micro_batch=32), list[int]()

    def programs_for(rows: int, regions: Collection[int]) -> Footprint:
        tried.append(rows)
        return programs(graph, rows, regions)

    whole = peak_memory(
        costs(graph, Training(64, 8), footprint=programs(graph, 8, [0])).memory,
        costs(graph, training).neurons,
    )
    kind = {"name": "phone", "count": 1, "samples": 10, "max_memory": round(whole * 1.001 + 10 * 160)}
    planned = plan_with_micro_batch(graph, fleet(kind), training, programs_for, seconds=5, compare=False)
    assert tried == [32, 16, 8]
    assert planned.plan.micro_batch == 8
    assert planned.plan.pieces[0].memory_bytes <= whole * 1.001


def test_no_micro_batch_is_small_enough_for_a_device_without_room_for_the_process(graph: NeuronGraph) -> None:
    kind = {"name": "phone", "count": 2, "samples": 10, "max_memory": int(PROCESS_BYTES)}
    with pytest.raises(InfeasiblePlan, match="memory"):
        plan_with_micro_batch(
            graph, fleet(kind), Training(), partial(programs, graph), seconds=5, compare=False
        )


def test_overlapping_mini_batches_count_a_second_version_of_the_weights(graph: NeuronGraph) -> None:
    """A second version, the gradients of two mini-batches but for the input layer's, and all their sums."""
    one, two = (costs(graph, Training(batch=8, micro_batch=8, staleness=s)) for s in (0, 1))
    for bundle, layers in enumerate(one.layers):
        parameters = (
            sum(sum(e.parameters for e in graph.outgoing(i)) + graph.layers[i].parameters for i in layers)
            / one.neurons[bundle]
        )
        last = len(graph.layers) - 1 in layers
        sums = 0 if last else sum(4 * 8 * graph.layers[i].sum_floats for i in layers)
        copies = 1 if 0 in layers else 2
        grown = two.memory.bundles[bundle].training - one.memory.bundles[bundle].training
        assert grown == pytest.approx(4 * copies * parameters + sums)
        assert two.memory.bundles[bundle].state == one.memory.bundles[bundle].state


def test_micro_batches_are_smaller_where_a_measured_link_is_slow(graph: NeuronGraph) -> None:
    floats = sum(
        graph.layers[e.target].neurons * graph.layers[e.target].sum_floats for e in graph.outgoing(0)
    )
    kind = {"name": "phone", "count": 2, "samples": 10, "macs_per_second": 1e9}
    wire = wire_format("float32")

    def rows(link_seconds: float, batch: int = 128) -> int:
        """With a link that needs so long for 16 samples."""
        rate = 16 * 4 * floats / link_seconds
        return micro_rows(
            batch, sample_seconds(graph, fleet({**kind, "uplink_bytes_per_second": rate}), wire)
        )

    assert sample_seconds(graph, fleet(kind), wire) == 0.0
    assert [rows(seconds) for seconds in (0.001, 0.008, 0.1)] == [16, 10, 8]
    assert rows(0.1, batch=512) == 16
    assert micro_rows(128) == 16
    assert rows(0.1, batch=4) == 4


@pytest.mark.parametrize(
    ("training", "samples", "match"),
    [
        (Training(micro_batch=1), 5, "micro-batches of 2"),
        (Training(batch=1), 5, "micro-batches of 2"),
        (Training(), 1, "phone-1 holds one sample"),
    ],
)
def test_no_plan_gives_batch_norm_a_single_sample(
    graph: NeuronGraph, training: Training, samples: int, match: str
) -> None:
    devices = fleet({"name": "phone", "count": 2, "samples": samples})
    with pytest.raises(PlanError, match=match):
        plan_with_micro_batch(graph, devices, training, lambda rows, first: programs(graph, rows, first))
