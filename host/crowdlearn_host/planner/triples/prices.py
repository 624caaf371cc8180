"""Bytes and needs of a part of a map, as lines over its source neurons, for programs of divisions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from crowdlearn_device.privacy.shares.replicated import HELPERS
from crowdlearn_device.state.piece_state import kinds_of
from crowdlearn_export.graph.neuron_graph import FLOAT

from crowdlearn_host.planner.problem.fleet import Fleet
from crowdlearn_host.planner.problem.memory import PROCESS_BYTES
from crowdlearn_host.planner.problem.state_bytes import state_overhead

from .needs import MESSAGES, UNITS, Needs, Network
from .sent import Held, mini_batch_bytes, pass_bytes


@dataclass(frozen=True)
class Line:
    """An amount of `each` neuron, and one of any at all."""

    each: float
    once: float

    def at(self, neurons: float) -> float:
        """Return the amount of so many neurons, not 0."""
        return self.each * neurons + self.once

    def plus(self, other: Line, times: float = 1.0) -> Line:
        """Return this line and so many of another."""
        return Line(self.each + times * other.each, self.once + times * other.once)


def line(of: Callable[[int], float], neurons: int) -> Line:
    """Return the line through a function at the fewest neurons of a triple, and at all."""
    few = min(HELPERS, neurons)
    each = (of(neurons) - of(few)) / (neurons - few) if neurons > few else of(neurons) / neurons
    return Line(each, of(neurons) - each * neurons)


@dataclass(frozen=True)
class Price:
    """The price of a part of one layer's map: bytes of an epoch, bytes of a part that moves, and what it adds
    to a helper's needs. Memory has beside its sum the highest of all layers' `products`, and of all their
    `messages`. `further` is what the dominator needs more if one triple more has a part.
    """

    neurons: int
    sent: Line
    moved: Line
    loads: dict[str, Line]
    products: Line
    messages: tuple[Line, ...]
    further: Needs


FIXED = {"compute": 0.0, "memory": float(PROCESS_BYTES), "uplink": 0.0}
"""The needs of a helper without any part."""


def prices_of(network: Network, fleet: Fleet) -> dict[int, Price]:
    """Return the price of each helper layer's map."""
    helped, training, rows = network.helped, network.training, network.rows
    passes = Counter({kind.samples: len(kind.names) for kind in fleet.classes if kind.samples})
    ranked = training.theta < 1
    copies = FLOAT * len(kinds_of(training.slots, rank=ranked))
    layers = [(layer,) for layer in range(len(helped.layers))]
    around = state_overhead(helped, layers, slots=training.slots, ranked=ranked).moved
    found = {}

    def sent(held: Held) -> float:
        of = {
            samples: pass_bytes(
                helped,
                samples,
                training.batch,
                training.slots,
                ranked=ranked,
                held=held,
                private=training.private,
            )
            for samples in passes
        }
        return sum(count * (of[n].activation + of[n].error) for n, count in passes.items())

    def uplink(held: Held) -> float:
        of = mini_batch_bytes(helped, rows, held, private=training.private)
        return of.by_helpers / HELPERS / training.batch

    keys = sent(({},))
    for layer in network.layers:
        n = helped.layers[layer].neurons

        def compute(k: int, layer: int = layer) -> float:
            return network.cost(({layer: k},)).helper_macs_per_sample(training.batch)

        def end(k: int, which: int, layer: int = layer) -> float:
            return FLOAT * network.ends(layer, k)[which]

        floats = Line(FLOAT * network.floats[layer], 0.0)
        entering, leaving = (line(lambda k, which=which: end(k, which), n) for which in (0, 1))  # type: ignore[misc]
        both = entering.plus(leaving)
        kept = (2 + len(training.slots)) + (HELPERS + 1)
        few = HELPERS if n >= 2 * HELPERS else 0
        alone = network.of_dominator(({layer: n},))
        split = network.of_dominator(({layer: n - few}, {layer: few})) if few else alone
        found[layer] = Price(
            neurons=n,
            sent=line(lambda k, layer=layer: sent(({layer: k},)) - keys, n),  # type: ignore[misc]
            moved=Line(copies * network.floats[layer], around[layer]),
            loads={
                "compute": line(compute, n),
                "memory": Line(0.0, 0.0).plus(floats, kept).plus(both, 2 * rows),
                "uplink": line(lambda k, layer=layer: uplink(({layer: k},)), n),  # type: ignore[misc]
            },
            products=both.plus(both, rows - 1).plus(floats),
            messages=tuple(
                Line(0.0, 0.0).plus(of, MESSAGES * times)
                for of, times in ((entering, rows), (leaving, rows), (floats, 1))
            ),
            further=Needs(*(getattr(split, name) - getattr(alone, name) for name in UNITS)),
        )
    return found
