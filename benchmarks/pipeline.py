"""What pipelining gains on slow links: MNIST's MLP in 5 pieces, 20 Mbit/s and 40 ms round trip per phone.

Devices, links and server are processes of their own. A device dials the server, as a phone on Wi-Fi does,
through a process that holds its bytes back as its link would and takes no more of them than its queue
holds (slow_links.py); everything else is the real thing. The bound of one mini-batch is the latency of its
critical path (every hop goes up one phone's link and down another's) and the busy time of the busiest link.
With staleness two mini-batches are under way, so that there is one every half of that, or as often as the
busiest link carries one.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from crowdlearn import RunSpec
from crowdlearn.hosting import Group, Prepared, RunFolder, Server, groups_of, prepare, shared_model_of
from crowdlearn.models import build_model
from crowdlearn.planning import (
    Fleet,
    PiecePlan,
    Plan,
    balanced,
    micro_rows,
    paper_problem,
    plan_from_counts,
    sample_seconds,
    save_plan,
    search,
    wire_format,
)
from crowdlearn_device.protocol.frames import MAX_FRAME
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_host.coordinator.hub.traffic_ledger import exchanged_messages
from rich.table import Table
from websockets.asyncio.server import ServerConnection, unix_serve

from .report import show
from .slow_links import LINK, PIECES, processes, queue_little, run_device, run_links

COUNT = 10
"""Mini-batches whose median is told."""
MINI_BATCHES = 2 * COUNT
"""Of a pass, so that none of these is its last."""


@dataclass(frozen=True)
class Way:
    """How a mini-batch is trained: in micro-batches of so many samples (None: the default)."""

    micro_batch: int | None
    staleness: int = 0


WAYS = {batch: (Way(batch), Way(None), Way(None, staleness=1)) for batch in (128, 512)}
"""By batch: without a pipeline, synchronous, and with mini-batches that overlap."""


@dataclass(frozen=True)
class Measured:
    """Seconds between mini-batches; per mini-batch the bytes of the busiest link's busier direction, and the
    envelopes with sums and errors.
    """

    seconds: float
    busiest_bytes: float
    micro_batches: int
    envelopes: float


async def measure(prepared: Prepared, mini_batches: int, context: Any) -> Measured:
    """Train until so many mini-batches have followed the first."""
    batch = prepared.config.training.batch
    (settings,) = groups_of(prepared, PIECES)
    together = 1 + settings.staleness  # so many may end at once
    seen: list[float] = []
    rows: list[list[dict[str, str | int]]] = []
    enough = asyncio.Event()

    def on_event(event: str, fields: dict[str, Any]) -> None:
        if event == "progress":
            seen.append(time.monotonic())
            rows.append(server.traffic.rows())
            if len(seen) > mini_batches:
                enough.set()

    with tempfile.TemporaryDirectory() as folder, RunFolder(Path(folder) / "run", create=True) as run:
        server = Server(
            run="pipeline",
            groups=[Group(settings)],
            folder=run,
            shared=shared_model_of(prepared, 1),
            on_event=on_event,
            on_checkpoint=lambda *_: None,
        )

        async def handle(connection: ServerConnection) -> None:
            queue_little(connection)
            await server.attach(connection, dialled=False)

        processes = []
        socket_path = str(Path(folder) / "server.sock")
        async with unix_serve(handle, socket_path, compression=None, max_size=MAX_FRAME):
            mine, theirs = context.Pipe()
            processes.append(context.Process(target=run_links, args=(folder, theirs), daemon=True))
            processes[0].start()
            await asyncio.to_thread(mine.recv)
            for k in range(PIECES):
                for program in prepared.exported:
                    for name, content in program.files().items():
                        path = Path(folder) / f"phone-{k}" / "programs" / name
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(content)
                arguments = (folder, f"phone-{k}", MINI_BATCHES * batch, k)
                processes.append(context.Process(target=run_device, args=arguments, daemon=True))
                processes[-1].start()
            ticking = asyncio.create_task(server.ticking())
            await asyncio.wait_for(enough.wait(), 120)
            await server.stop("measured")
            await ticking
            mine.close()
            for process in processes:
                process.terminate()
                await asyncio.to_thread(process.join)
    return Measured(
        statistics.median((b - a) / together for a, b in zip(seen, seen[together:], strict=False)),
        _busiest(rows[0], rows[mini_batches]) / mini_batches,
        -(-batch // settings.micro_batch),
        (_envelopes(rows[mini_batches]) - _envelopes(rows[0])) / mini_batches,
    )


def _envelopes(rows: list[dict[str, str | int]]) -> int:
    """Envelopes with sums and errors that devices have sent."""
    return sum(
        int(row["messages"])
        for row in rows
        if row["direction"] == "up" and row["purpose"] in ("activation", "error")
    )


def _busiest(before: list[dict[str, str | int]], after: list[dict[str, str | int]]) -> float:
    """Bytes that the busiest direction of any link carried between two counts."""
    totals: dict[tuple[str, str], int] = {}
    for sign, rows in ((-1, before), (1, after)):
        for row in rows:
            key = str(row["device"]), str(row["direction"])
            totals[key] = totals.get(key, 0) + sign * int(row["bytes"])
    return max(totals.values())


def _messages(prepared: Prepared) -> int:
    """Sums and errors of a micro-batch."""
    return exchanged_messages(prepared.graph, tuple(piece.neurons for piece in prepared.plan.pieces))


def plan_of(kind: str, graph: NeuronGraph) -> Plan:
    """The even division, or the planner's best one for as many followers of equal load."""
    if kind == "even":
        return balanced(graph, PIECES)
    solution = search(paper_problem(graph, PIECES - 1), seconds=10.0)
    assert solution.division is not None
    return plan_from_counts(graph, solution.division.counts)


def as_planned(base: Prepared, batch: int) -> int:
    """The micro-batch that `crowdlearn plan` takes where links like these were measured."""
    kind = {"name": "phone", "count": PIECES, "samples": 1, "macs_per_second": 1e9}
    fleet = Fleet.parse({"class": [{**kind, "uplink_bytes_per_second": LINK.up * 1e6 / 8}]}, "links")
    wire = wire_format(base.config.training.wire)
    return micro_rows(batch, sample_seconds(base.graph, fleet, wire))


def hops(plan: Plan, graph: NeuronGraph) -> int:
    """Messages one after the other that a mini-batch cannot do without, forward and back."""
    reached = {k: 0 for k, piece in enumerate(plan.pieces) if _owns(piece, 0)}
    for layer in range(1, len(graph.layers)):
        reached = {
            k: max(n + (k != source) for source, n in reached.items())
            for k, piece in enumerate(plan.pieces)
            if _owns(piece, layer)
        }
    return 2 * max(reached.values())


def _owns(piece: PiecePlan, layer: int) -> bool:
    start, stop = piece.neurons[layer]
    return stop > start


def configuration(batch: int, way: Way, folder: Path = Path()) -> RunSpec:
    training: dict[str, Any] = {
        "batch": batch,
        "staleness": way.staleness,
        "snapshot_every": MINI_BATCHES,
        "learning_rate": 0.01,
        "wire": "float32",
    }
    if way.micro_batch:
        training["micro_batch"] = way.micro_batch
    values = {
        "model": "paper-mlp",
        "device_data": "there",
        "input_shape": [784],
        "group": {"plan": "plan.json"},
        "training": training,
    }
    return RunSpec.parse(values, "the benchmark", folder)


def prepared_for(kind: str) -> Prepared:
    graph = neuron_graph(build_model("paper-mlp", 0), torch.zeros(2, 784), "run")
    with tempfile.TemporaryDirectory() as folder:
        save_plan(plan_of(kind, graph), Path(folder) / "plan.json")
        wanted = configuration(max(WAYS), Way(max(WAYS)), folder=Path(folder))
        return prepare(wanted, lambda *_: None)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the planner's plan and batch 128 alone")
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    arguments = parser.parse_args(argv)
    kinds = ("planner",) if arguments.quick else ("planner", "even")
    batches = (128,) if arguments.quick else tuple(WAYS)
    context = processes("benchmarks.pipeline")
    rows: list[dict[str, Any]] = []
    for kind in kinds:
        base = prepared_for(kind)
        latency = hops(base.plan, base.graph) * LINK.round_trip / 1000
        for batch in batches:
            whole: Measured | None = None
            for way in WAYS[batch]:
                usual = as_planned(base, batch) if kind == "planner" else micro_rows(batch)
                micro = way.micro_batch or usual
                prepared = replace(base, config=configuration(batch, way), micro_batch=micro)
                got = asyncio.run(measure(prepared, COUNT, context))
                whole = whole or got
                busy = whole.busiest_bytes * 8e-6 / LINK.up
                bound = max(busy, (latency + busy) / (1 + way.staleness))
                rows.append(
                    {
                        "plan": kind,
                        "batch": batch,
                        "staleness": way.staleness,
                        "micro_batches": got.micro_batches,
                        "sums_and_errors": got.micro_batches * _messages(prepared),
                        "envelopes": got.envelopes,
                        "seconds": got.seconds,
                        "bound_seconds": bound,
                        "share_of_bound": bound / got.seconds,
                        "gain": whole.seconds / got.seconds,
                        "samples_per_second": batch / got.seconds,
                    }
                )
    table = Table(
        *("plan", "batch", "micro-batches", "staleness", "ms a mini-batch"),
        *("bound ms", "bound / measured", "gain", "samples/s", "sums", "envelopes"),
    )
    for row in rows:
        table.add_row(
            row["plan"],
            str(row["batch"]),
            str(row["micro_batches"]),
            str(row["staleness"]),
            f"{1000 * row['seconds']:.0f}",
            f"{1000 * row['bound_seconds']:.0f}",
            f"{row['share_of_bound']:.2f}",
            f"{row['gain']:.2f}",
            f"{row['samples_per_second']:.0f}",
            f"{row['sums_and_errors']}",
            f"{row['envelopes']:.0f}",
        )
    show(arguments.json, rows, table, width=110)


if __name__ == "__main__":
    main()
