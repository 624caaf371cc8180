"""What a host is doing, as Prometheus reads it (text format 0.0.4)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

from crowdlearn_host.common.http import HERE, TEXT, Reply, listening, name_in
from crowdlearn_host.errors import FleetError

from .server import Server

Samples = Callable[[], list[tuple[dict[str, str], float]]]
"""A function that gives labels and value of each sample."""


def no_energy() -> list[tuple[dict[str, str], float]]:
    """Return nothing, for a run whose devices' energy is not known."""
    return []


def exposition(server: Server, joules: Samples = no_energy) -> str:
    """Return every metric of a run, one sample a line; `joules` are those that devices spent, with
    provenance.
    """
    return "".join(f"{line}\n" for line in (*_lines(server), *_energy(joules())))


def _energy(joules: list[tuple[dict[str, str], float]]) -> Iterator[str]:
    if joules:
        samples = [(labels(of), value) for of, value in joules]
        yield from metric("joules_total", "counter", "energy that devices spent beyond idling", samples)


def labels(of: dict[str, str]) -> str:
    """Return labels as they stand behind a metric's name."""
    text = ",".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in of.items())
    return f"{{{text}}}"


def _lines(server: Server) -> Iterator[str]:
    connected = server.connected
    yield from metric("devices_connected", "gauge", "devices that are connected", [("", len(connected))])
    phases = Counter(group.phase for group in server.groups)
    of_phases = [(f'{{phase="{phase}"}}', count) for phase, count in sorted(phases.items())]
    yield from metric("groups", "gauge", "groups by what they do", of_phases)
    yield from metric(
        "epoch",
        "gauge",
        "the least epoch of a group",
        [("", min((group.schedule.epoch for group in server.groups), default=0))],
    )
    samples = [("", server.throughput.samples)]
    yield from metric("samples_total", "counter", "samples trained since this process started", samples)
    sent = [
        (f'{{direction="{way}",purpose="{purpose}"}}', count)
        for way in ("up", "down")
        for purpose, count in server.traffic.by_purpose(way).items()
    ]
    yield from metric("bytes_total", "counter", "bytes on the wire, from devices (up) and to them", sent)
    pressure = server.pressure
    for name, seconds, what in (
        ("loop_late", pressure.late, "by how much the host's loop is late"),
        ("loop_longest", pressure.longest, "the most by which it was late"),
        ("loop_longest_own", pressure.longest_own, "the most of it in which its thread computed"),
    ):
        yield from metric(f"{name}_seconds", "gauge", what, [("", round(seconds, 4))])
    put_off = [("", pressure.put_off)]
    yield from metric("put_off_total", "counter", "devices sent away for that, to come again", put_off)
    queued = [("", sum(attached.stream.queued for attached in connected))]
    yield from metric("queued_bytes", "gauge", "bytes that wait to be sent to devices", queued)


def metric(name: str, kind: str, what: str, samples: Sequence[tuple[str, float]]) -> Iterator[str]:
    """Yield the lines of a metric: what it is, and its samples, each with its labels."""
    yield f"# HELP crowdlearn_{name} {what}"
    yield f"# TYPE crowdlearn_{name} {kind}"
    for labels, value in samples:
        yield f"crowdlearn_{name}{labels} {value}"


@asynccontextmanager
async def exposed(server: Server, address: str, joules: Samples = no_energy) -> AsyncIterator[int]:
    """Answer GET /metrics at `address` (HOST:PORT) while the context lasts; gives the port.

    Raises FleetError if the address cannot be listened on.
    """

    host, _, port = address.rpartition(":")
    only_here = host in HERE

    def reply(request: bytes) -> Reply:
        if only_here and name_in(request) not in ("", *HERE):  # a site whose DNS leads here
            return Reply("403 Forbidden", TEXT, "this page is for this computer alone\n")
        if request.split(b" ", 2)[:2] == [b"GET", b"/metrics"]:
            return Reply("200 OK", TEXT, exposition(server, joules))
        return Reply("404 Not Found", TEXT, "ask for /metrics\n")

    try:
        port_open = await listening(reply, host.strip("[]") or None, int(port))
    except (OSError, OverflowError) as error:
        raise FleetError(f"cannot serve metrics on {address}: {error}; choose another port") from error
    async with port_open:
        yield port_open.sockets[0].getsockname()[1]
