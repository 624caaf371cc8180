"""What a dominator and a triple's helpers need, and whether a class of devices can afford it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import ceil, inf, prod

from crowdlearn_device.privacy.dp.draws import most_drawn
from crowdlearn_device.privacy.shares.replicated import HELPERS
from crowdlearn_export.graph.neuron_graph import FLOAT, NeuronGraph
from crowdlearn_export.graph.shape import array_specs

from crowdlearn_host.planner.helpers import helper_layers
from crowdlearn_host.planner.plan import BudgetUse
from crowdlearn_host.planner.problem.costs import Training
from crowdlearn_host.planner.problem.fleet import DeviceClass, Fleet
from crowdlearn_host.planner.problem.memory import PROCESS_BYTES
from crowdlearn_host.planner.problem.places import caps_of
from crowdlearn_host.planner.shares import SharesCost, shares_cost

from .sent import Held, mini_batch_bytes

MESSAGES = 3
"""Copies of an array on its way: encoded, sealed, framed."""
UNITS = {"compute": "MAC", "memory": "B", "uplink": "B"}


@dataclass(frozen=True)
class Needs:
    """MACs and bytes sent for each sample of a whole mini-batch, and bytes of memory, of one part."""

    compute: float
    memory: float
    uplink: float


@dataclass(frozen=True)
class Network:
    """A network on shares: its graph, the same with helper layers, and how it is trained."""

    graph: NeuronGraph
    helped: NeuronGraph
    training: Training
    first_layer: bool

    @property
    def rows(self) -> int:
        """Return samples that a mini-batch has room for."""
        return most_drawn(self.training.batch) if self.training.private else self.training.batch

    @property
    def layers(self) -> tuple[int, ...]:
        """Return the helper layers."""
        return helper_layers(self.helped)

    @property
    def whole(self) -> Held:
        """Return what one triple holds if it is the only one."""
        return ({layer: self.helped.layers[layer].neurons for layer in self.layers},)

    def cost(self, held: Held) -> SharesCost:
        """Return what training costs with these triples, or some of them."""
        named = {
            self.helped.outgoing(layer)[0].module: [of.get(layer, 0) for of in held] for layer in self.layers
        }
        return shares_cost(
            self.graph, first_layer=self.first_layer, private=self.training.private, held=named
        )

    @cached_property
    def floats(self) -> Mapping[int, int]:
        """Return floats of weights that a neuron of each layer keeps."""
        found = dict.fromkeys(range(len(self.helped.layers)), 0)
        for spec in array_specs(self.helped):
            found[spec.layer] += prod(spec.shape)
        return found

    def ends(self, layer: int, neurons: int) -> tuple[int, int]:
        """Return floats of a sample that enter and leave the map of so many neurons of a helper layer."""
        edge = self.helped.outgoing(layer)[0]
        source, target = self.helped.layers[layer], self.helped.layers[edge.target]
        targets = neurons if edge.kind == "depthwise" else target.neurons
        return neurons * source.output_floats, targets * target.sum_floats

    def of_dominator(self, held: Held) -> Needs:
        """Return what the dominator needs beside these triples."""
        graph, private, copies = self.graph, self.training.private, 2 + len(self.training.slots)
        local = sum(
            (3 if layer.index in graph.backward else 1) * len(layer.ops) * layer.neurons * layer.sum_floats
            for layer in graph.layers
        )
        own = [layer.index for layer in self.helped.layers if layer.index not in self.layers]
        state = sum(self.floats[layer] * self.helped.layers[layer].neurons for layer in own)
        kept = 2 * sum(layer.neurons * (layer.sum_floats + layer.output_floats) for layer in graph.layers)
        ends = [self.ends(layer, neurons) for of in held for layer, neurons in of.items()]
        shared, widest = (4 if private else 3) * sum(map(sum, ends)), max(map(max, ends))
        memory = PROCESS_BYTES + FLOAT * copies * state  # weights, what the optimizer keeps, gradients
        memory += FLOAT * self.rows * (kept + shared + (MESSAGES + HELPERS) * widest)
        if private:  # each map's noise, and three parts of its gradient
            maps = sum(self.floats[layer] * neurons for of in held for layer, neurons in of.items())
            memory += FLOAT * (1 + HELPERS) * maps
        sent = mini_batch_bytes(self.helped, self.rows, held, private=private).by_dominator
        return Needs(self.cost(held).dominator_macs + local, memory, sent / self.training.batch)

    def of_helper(self, of: Mapping[int, int]) -> Needs:
        """Return what each helper of a triple needs."""
        training, rows = self.training, self.rows
        floats = {layer: neurons * self.floats[layer] for layer, neurons in of.items()}
        ends = {layer: self.ends(layer, neurons) for layer, neurons in of.items()}
        kept = (2 + len(training.slots)) + (HELPERS + 1)  # its state with its own third, opened gradients
        pairs = 2 * rows * sum(map(sum, ends.values()))
        # Factors and product as doubles, and what they are cut from.
        products = max(2 * 2 * (rows * sum(ends[layer]) + floats[layer]) for layer in of)
        messages = MESSAGES * max(max(rows * max(ends[layer]), floats[layer]) for layer in of)
        memory = PROCESS_BYTES + FLOAT * (kept * sum(floats.values()) + pairs + products + messages)
        sent = mini_batch_bytes(self.helped, rows, (of,), private=training.private).by_helpers / HELPERS
        macs = self.cost((of,)).helper_macs_per_sample(training.batch)
        return Needs(macs, memory, sent / training.batch)


def limits(kind: DeviceClass) -> dict[str, float]:
    """Return the caps of a class of devices."""
    caps = caps_of(kind)
    return {"compute": caps.macs, "memory": caps.memory, "uplink": caps.uplink}


def over(kind: DeviceClass, needs: Needs) -> str:
    """Return what a class of devices lacks for a part, in words; "" if nothing."""
    return " and ".join(
        stretched(kind, name, getattr(needs, name))
        for name, limit in limits(kind).items()
        if getattr(needs, name) > limit * (1 + 1e-9)
    )


def stretched(kind: DeviceClass, name: str, needed: float) -> str:
    """Return in words how far a cap of a class would have to grow."""
    limit = limits(kind)[name]
    return (
        f"{name} {ceil(needed):,} {UNITS[name]} on {kind.name} (limit {limit:,.0f}, "
        f"{100 * (needed / limit - 1):+.1f} %)"
    )


def uses(fleet: Fleet, needs: Needs, *, dominator: bool) -> tuple[BudgetUse, ...]:
    """Return the tightest cap of each kind among the classes that take the part."""
    takers = [kind for kind in fleet.classes if (kind.samples or not dominator) and not over(kind, needs)]
    least = {name: min((limits(kind)[name] for kind in takers), default=inf) for name in UNITS}
    return tuple(
        BudgetUse(name, UNITS[name], getattr(needs, name), limit)
        for name, limit in least.items()
        if limit < inf
    )
