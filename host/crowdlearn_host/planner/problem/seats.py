"""The seats of a group: which budgets its pieces must meet, whoever is the dominator.

One division serves every turn. The dominator's piece goes round, so it must fit every device that holds
samples. While a device is the dominator its own follower's seat is empty, so of a class that dominates one
seat less can be relied on; between two such classes there is one seat that either takes, which must fit both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

from crowdlearn_host.errors import InfeasiblePlan

from .costs import Costs, Training, sharing_bytes
from .fleet import DeviceClass, Fleet, turning
from .memory import memory_budgets
from .problem import Budget, Problem, Seat, Wire


@dataclass(frozen=True, order=True)
class Caps:
    """Hard limits: MACs per sample, bytes of memory, bytes sent per sample."""

    macs: float = inf
    memory: float = inf
    uplink: float = inf

    def meet(self, other: Caps) -> Caps:
        """What fits both."""
        return Caps(
            min(self.macs, other.macs), min(self.memory, other.memory), min(self.uplink, other.uplink)
        )


def caps_of(kind: DeviceClass, sample_bytes: float = 0.0) -> Caps:
    """The hard limits of a class of devices; its own samples are in its memory, too."""
    memory = None if kind.max_memory is None else kind.max_memory - kind.samples * sample_bytes
    return Caps(*(inf if cap is None else float(cap) for cap in (kind.macs_limit, memory, kind.max_uplink)))


def meet(kinds: Iterable[DeviceClass], sample_bytes: float = 0.0) -> Caps:
    """What fits every one of these classes."""
    caps = Caps()
    for kind in kinds:
        caps = caps.meet(caps_of(kind, sample_bytes))
    return caps


def group_problem(costs: Costs, training: Training, fleet: Fleet, groups: int) -> Problem:
    """Divide the network for `groups` groups dealt evenly from the fleet; costs are per epoch of all of
    them. Raises InfeasiblePlan where a device's samples alone take its memory.
    """
    _check_samples(fleet, costs.sample_bytes)
    dominating = [kind for kind in fleet.classes if kind.samples]
    samples = sum(kind.samples * len(kind.names) for kind in dominating)
    passes = sum(training.micro_batches(kind.samples) * len(kind.names) for kind in dominating)
    constant, kept = shuffles(costs, training, fleet, groups)
    shared = meet(dominating, costs.sample_bytes)
    return Problem(
        costs.neurons,
        costs.links,
        costs.pinned,
        (
            Seat("dominator", 1, budgets(costs, shared), shared.uplink),
            *_followers(costs, fleet, groups),
        ),
        objective=Wire(
            2.0 * training.wire.dtype_bytes * samples, 2.0 * training.wire.overhead_bytes * passes
        ),
        sent=Wire(training.wire.dtype_bytes, training.wire.overhead_bytes / training.micro_batch),
        kept=kept,
        constant=constant + sharing_bytes(costs.parameters, training, groups),
    )


def _check_samples(fleet: Fleet, sample_bytes: float) -> None:
    for kind in fleet.classes:
        held = kind.samples * sample_bytes
        if kind.max_memory is not None and held >= kind.max_memory:
            raise InfeasiblePlan(
                f"class {kind.name}: its {kind.samples:,} samples alone take {held:,.0f} B of its max_memory "
                f"of {kind.max_memory:,} B; give it fewer samples or more memory"
            )


def budgets(costs: Costs, caps: Caps) -> tuple[Budget, ...]:
    """The caps that are linear in the neurons of one piece."""
    macs = tuple(each.macs for each in costs.each)
    limits = [Budget("compute", "MAC", macs, (0.0,) * len(macs), 0.0, caps.macs)]
    if caps.memory < inf:
        limits += memory_budgets(costs.memory, caps.memory)
    return tuple(budget for budget in limits if budget.limit < inf)


def shuffles(costs: Costs, training: Training, fleet: Fleet, groups: int) -> tuple[float, tuple[float, ...]]:
    """Bytes of an epoch's shuffles: what every division pays, and what each neuron of the dominator adds.

    `full`: all pieces move at every turn. `minimal`: the dominator's piece moves at every turn, and where
    every device dominates each follower's piece leaves its holder once an epoch and comes back.
    """
    turns, complete = turning(fleet, groups)
    if training.rotation == "full":
        return turns * costs.state, (0.0,) * len(costs.neurons)
    pinned = _pinned(costs)
    constant = turns * pinned + 2 * complete * (costs.state - pinned)
    kept = tuple(
        0.0 if b in costs.pinned else (turns - 2 * complete) * each.state for b, each in enumerate(costs.each)
    )
    return constant, kept


def may_stay(costs: Costs, training: Training, fleet: Fleet, groups: int) -> float:
    """What `shuffles` counts of a `full` rotation although it may stay in place: followers' pieces
    that no other device can afford, or that come back to their holder when the turns begin anew.
    """
    if training.rotation == "minimal":
        return 0.0
    return turning(fleet, groups)[0] * (costs.state - _pinned(costs))


def _pinned(costs: Costs) -> float:
    return sum(costs.neurons[b] * costs.each[b].state for b in costs.pinned)


def _followers(costs: Costs, fleet: Fleet, groups: int) -> list[Seat]:
    """Seats that are filled in every group at every turn, equal ones counted together."""
    counts: Counter[Caps] = Counter()

    def caps_in(kind: DeviceClass) -> Caps:
        return caps_of(kind, costs.sample_bytes)

    dominating = sorted((kind for kind in fleet.classes if kind.samples), key=caps_in, reverse=True)
    present = [kind for kind in dominating if len(kind.names) >= groups]
    for kind in fleet.classes:
        counts[caps_in(kind)] += len(kind.names) // groups - (kind in present)
    for kind, weaker in pairwise(present):
        counts[meet((kind, weaker), costs.sample_bytes)] += 1
    return [
        Seat(_name(fleet.classes, caps, costs.sample_bytes), count, budgets(costs, caps), caps.uplink)
        for caps, count in sorted(counts.items(), reverse=True)
        if count > 0
    ]


def _name(kinds: Sequence[DeviceClass], caps: Caps, sample_bytes: float) -> str:
    """The class with these caps, or the two that both meet them."""
    of = {kind.name: caps_of(kind, sample_bytes) for kind in kinds}
    exact = [name for name, own in of.items() if own == caps]
    return exact[0] if exact else " or ".join(name for name, own in of.items() if own.meet(caps) == caps)
