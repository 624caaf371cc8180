"""The check that devices can afford a training configuration, as far as it is known from their plan."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from crowdlearn_export.graph.memory_curves import USUAL, MemoryUse

from crowdlearn_host.errors import ConfigError
from crowdlearn_host.planner.plan import Plan
from crowdlearn_host.planner.problem.costs import Training, WireFormat
from crowdlearn_host.planner.problem.wire_format import DTYPES, wire_format
from crowdlearn_host.spec.run_spec import RunSpec, TrainingSection

USES: tuple[MemoryUse, ...] = get_args(MemoryUse)


def memory_of(training: TrainingSection, plan: Plan) -> MemoryUse:
    """Return how the programs of a run use memory: as it says, or as its plan was reckoned, or as usual."""
    return training.memory or (plan.training.memory if plan.training is not None else USUAL)


def check_affordable(plan: Plan, config: RunSpec, micro_batch: int) -> None:
    """Raise ConfigError if training in micro-batches of `micro_batch` samples needs more of what the fleet
    caps than the plan was reckoned with; it names the option to plan with.
    """
    training, theta = config.training, config.sharing.theta
    if plan.micro_batch and training.staleness > plan.staleness:
        raise _more("training.staleness", 1, "memory", 0, "plan again with --staleness 1")
    _check_leak(plan, config)
    if plan.training is None:
        return
    capped = {budget.name for piece in plan.pieces for budget in piece.budgets}
    planned = replace(plan.training, micro_batch=plan.micro_batch, staleness=plan.staleness)
    if "memory" in capped:
        if len(training.rule.slots) > len(planned.slots):
            if training.optimizer == planned.optimizer:  # with more slots: by its momentum
                raise _more("training.momentum", training.momentum, "memory", 0, "plan again with --momentum")
            advice = f"plan again with --optimizer {training.optimizer}"
            raise _more("training.optimizer", training.optimizer, "memory", planned.optimizer, advice)
        if len(plan.groups) > 1 and theta < 1 and not planned.theta < 1:
            raise _more("sharing.theta", theta, "memory", 1, f"plan again with --theta {theta}")
        if training.augment and not planned.fed_bytes:
            names = ", ".join(each.kind for each in training.augment)
            raise _more("training.augment", names, "memory", "none", "plan again with this run's file")
        _check_samples(planned, config, micro_batch)
        if USES.index(memory_of(training, plan)) > USES.index(planned.memory):
            raise _more(
                "training.memory", training.memory, "memory", planned.memory, "leave it out or plan again"
            )
        if training.frozen == "float32" != planned.frozen:
            advice = f"set it to {planned.frozen} or plan again"
            raise _more("training.frozen", training.frozen, "memory", planned.frozen, advice)
    if "uplink" in capped and config.privacy.sums == "masked" and planned.sums != "masked":
        raise _more("privacy.sums", "masked", "uplink", planned.sums, "plan again with --sums masked")
    if "uplink" in capped and wire_format(training.wire).dtype_bytes > planned.wire.dtype_bytes:
        shorter = f"{planned.wire.dtype_bytes} bytes a number"
        raise _more(
            "training.wire", training.wire, "uplink", shorter, f"plan again with --wire {training.wire}"
        )


def unlike_planned(plan: Plan, config: RunSpec, micro_batch: int) -> str:
    """Return a note with the settings of a run that differ from its plan's, and so change its bytes; "" if
    there are none.
    """
    planned, training = plan.training, config.training
    if planned is None:
        return ""
    several = len(plan.groups) > 1
    pairs: list[tuple[str, object, object]] = [
        ("training.optimizer", training.optimizer, planned.optimizer),
        (
            "training.momentum",
            "some" if training.momentum else "none",
            "some" if planned.momentum else "none",
        ),
        ("training.snapshot_every", training.snapshot_every, planned.snapshot_every),
        ("group.rotation", config.group.rotation or plan.rotation, plan.rotation),
        ("sharing.theta", config.sharing.theta if several else 1, planned.theta if several else 1),
    ]
    if len(plan.pieces) > 1:
        pairs += [
            ("training.batch", training.batch, planned.batch),
            ("training.micro_batch", micro_batch, plan.micro_batch),
            ("privacy.sums", config.privacy.sums, planned.sums),
        ]
        if config.privacy.sums == planned.sums == "plain":
            pairs.append(("training.wire", training.wire, _named(planned.wire)))
    differing = [f"{name} {here} for {there}" for name, here, there in pairs if here != there]
    if not differing:
        return ""
    return (
        f"the plan was reckoned with other settings: this run has {', '.join(differing)}. Its bytes will not "
        "be the planned ones; plan again with this run's file to know them"
    )


def _named(wire: WireFormat) -> str:
    """Return the name of the format whose numbers have as many bytes."""
    return next((name for name, (_, size) in DTYPES.items() if size == wire.dtype_bytes), "another format")


def _check_leak(plan: Plan, config: RunSpec) -> None:
    """Raise ConfigError if the plan lets a follower see more than the run does, or was measured for sums in
    another form.
    """
    privacy = config.privacy
    leaks = plan.training.leaks if plan.training is not None else None
    alone = len(plan.pieces) == 1
    planned = {
        "max_leak": 1.0 if leaks is None else leaks.limit,
        "max_label_leak": leaks.label_limit if leaks is not None and leaks.labels else 1.0,
    }
    for name, limit in planned.items():
        wanted: float | None = getattr(privacy, name)
        if wanted is not None and privacy.sums != "shares" and not alone and limit > wanted:
            option = name.replace("_", "-")
            raise ConfigError(
                f"privacy.{name} is {wanted:g}, the plan's {limit:g}; plan again with --{option} "
                f"{wanted:g}, and name that plan in group.plan"
            )
    if leaks is not None and leaks.sums == "masked" and privacy.sums == "plain":
        raise ConfigError(
            "the plan's max_leak was measured of masked sums; set privacy.sums = 'masked', or plan again "
            "with --sums plain"
        )


def _check_samples(planned: Training, config: RunSpec, micro_batch: int) -> None:
    training = config.training
    wanted = Training(training.batch, micro_batch, training.in_flight, staleness=training.staleness)
    if wanted.samples_kept <= planned.samples_kept:
        return
    if replace(wanted, in_flight=planned.in_flight).samples_kept <= planned.samples_kept:
        advice = f"lower it to {planned.in_flight}"
        raise _more("training.in_flight", training.in_flight, "memory", planned.in_flight, advice)
    advice = f"plan again with --batch {training.batch}"
    raise _more("training.batch", training.batch, "memory", planned.batch, advice)


def _more(name: str, value: object, what: str, planned: object, advice: str) -> ConfigError:
    return ConfigError(f"{name} is {value}, the plan's {what} is that of {planned}; {advice}")
