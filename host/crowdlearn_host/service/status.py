"""The service's page and its metrics, for this computer alone."""

from __future__ import annotations

import datetime
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from html import escape
from typing import Any

from crowdlearn_host.common.http import HERE, TEXT, Reply, listening, name_in
from crowdlearn_host.coordinator.hub.exposition import labels, metric
from crowdlearn_host.errors import FleetError, RunError
from crowdlearn_host.report.server import HEADERS, LOOPBACK

from .jobs import Job
from .service import Service

SHOWN = 100
"""Runs that the page shows of those that have ended."""
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:64em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3em .8em .3em 0;"
    "border-bottom:1px solid #8884}td.n{font-variant-numeric:tabular-nums}"
    "@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}}"
)
REFRESH_SECONDS = 5


def status(service: Service) -> dict[str, Any]:
    """Return what the service does now, as /status.json tells it."""
    going = service.jobs.all("running", "waiting")
    return {
        "devices_waiting": len(service.reception.waiting),
        "devices_training": _training(service),
        "turned_away": service.pace.turned_away,
        "refused": service.reception.refused,
        "runs": [_run_of(service, job) for job in (*going, *service.jobs.ended(SHOWN))],
    }


def _training(service: Service) -> int:
    return sum(sum(service.jobs.members(number).values()) for number in service.running)


def _run_of(service: Service, job: Job) -> dict[str, Any]:
    fields = {
        **job.to_json(),
        "folder": str(service.run_folder(job)),
        "devices": len(service.jobs.members(job.id)),
    }
    if (process := service.running.get(job.id)) is not None:
        fields |= {"epoch": process.epoch, "mini_batches": process.mini_batches, "accuracy": process.accuracy}
    return fields


def metrics(service: Service) -> str:
    """Return every metric of the service, one sample a line (Prometheus' text format 0.0.4)."""
    return "".join(f"{line}\n" for line in _lines(service))


def _lines(service: Service) -> Iterator[str]:
    counts = service.jobs.counts()
    states = ("waiting", "running", "done", "failed", "cancelled")
    of_states = [(labels({"state": state}), counts.get(state, 0)) for state in states]
    yield from metric("runs", "gauge", "runs by what became of them", of_states)
    waiting, away = len(service.reception.waiting), service.pace.turned_away
    yield from metric("devices_waiting", "gauge", "devices that wait for a run", [("", waiting)])
    yield from metric("devices_training", "gauge", "devices given to runs", [("", _training(service))])
    yield from metric("turned_away_total", "counter", "devices sent home for a while", [("", away)])
    yield from metric("refused_total", "counter", "arrivals refused", [("", service.reception.refused)])
    for name, what in (
        ("epoch", "the epoch of a run"),
        ("mini_batches", "mini-batches since its process began"),
    ):
        of_runs = [
            (labels({"run": process.job.label}), getattr(process, name))
            for process in service.running.values()
        ]
        yield from metric(f"run_{name}", "gauge", what, of_runs)


def page(fields: dict[str, Any]) -> str:
    """Return the page, HTML, of what `status` told."""
    rows = "".join(_row(run) for run in fields["runs"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" '
        f'content="{REFRESH_SECONDS}"><title>crowdlearn</title><style>{STYLE}</style><h1>crowdlearn</h1>'
        f"<p>{fields['devices_waiting']} devices wait, {fields['devices_training']} belong to runs; "
        f"{fields['turned_away']} were sent home for a while, {fields['refused']} refused.</p>"
        "<table><tr><th>run</th><th>priority</th><th>state</th><th>devices</th><th>since</th><th></th></tr>"
        f"{rows}</table></html>"
    )


def _row(run: dict[str, Any]) -> str:
    outcome = run["outcome"]
    if "epoch" in run:
        accuracy = "" if run["accuracy"] is None else f", test accuracy {run['accuracy']:.4f}"
        outcome = f"epoch {run['epoch']}, {run['mini_batches']} mini-batches{accuracy}"
    since = run["ended"] or run["began"] or run["submitted"]
    when = datetime.datetime.fromtimestamp(since, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    cells = (f"{run['name']}-{run['id']}", run["priority"], run["state"], run["devices"], when, outcome)
    return "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>"


@asynccontextmanager
async def shown(service: Service, port: int = 0) -> AsyncIterator[str]:
    """Serve /, /status.json and /metrics on loopback while the context lasts; gives the address. Raises
    FleetError if the port is taken.
    """

    try:
        port_open = await listening(partial(_answer, service), LOOPBACK, port)
    except (OSError, OverflowError) as error:
        raise FleetError(f"cannot serve on {LOOPBACK}:{port}: {error}; name another --status") from error
    async with port_open:
        yield f"http://{LOOPBACK}:{port_open.sockets[0].getsockname()[1]}/"


def _answer(service: Service, request: bytes) -> Reply:
    """Return the answer to a request's head."""
    lines = request.decode("latin-1").split("\r\n")
    method, path, *_ = [*lines[0].split(" "), "", ""]
    if name_in(request) not in HERE:  # a site whose DNS leads here
        return Reply("403 Forbidden", TEXT, "this page is for this computer alone\n", HEADERS)
    if method != "GET":
        return Reply("405 Method Not Allowed", TEXT, "ask by GET\n", HEADERS)
    try:
        match path.partition("?")[0]:
            case "/":
                return Reply("200 OK", "text/html; charset=utf-8", page(status(service)), HEADERS)
            case "/status.json":
                return Reply("200 OK", "application/json", json.dumps(status(service)), HEADERS)
            case "/metrics":
                return Reply("200 OK", TEXT, metrics(service), HEADERS)
    except RunError as error:  # a damaged queue, a disk that fails
        return Reply("503 Service Unavailable", TEXT, f"{error}\n", HEADERS)
    return Reply("404 Not Found", TEXT, "there are /, /status.json and /metrics\n", HEADERS)
