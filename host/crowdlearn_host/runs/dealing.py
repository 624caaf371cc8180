"""A fleet dealt out: devices to groups, pieces to devices that can afford them, samples to devices."""

from __future__ import annotations

from crowdlearn_host.errors import FleetError
from crowdlearn_host.planner.plan import Plan
from crowdlearn_host.spec.run_spec import RunSpec

from .data import shares_of


def group_sizes(config: RunSpec, plan: Plan, devices: int) -> list[int]:
    """Return devices in each group, of `devices` in all.

    Raises FleetError if there are too few, or not as many as were planned for.
    """
    if plan.groups:
        if devices != len(plan.seats):
            raise FleetError(
                f"the plan is for {len(plan.seats)} devices, the fleet has {devices}; plan again for these, "
                "or name the plan's in fleet.phones"
            )
        return [len(group.devices) for group in plan.groups]
    count = config.group.groups
    size = devices // count
    if size < len(plan.pieces):
        raise FleetError(
            f"{count} groups of {len(plan.pieces)} pieces need {count * len(plan.pieces)} devices; "
            f"{devices} given"
        )
    return [size] * (count - 1) + [devices - size * (count - 1)]


def takers_of(plan: Plan, cut: Plan) -> tuple[frozenset[int], ...]:
    """Return the planned devices that can afford each piece of a cut; () if the plan has none."""
    kinds, seats = plan.class_of, plan.seats
    if not kinds.keys() >= seats.keys() or not any(piece.classes for piece in cut.pieces):
        return ()
    return tuple(
        frozenset(number for name, number in seats.items() if kinds[name].name in piece.classes)
        for piece in cut.pieces
    )


def samples_left(plan: Plan, samples: int, devices: int) -> int:
    """Return how many of so many samples no device is dealt."""
    return samples - sum(samples_of_devices(plan, samples, devices)) if devices else 0


def samples_of_devices(plan: Plan, samples: int, devices: int) -> list[int]:
    """Return how many of so many samples each device is dealt, in the order of the fleet."""
    kinds = [(name, plan.class_of.get(name)) for name in plan.seats][:devices]
    if not kinds or any(kind is None for _, kind in kinds):
        return shares_of(samples, [1] * devices)
    planned = [kind.samples for _, kind in kinds if kind is not None]
    return planned if sum(planned) <= samples else shares_of(samples, planned)
