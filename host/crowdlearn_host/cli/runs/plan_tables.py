"""The tables that `crowdlearn plan` prints: pieces, turns on shares, and bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from crowdlearn_host.cli.console.terminal import size

if TYPE_CHECKING:
    from crowdlearn.planning import NetworkPlan

    from crowdlearn_host.planner.plan import Certificate
    from crowdlearn_host.planner.planner import Planned

WHOLE = (
    "One piece: every device can hold the whole network, so devices send only what groups share. "
    "To slice it, limit the devices in the fleet file (max_macs, max_memory), or set --group-size."
)

MOST_TURNS = 12
"""The most turns of a group that the table lists."""


def print_plan(console: Console, planned: NetworkPlan, omega: int) -> None:
    """Print a plan. `omega` uploads stand in the host's window."""
    console.print(_pieces(planned))
    if planned.plan.micro_batch < planned.training.micro_batch:
        console.print(
            f"Micro-batches of {planned.training.micro_batch} samples do not fit every device's memory."
        )
    if planned.training.fed_bytes:
        held = size(planned.training.fed_bytes)
        console.print(f"The dominator holds {held} more while it changes the samples of a mini-batch.")
    if planned.plan.shares:
        console.print(_triples(planned))
    if len(planned.plan.pieces) == 1:
        console.print(WHOLE, style="yellow")
    console.print(_traffic(planned.found, planned.graph.parameters, omega))


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
    """Return the table of turns on shares: who is dominator, and who helps, triple after triple."""
    from crowdlearn_device.privacy.shares.replicated import HELPERS

    table = Table(title="turns")
    for column in ("group", "dominator", "helpers"):
        table.add_column(column)
    for number, group in enumerate(planned.plan.groups):
        for turn in group.turns[:MOST_TURNS]:
            helpers = [turn.devices[k : k + HELPERS] for k in range(1, len(turn.devices), HELPERS)]
            table.add_row(str(number), turn.devices[0], "; ".join(map(", ".join, helpers)))
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
        text = f"{baseline.cost / plan.traffic.total:.2f}"
        table.add_row(baseline.name, size(baseline.cost), text + (" over budget" if baseline.broken else ""))
    for kind in plan.fleet.classes if plan.fleet is not None else ():
        most = max((j.total for j in plan.joules if j.device in kind.names), default=0.0)
        if most:
            limit = f"at most {kind.joules_limit:.3g} J" if kind.joules_limit is not None else "no limit"
            table.add_row(f"most energy, {kind.name}", f"{most:.3g} J", f"{limit}, modelled")
    table.add_row("snapshots for spares", size(plan.traffic.snapshots + plan.traffic.keys), "beside the plan")
    if len(plan.groups) > 1:
        on_disk, in_memory = window_bytes(weights, omega)
        text = f"on disk, half as much for its log, and {size(in_memory)} of memory; omega is {omega}"
        table.add_row("the host's window", size(on_disk), text)
    for name, why in planned.absent:
        table.add_row(name, "", why)
    if planned.baselines:
        table.caption = (
            f"METIS and hypergraph took {planned.compared_seconds:.1f} s, beside the time limit of the search"
        )
    return table


def _time(certificate: Certificate) -> str:
    """Return the seconds of a search, and whether other programs took most of them."""
    text = f"{certificate.seconds:.1f} s"
    if certificate.seconds > 2 * certificate.processor_seconds + 1:
        text += f", of which {certificate.processor_seconds:.1f} s of the processor: this computer is busy"
    return text
