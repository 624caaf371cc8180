"""What the planner counts as memory: never less than it foretells, and micro-batches that fit."""

from __future__ import annotations

from math import inf

import pytest
from crowdlearn_export.footprint import Footprint, Line
from crowdlearn_export.graph import NeuronGraph
from crowdlearn_host.errors import InfeasiblePlan
from crowdlearn_host.planner.costs import Training, costs
from crowdlearn_host.planner.memory import PROCESS_BYTES, memory_budgets, peak_memory
from crowdlearn_host.planner.micro_batch import plan_with_micro_batch, sample_seconds
from crowdlearn_host.planner.wire import wire_format
from crowdlearn_host.training.config import micro_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import fleet


def programs(graph: NeuronGraph, rows: int) -> Footprint:
    """Arenas that grow with the rows of a micro-batch, in two straight parts."""
    arenas = tuple((Line(1000.0 * rows, 10.0), Line(0.0, 300.0 * rows)) for _ in graph.layers)
    return Footprint(arenas, tuple((Line(500.0, 20.0),) for _ in graph.layers))


@given(st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_limits_hold_where_the_foretold_peak_does(graph: NeuronGraph, data: st.DataObject) -> None:
    training = Training(momentum=data.draw(st.booleans()))
    priced = costs(graph, training, footprint=programs(graph, training.micro_batch))
    counts = [data.draw(st.integers(0, neurons)) for neurons in priced.neurons]
    counted = max(budget.use(counts) for budget in memory_budgets(priced.memory, priced.neurons, inf))
    foretold = peak_memory(priced.memory, counts)
    assert foretold <= counted * (1 + 1e-12)
    assert counted <= foretold * 1.2


def test_the_largest_micro_batch_that_every_device_has_memory_for_is_planned(graph: NeuronGraph) -> None:
    training, tried = Training(batch=64, micro_batch=32), list[int]()

    def programs_for(rows: int) -> Footprint:
        tried.append(rows)
        return programs(graph, rows)

    whole = peak_memory(
        costs(graph, Training(64, 8), footprint=programs(graph, 8)).memory, costs(graph, training).neurons
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
            graph, fleet(kind), Training(), lambda rows: programs(graph, rows), seconds=5, compare=False
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
        grown = two.memory[bundle].training - one.memory[bundle].training
        assert grown == pytest.approx(4 * copies * parameters + sums)
        assert two.memory[bundle].state == one.memory[bundle].state


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
