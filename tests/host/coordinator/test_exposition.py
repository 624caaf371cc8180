"""What Prometheus asks for is there, in its format, and nothing else is."""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path

import pytest
from crowdlearn_host.common import http
from crowdlearn_host.coordinator.hub.exposition import exposed, exposition
from crowdlearn_host.errors import FleetError
from crowdlearn_host.service.process import RunProcess
from crowdlearn_host.service.service import Service
from crowdlearn_host.service.status import metrics

from .test_strange_frames import envelope, hosted, next_envelope

LINE = re.compile(r'crowdlearn_[a-z_]+(\{[a-z_]+="[a-z]+"(,[a-z_]+="[a-z]+")*\})? \d+(\.\d+)?')


def names(body: str) -> list[str]:
    return [line if line.startswith("#") else line.rsplit(" ", 1)[0] for line in body.splitlines()]


async def asked(port: int, request: bytes) -> tuple[bytes, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    head, _, body = (await asyncio.wait_for(reader.read(), 60)).partition(b"\r\n\r\n")
    writer.close()
    return head, body.decode()


async def test_a_host_tells_its_devices_groups_and_bytes(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host, exposed(host.server, "127.0.0.1:0") as port:
        await host.devices[0].send(envelope(0, 1, bytes(1000)))
        await next_envelope(host.devices[1])
        head, body = await asked(port, b"GET /metrics HTTP/1.1\r\nHost: localhost:1\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK")
        assert b"text/plain; version=0.0.4" in head
        lines = body.splitlines()
        assert all(line.startswith("# ") or LINE.fullmatch(line) for line in lines)
        assert "crowdlearn_devices_connected 4" in lines
        assert 'crowdlearn_groups{phase="forming"} 2' in lines
        told = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        assert int(told['crowdlearn_bytes_total{direction="up",purpose="control"}']) > 1000
        assert names(body) == names(exposition(host.server))  # bytes grow meanwhile


async def test_joules_are_told_with_their_provenance(tmp_path: Path) -> None:
    labels = {"device": 'phone "0"', "purpose": "compute", "provenance": "modelled"}
    async with hosted(tmp_path) as host:
        body = exposition(host.server, lambda: [(labels, 1.5)])
        told = '{device="phone \\"0\\"",purpose="compute",provenance="modelled"} 1.5'
        assert f"crowdlearn_joules_total{told}\n" in body
        assert "joules" not in exposition(host.server)


async def test_prometheus_own_client_reads_what_a_run_and_a_service_tell(tmp_path: Path) -> None:
    parser = pytest.importorskip("prometheus_client.parser", reason="prometheus_client is not installed")
    odd = 'Ada\'s "phone"\\1, é{}'
    async with hosted(tmp_path) as host:
        body = exposition(host.server, lambda: [({"device": odd, "purpose": "compute"}, 1.5)])
    service = Service(tmp_path / "service", tmp_path)
    job = service.jobs.submit("digits", "")
    service.running[job.id] = RunProcess(job, tmp_path, tmp_path, print)
    for told in (body, metrics(service)):
        families = list(parser.text_string_to_metric_families(told))
        assert all(family.documentation and family.type in ("gauge", "counter") for family in families)
        lines = [line for line in told.splitlines() if not line.startswith("#")]
        assert sum(len(family.samples) for family in families) == len(lines)
        assert len({family.name for family in families}) == len(families)
        assert all(s.name.endswith("_total") == (f.type == "counter") for f in families for s in f.samples)
        if told is body:
            (joules,) = (family for family in families if family.name == "crowdlearn_joules")
            assert joules.samples[0].labels["device"] == odd
        else:
            (epoch,) = (family for family in families if family.name == "crowdlearn_run_epoch")
            assert epoch.samples[0].labels == {"run": "digits-1"}


@pytest.mark.parametrize(
    "request_", [b"GET / HTTP/1.1\r\n\r\n", b"POST /metrics HTTP/1.1\r\n\r\n", b"\r\n\r\n"]
)
async def test_anything_else_is_not_found(tmp_path: Path, request_: bytes) -> None:
    async with hosted(tmp_path) as host, exposed(host.server, "127.0.0.1:0") as port:
        head, _ = await asked(port, request_)
        assert head.startswith(b"HTTP/1.1 404")


async def test_a_site_whose_dns_leads_here_is_told_nothing(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host, exposed(host.server, "127.0.0.1:0") as port:
        head, body = await asked(port, b"GET /metrics HTTP/1.1\r\nHost: site.example:80\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 403")
        assert "devices" not in body
        head, _ = await asked(port, f"GET /metrics HTTP/1.1\r\nhOST: 127.0.0.1:{port}\r\n\r\n".encode())
        assert head.startswith(b"HTTP/1.1 200")


async def test_connections_that_wait_are_bounded_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "REQUEST_SECONDS", 2.0)
    monkeypatch.setattr(http, "MOST_CONNECTIONS", 2)
    answer = http.Reply("200 OK", http.TEXT, "x" * (32 << 20))
    async with await http.listening(lambda request: answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        silent, deaf = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        deaf[1].write(b"GET / HTTP/1.1\r\n\r\n")  # and takes nothing of the answer
        deaf[1].transport.pause_reading()  # type: ignore[attr-defined]
        third, _ = await asyncio.open_connection("127.0.0.1", port)
        assert await asyncio.wait_for(third.read(), 60) == b""
        assert await asyncio.wait_for(silent[0].read(), 60) == b""
        deaf[1].transport.resume_reading()  # type: ignore[attr-defined]
        with contextlib.suppress(ConnectionResetError):
            assert len(await asyncio.wait_for(deaf[0].read(), 60)) < len(answer.text)
        head, body = await asked(port, b"GET / HTTP/1.1\r\n\r\n")
        assert len(head) + len(body) > 0


async def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host, exposed(host.server, "127.0.0.1:0") as port:
        with pytest.raises(FleetError, match="choose another port"):
            async with exposed(host.server, f"127.0.0.1:{port}"):
                pass
