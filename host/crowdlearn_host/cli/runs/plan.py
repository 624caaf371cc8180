"""`crowdlearn plan`: divide a network among devices, with costs and a lower bound."""

from __future__ import annotations

import json
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from crowdlearn_device.platform.files import write_atomically

from crowdlearn_host.cli.console.document import Json, document
from crowdlearn_host.cli.console.output import Force, apart, claim
from crowdlearn_host.cli.console.silence import Working
from crowdlearn_host.cli.console.terminal import terminal
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.models.names import check_name, stated_shape
from crowdlearn_host.planner.problem.fleet import load_fleet
from crowdlearn_host.planner.problem.rotations import DEFAULT_ROTATION
from crowdlearn_host.spec.loss import LossKind, LossSection
from crowdlearn_host.spec.run_spec import RunSpec, SharingSection, TrainingSection

from .plan_tables import print_plan

TRAINING, SHARING = TrainingSection.model_validate({}), SharingSection.model_validate({})
"""The defaults of training, which options override."""


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
    print_plan(console, planned, asked.omega or len(planned.plan.groups))


def _is_given(context: typer.Context, option: str) -> bool:
    """Return True if an option stands on the command line."""
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"
