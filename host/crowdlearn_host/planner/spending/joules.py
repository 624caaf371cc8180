"""Energy that devices spend on an epoch of a plan, beyond what they spend idle: computing, and the radio."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

from crowdlearn_host.planner.plan import DeviceJoules, GroupPlan
from crowdlearn_host.planner.problem.costs import Costs, Training, sharing_bytes
from crowdlearn_host.planner.problem.fleet import Fleet
from crowdlearn_host.planner.problem.problem import Counts, Problem, downlink, uplink
from crowdlearn_host.planner.spending.epoch_bytes import moved_bytes


def epoch_joules(
    costs: Costs,
    training: Training,
    fleet: Fleet,
    problem: Problem,
    counts: Sequence[Counts],
    groups: Sequence[GroupPlan],
) -> tuple[DeviceJoules, ...]:
    """Return the energy that each device spends whose class tells joules per MAC and byte; modelled, from
    these constants.
    """
    kinds = {name: kind for kind in fleet.classes for name in kind.names}
    macs: defaultdict[str, float] = defaultdict(float)
    sent: defaultdict[str, float] = defaultdict(float)
    received: defaultdict[str, float] = defaultdict(float)
    each = [sum(n * cost.macs for n, cost in zip(piece, costs.each, strict=True)) for piece in counts]
    up, down = ([way(problem, counts, k) for k in range(len(counts))] for way in (uplink, downlink))
    moved = [moved_bytes(costs, piece) for piece in counts]
    stored = [_stored_bytes(costs, piece) for piece in counts]
    shared = _shared_bytes(costs, training, counts, len(groups))
    for group in groups:
        heirs = len(group.devices) - len(counts)
        for turn in group.turns:
            samples = kinds[turn.devices[0]].samples
            for k, device in enumerate(turn.devices):
                macs[device] += each[k] * samples
                sent[device] += up[k] * samples
                received[device] += down[k] * samples
                if heirs:
                    keys = costs.overhead.heir * heirs
                    sent[device] += training.snapshots(samples) * (stored[k] + keys)
        for before, after in pairwise((*group.turns, group.turns[0])):
            for k, (provider, taker) in enumerate(zip(before.devices, after.devices, strict=True)):
                if provider != taker:
                    sent[provider] += moved[k]
                    received[taker] += moved[k]
        for k, (last, first) in enumerate(zip(group.turns[-1].devices, group.turns[0].devices, strict=True)):
            sent[last] += shared[k]
            received[first] += shared[k] if len(groups) > 1 else 0.0
    return tuple(
        DeviceJoules(name, power[0] * macs[name], power[1] * sent[name] + power[2] * received[name])
        for group in groups
        for name in group.devices
        if (power := kinds[name].power) is not None
    )


def _stored_bytes(costs: Costs, piece: Counts) -> float:
    state = sum(n * cost.state for n, cost in zip(piece, costs.each, strict=True))
    within = sum(extra for extra, n in zip(costs.overhead.stored, piece, strict=True) if n)
    return state + within + costs.overhead.snapshot


def _shared_bytes(costs: Costs, training: Training, counts: Sequence[Counts], groups: int) -> list[float]:
    """Return bytes of each piece's upload, its weights being the share of all that its state is."""
    whole = sharing_bytes(costs.shared_weights, training, groups) / (groups * (1 + (groups > 1)))
    state = [sum(n * cost.state for n, cost in zip(piece, costs.each, strict=True)) for piece in counts]
    return [whole * part / sum(state) + costs.overhead.update for part in state]
