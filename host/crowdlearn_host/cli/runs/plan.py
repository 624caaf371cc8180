"""`crowdlearn plan`: divide a network among devices, with costs and a lower bound."""

from __future__ import annotations

import json
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from crowdlearn_device.platform.files import write_atomically
from rich.table import Table
from rich.text import Text

from crowdlearn_host.cli.console.document import Json, document
from crowdlearn_host.cli.console.output import Force, apart, claim
from crowdlearn_host.cli.console.silence import Working
from crowdlearn_host.cli.console.terminal import size, terminal
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.models.names import check_name, stated_shape
from crowdlearn_host.planner.problem.fleet import load_fleet
from crowdlearn_host.planner.problem.rotations import DEFAULT_ROTATION
from crowdlearn_host.spec.loss import LossKind, LossSection
from crowdlearn_host.spec.run_spec import RunSpec, SharingSection, TrainingSection

if TYPE_CHECKING:
    from crowdlearn.planning import NetworkPlan

    from crowdlearn_host.planner.plan import Certificate
    from crowdlearn_host.planner.planner import Planned

TRAINING, SHARING = TrainingSection.model_validate({}), SharingSection.model_validate({})
"""The defaults of training, which options override."""


WHOLE = (
    "One piece: every device can hold the whole network, so devices send only what groups share. "
    "To slice it, limit the devices in the fleet file (max_macs, max_memory), or set --group-size."
)


MOST_TURNS = 12
"""The most turns of a group that the table lists."""


class Wire(StrEnum):
    """The dtype of numbers on the wire."""

    float32 = "float32"
    float16 = "float16"
    int8 = "int8"


class Sums(StrEnum):
    """The form of sums."""

    plain = "plain"
    masked = "masked"
    shares = "shares"


class FirstLayer(StrEnum):
    """The place of the first layer's product, on shares."""

    kept = "kept"
    shared = "shared"


class OptimizerName(StrEnum):
    """The names of optimizers."""

    sgd = "sgd"
    adam = "adam"
    adamw = "adamw"


class Rotate(StrEnum):
    """The state that moves at a shuffle."""

    full = "full"
    minimal = "minimal"


def plan(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            help="paper-mlp, mlp:784-100-10, file.py:function, or the description of a run (.toml)."
        ),
    ],
    fleet: Annotated[Path, typer.Option(help="The fleet (TOML).")],
    shape: Annotated[
        str, typer.Option(help="Shape of one sample, such as 3x32x32.", show_default=False)
    ] = "",
    group_size: Annotated[
        int, typer.Option(min=0, help="Devices in a group; 0 lets the planner decide.")
    ] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Samples of a mini-batch.")] = TRAINING.batch,
    micro_batch: Annotated[
        int, typer.Option(min=0, help="Largest micro-batch; 0: as training chooses it.")
    ] = 0,
    staleness: Annotated[
        int, typer.Option(min=0, max=1, help="1: consecutive mini-batches overlap, which takes memory.")
    ] = TRAINING.staleness,
    momentum: Annotated[bool, typer.Option(help="Plan for SGD with momentum.")] = TRAINING.momentum > 0,
    optimizer: Annotated[
        OptimizerName,
        typer.Option(help="The optimizer; adam and adamw keep two more arrays per weight array."),
    ] = OptimizerName(TRAINING.optimizer),
    wire: Annotated[Wire, typer.Option(help="Dtype of sums and errors on the wire.")] = Wire(TRAINING.wire),
    rotation: Annotated[Rotate, typer.Option(help="Pieces that move when the dominator changes.")] = Rotate(
        DEFAULT_ROTATION
    ),
    theta: Annotated[
        float, typer.Option(min=0, max=1, help="Fraction of the weights that a device uploads in sharing.")
    ] = SHARING.theta,
    values: Annotated[Wire, typer.Option(help="Dtype of shared weights on the wire.")] = Wire(SHARING.values),
    snapshot_every: Annotated[
        int, typer.Option(min=1, help="Mini-batches between two snapshots of a piece.")
    ] = TRAINING.snapshot_every,
    max_leak: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Largest fraction of samples that a follower may re-identify; needs --data."
        ),
    ] = None,
    max_label_leak: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Largest fraction of labels that a follower may read; needs --data."),
    ] = None,
    data: Annotated[
        str, typer.Option(help="Samples for measuring leaks: a folder, or digits.", show_default=False)
    ] = "",
    sums: Annotated[Sums, typer.Option(help="The form in which sums travel.")] = Sums.plain,
    first_layer: Annotated[
        FirstLayer, typer.Option(help="With --sums shares: whether helpers also multiply the first layer.")
    ] = FirstLayer.kept,
    private: Annotated[
        bool, typer.Option(help="With --sums shares: plan for DP-SGD (privacy.epsilon or privacy.noise).")
    ] = False,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Time limit of the solver, in processor seconds.")
    ] = 60.0,
    baselines: Annotated[bool, typer.Option(help="Compare with METIS and a hypergraph partitioner.")] = True,
    save: Annotated[Path | None, typer.Option(help="Write the plan to this file (JSON).")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the plan into this file (SVG).")] = None,
    force: Force = False,
    loss: Annotated[LossKind, typer.Option(help="Loss of the training.")] = LossKind.cross_entropy,
    as_json: Json = False,
) -> None:
    """Divide MODEL among the devices of a fleet so that they send as few bytes as possible.

    A lower bound shows how far from the optimum the plan can be. If MODEL is the description of a run, its
    settings are used for the options that are not given.
    """
    described = model.endswith(".toml")
    spec = RunSpec.load(model) if described else None
    name = spec.model if spec else model
    check_name(name)
    sample = stated_shape(name, shape) if shape or not spec else ()
    devices = load_fleet(fleet)
    options = {
        "batch": batch,
        "micro_batch": micro_batch,
        "staleness": staleness,
        "momentum": momentum,
        "optimizer": optimizer.value,
        "wire": wire.value,
        "rotation": rotation.value,
        "theta": theta,
        "values": values.value,
        "snapshot_every": snapshot_every,
        "max_leak": max_leak,
        "max_label_leak": max_label_leak,
        "data": data or None,
        "sums": sums.value,
        "first_layer": first_layer.value,
        "private": private,
        "loss": LossSection.model_validate({"kind": loss}),
    }
    given: dict[str, Any] = {option: value for option, value in options.items() if _is_given(context, option)}
    if sample:
        given["shape"] = sample
    from crowdlearn_host.planner.drawing import draw_plan, is_drawing
    from crowdlearn_host.planner.plan import is_plan, plan_json

    apart(save=save, plot=plot)
    if save is not None:
        claim(save, force=force, is_own=is_plan)
    if plot is not None:
        if plot.suffix != ".svg":
            raise ConfigError(f"--plot {plot}: a plan is drawn as SVG; name a file .svg")
        claim(plot, force=force, is_own=is_drawing)
    console = terminal(stderr=as_json)
    with document(as_json) as tell:
        with Working(terminal(stderr=True), f"reading {model}") as working:
            from crowdlearn import planning  # imports torch

            asked = planning.PlanRequest.of(spec) if spec else planning.PlanRequest(name, sample)
            asked = replace(asked, **given)
            planned = planning.plan_network(
                asked,
                devices,
                group_size=group_size or None,
                seconds=seconds,
                baselines=baselines,
                on_step=working.step,
            )
        if save is not None:
            planning.save_plan(planned.plan, save)
        if plot is not None:
            write_atomically(plot, draw_plan(planned.plan, planned.graph).encode())
        tell(json.loads(plan_json(planned.plan)))
    if as_json:
        return
    console.print(_pieces(planned))
    if planned.plan.micro_batch < planned.training.micro_batch:
        console.print(
            f"Micro-batches of {planned.training.micro_batch} samples do not fit every device's memory."
        )
    if asked.augment:
        held = size(planned.training.fed_bytes)
        console.print(f"The dominator holds {held} more while it changes the samples of a mini-batch.")
    if planned.plan.shares:
        console.print(_triples(planned))
    if len(planned.plan.pieces) == 1:
        console.print(WHOLE, style="yellow")
    omega = asked.omega or len(planned.plan.groups)
    console.print(_traffic(planned.found, planned.graph.parameters, omega))


def _is_given(context: typer.Context, option: str) -> bool:
    """Return True if an option stands on the command line."""
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def _pieces(planned: NetworkPlan) -> Table:
    plan, graph = planned.plan, planned.graph
    groups = f"{len(plan.groups)} group{'s' if len(plan.groups) > 1 else ''}"
    rows = f"micro-batches of {plan.micro_batch} samples"
    table = Table(title=f"{graph.name}: {len(plan.pieces)} pieces, {groups}, {rows}")
    if not planned.whole_memory:
        table.caption = "memory leaves out what programs need to run, as no class has max_memory"
    for column in ("piece", "on", "neurons per layer"):
        table.add_column(column)
    for column in ("MAC/\nsample", "memory", "sent/\nsample", "of budget"):
        table.add_column(column, justify="right")
    from crowdlearn_host.planner.problem.bundles import bundles

    members = [(k,) for k in range(len(graph.layers))] if plan.shares else bundles(graph)
    columns = [max(len(str(graph.layers[layers[0]].neurons)), 1) for layers in members]
    for k, piece in enumerate(plan.pieces):
        widths = [stop - start for start, stop in (piece.neurons[layers[0]] for layers in members)]
        fullest = max(piece.budgets, key=lambda budget: budget.share, default=None)
        table.add_row(
            str(k),
            piece.seat,
            " ".join(f"{width or '·':>{n}}" for width, n in zip(widths, columns, strict=True)),
            f"{piece.macs:,.0f}",
            size(piece.memory_bytes),
            size(piece.uplink_bytes),
            f"{100 * fullest.share:.0f} % {fullest.name}" if fullest else "no limit",
        )
    return table


def _triples(planned: NetworkPlan) -> Table:
    """Return the table of turns on shares: who is dominator, and who helps."""
    table = Table(title="turns")
    for column in ("group", "dominator", "helpers"):
        table.add_column(column)
    for number, group in enumerate(planned.plan.groups):
        for turn in group.turns[:MOST_TURNS]:
            table.add_row(str(number), turn.devices[0], ", ".join(turn.devices[1:]))
        if len(group.turns) > MOST_TURNS:
            table.add_row(str(number), f"and {len(group.turns) - MOST_TURNS} more", "in the saved plan")
    return table


def _traffic(planned: Planned, weights: int, omega: int) -> Table:
    """Return the table of bytes. `omega` uploads of `weights` stand in the host's window."""
    from crowdlearn_host.methods.slicenet.window import window_bytes

    plan = planned.plan
    table = Table(title="bytes sent per epoch")
    for column in ("", "bytes", "against the plan"):
        table.add_column(column, justify="right" if column else "left")
    assert plan.traffic is not None
    assert plan.certificate is not None
    for name in ("forward", "backward", "shuffles", "sharing"):
        table.add_row(name, size(getattr(plan.traffic, name)), "")
    table.add_section()
    proof = "proven optimal" if plan.certificate.optimal else f"gap {100 * plan.certificate.gap:.2f} %"
    table.add_row(Text("plan", "bold"), size(plan.traffic.total), "1.00")
    table.add_row("lower bound", size(plan.certificate.bound), f"{proof} in {_time(plan.certificate)}")
    for baseline in planned.baselines:
        told = f"{baseline.cost / plan.traffic.total:.2f}"
        table.add_row(baseline.name, size(baseline.cost), told + (" over budget" if baseline.broken else ""))
    for kind in plan.fleet.classes if plan.fleet is not None else ():
        most = max((j.total for j in plan.joules if j.device in kind.names), default=0.0)
        if most:
            limit = f"at most {kind.joules_limit:.3g} J" if kind.joules_limit is not None else "no limit"
            table.add_row(f"most energy, {kind.name}", f"{most:.3g} J", f"{limit}, modelled")
    table.add_row("snapshots for spares", size(plan.traffic.snapshots + plan.traffic.keys), "beside the plan")
    if len(plan.groups) > 1:
        on_disk, in_memory = window_bytes(weights, omega)
        told = f"on disk, and {size(in_memory)} of memory; omega is {omega}"
        table.add_row("the host's window", size(on_disk), told)
    for name, why in planned.absent:
        table.add_row(name, "", why)
    if planned.baselines:
        table.caption = (
            f"METIS and hypergraph took {planned.compared_seconds:.1f} s, beside the time limit of the search"
        )
    return table


def _time(certificate: Certificate) -> str:
    """Return the seconds of a search, and whether other programs took most of them."""
    told = f"{certificate.seconds:.1f} s"
    if certificate.seconds > 2 * certificate.processor_seconds + 1:
        told += f", of which {certificate.processor_seconds:.1f} s of the processor: this computer is busy"
    return told
