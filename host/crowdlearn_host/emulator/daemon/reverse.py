"""Ports of a virtual phone that lead back to the computer: `adb reverse`."""

import asyncio
import re
import socket
from contextlib import suppress

from crowdlearn_host.adb.carriers.joined import joined
from crowdlearn_host.adb.carriers.mux import Mux, Stream
from crowdlearn_host.errors import FleetError

_RULE = re.compile(r"forward:(?P<norebind>norebind:)?tcp:(?P<port>\d{1,5});(?P<target>[a-z]+:[\w.:/@-]+)")


class Reverse:
    """The rules of one connection; they end with it.

    A port is one of this computer's loopback interface, which all virtual phones share: two phones cannot
    reverse the same one, so ask for port 0.
    """

    def __init__(self, mux: Mux) -> None:
        self._mux = mux
        self._rules: dict[int, tuple[str, socket.socket, asyncio.Task[None]]] = {}

    async def serve(self, stream: Stream, request: str) -> None:
        """Answer a `reverse:` request."""
        if request == "list-forward":
            lines = "".join(f"host tcp:{port} {target}\n" for port, (target, _, _) in self._rules.items())
            await stream.write(_counted(lines))
            return
        try:
            await stream.write(b"OKAY" + await self._change(request))
        except (FleetError, OSError) as error:
            await stream.write(b"FAIL" + _counted(str(error)))

    def close(self) -> None:
        """End every rule."""
        for port in list(self._rules):
            self._remove(port)

    async def _change(self, request: str) -> bytes:
        if request == "killforward-all":
            for each in list(self._rules):
                await self._removed(each)
            return b""
        port = request.removeprefix("killforward:tcp:")
        if port != request:
            if not port.isdigit() or int(port) not in self._rules:
                raise FleetError(f"listener 'tcp:{port}' not found")
            await self._removed(int(port))
            return b""
        rule = _RULE.fullmatch(request)
        if rule is None or int(rule["port"]) > 65535:
            raise FleetError(f"cannot reverse {request!r}: only tcp ports of the phone can be")
        added = await self._add(int(rule["port"]), rule["target"], rebind=not rule["norebind"])
        return _counted(str(added))

    async def _add(self, port: int, target: str, *, rebind: bool) -> int:
        if port in self._rules:
            if not rebind:
                raise FleetError(f"cannot rebind existing socket tcp:{port}")
            await self._removed(port)
        listener = socket.create_server(("127.0.0.1", port))
        listener.setblocking(False)
        port = listener.getsockname()[1]
        task = asyncio.get_running_loop().create_task(self._accept(listener, target))
        self._rules[port] = (target, listener, task)
        return port

    def _remove(self, port: int) -> asyncio.Task[None]:
        _, listener, task = self._rules.pop(port)
        task.cancel()
        listener.close()
        return task

    async def _removed(self, port: int) -> None:
        """End a rule; its port is free when this returns: until the loop lets go of the socket it is not."""
        await asyncio.wait([self._remove(port)])

    async def _accept(self, listener: socket.socket, target: str) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as carrying:
            while True:
                sock, _ = await loop.sock_accept(listener)
                carrying.create_task(self._carry(sock, target))

    async def _carry(self, sock: socket.socket, target: str) -> None:
        try:
            stream = await self._mux.open(target)
        except BaseException as error:
            sock.close()
            if not isinstance(error, FleetError):
                raise
            return
        with suppress(OSError):  # of this connection alone: others are carried on
            await joined(stream, sock)


def _counted(text: str) -> bytes:
    encoded = text.encode()[:0xFFFF]
    return f"{len(encoded):04x}".encode() + encoded
