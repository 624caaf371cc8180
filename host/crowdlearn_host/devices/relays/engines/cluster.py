"""Relays as actors of a Ray cluster, on whichever of its nodes has a processor free.

An actor dials the host by TLS, and checks its certificate by the hash that it was started with. It shows a
word that is good for it alone. Only then does it get the certificate with its key, which devices check.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import secrets
import ssl
from pathlib import Path
from typing import Any

from crowdlearn_device.transport.pinned import other_than, pinned_context

from crowdlearn_host.common import event_loop
from crowdlearn_host.devices.joining.certificate import FILE, certificate, served_with
from crowdlearn_host.errors import FleetError

from ..channel import Channel, Kind
from .base import Engine, Running, port_of

ACTOR_SECONDS = 180.0
"""The seconds in which an actor has to listen: a node may have to be started, and a process on a busy one."""
WORD_BYTES = 32
WORD_SECONDS = 10.0
"""The time in which a connection shows its word, from its handshake on; that has as long."""


class Actor(Running):
    """An actor of the cluster, and the connection that it made."""

    def __init__(self, ray: Any, handle: Any, channel: Channel, address: str) -> None:
        super().__init__(channel, address)
        self._ray, self._handle = ray, handle

    async def end(self) -> int | None:
        await asyncio.to_thread(self._ray.kill, self._handle)
        return None


class Door:
    """A port that one relay of elsewhere may dial, which shows `word` there. `pin` is the hash by which it
    knows the certificate.
    """

    def __init__(self, home: Path) -> None:
        self.word = secrets.token_bytes(WORD_BYTES)
        self._certificate = home / FILE
        self._context, self.pin = certificate(home)
        self._dialled: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()
        self._server: asyncio.Server | None = None

    async def open(self, host: str) -> int:
        """Listen at `host`; return the port."""
        self._server = await asyncio.start_server(
            self._take, host, 0, ssl=self._context, ssl_handshake_timeout=WORD_SECONDS
        )
        return int(self._server.sockets[0].getsockname()[1])

    async def dialled(self, relay: asyncio.Future[None]) -> Channel:
        """Return the channel of the relay once it has shown its word, and give it the certificate. Raises
        what `relay` ends with, if it ends before.
        """
        either: set[asyncio.Future[Any]] = {relay, self._dialled}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not self._dialled.done():
            await relay
        channel = await self._dialled
        channel.say(Kind.CERTIFICATE, content=self._certificate.read_bytes())
        return channel

    def close(self) -> None:
        """Listen no more; the channel stays."""
        if self._server is not None:
            self._server.close()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        channel = Channel(reader, writer)
        first = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WORD_SECONDS):
                first = await channel.next(WORD_BYTES)
        shown = first.content if first is not None and first.kind == Kind.WORD else b""
        if self._dialled.done() or not hmac.compare_digest(shown, self.word):
            channel.close()
        else:
            self._dialled.set_result(channel)


class Cluster(Engine):
    """The engine that starts actors of a Ray cluster: the one that RAY_ADDRESS names or this program has
    joined, else a new one of this computer.
    """

    name = "ray"

    async def start(self, host: str, home: Path | None) -> Running:
        if home is None:
            raise FleetError("relays of a Ray cluster need the host's certificate; give a home folder")
        ray = await asyncio.to_thread(_joined)
        here, door, handle = ray.util.get_node_ip_address(), Door(home), None
        try:
            async with asyncio.timeout(ACTOR_SECONDS):
                port = await door.open(here)
                remote = ray.remote(num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD")(_Relay)
                handle = await asyncio.to_thread(remote.remote)
                at = await asyncio.wrap_future(handle.node_address.remote().future())
                relay = asyncio.wrap_future(handle.serve.remote(here, port, door.pin, door.word, at).future())
                relay.add_done_callback(_noted)
                channel = await door.dialled(relay)
                if (listens := await port_of(channel)) is not None:
                    name = f"[{at}]" if ":" in at else at
                    return Actor(ray, handle, channel, f"{name}:{listens}")
                await relay  # says why, if it says anything
            why = "it ended before it listened; its log has the reason"
        except TimeoutError:
            why = (
                f"none listened within {ACTOR_SECONDS:.0f} s; has a node a processor free, and crowdlearn "
                "installed?"
            )
        except (ray.exceptions.RayError, OSError) as error:
            why = str(error).strip().splitlines()[-1]
        except asyncio.CancelledError:
            _kill(ray, handle)
            raise
        finally:
            door.close()
        _kill(ray, handle)
        raise FleetError(f"the Ray cluster could not start a relay: {why}")


def _noted(serving: asyncio.Future[None]) -> None:
    """Take what an actor ended with: its channel has ended, too, and that is told."""
    if not serving.cancelled():
        serving.exception()


def _kill(ray: Any, handle: Any) -> None:
    """End an actor, if there is one yet."""
    if handle is not None:
        ray.kill(handle)


def _joined() -> Any:
    """Return the module of Ray, joined to a cluster. Raises FleetError if it is not installed."""
    try:
        import ray
    except ImportError as error:
        raise FleetError("ray is not installed; install crowdlearn[ray], or use the engine local") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    return ray


class _Relay:
    """The actor."""

    def node_address(self) -> str:
        """Return the address of the node, by which the cluster knows it."""
        import ray

        return str(ray.util.get_node_ip_address())

    def serve(self, host: str, port: int, pin: str, word: bytes, listens: str) -> None:
        """Dial the host, and relay until it hangs up."""
        event_loop.run(_serve(host, port, pin, word, listens), dialled=True)


async def _serve(host: str, port: int, pin: str, word: bytes, listens: str) -> None:
    from ..process import relaying_over

    reader, writer = await asyncio.open_connection(host, port, ssl=pinned_context())
    if other_than(pin, writer.get_extra_info("ssl_object")):
        raise FleetError(f"another computer than the host answers at {host}:{port}")
    channel = Channel(reader, writer)
    channel.say(Kind.WORD, content=word)
    given = await channel.next()
    if given is None or given.kind != Kind.CERTIFICATE:
        raise FleetError("the host hung up before it gave its certificate")
    await relaying_over(channel, listens, _served_with(given.content))


def _served_with(content: bytes) -> ssl.SSLContext:
    """Return the context to serve with a certificate and its key, which are on no disk of the node."""
    with open(os.memfd_create(FILE), "wb") as file:
        file.write(content)
        file.flush()
        return served_with(Path(f"/proc/self/fd/{file.fileno()}"))[0]
