"""An adb stream as a transport tells its protocol all that came, and its end, whenever they came."""

import asyncio
import socket

from crowdlearn_host.adb.carriers.joined import joined
from crowdlearn_host.adb.carriers.mux import Mux, Stream
from crowdlearn_host.adb.carriers.stream_transport import StreamTransport


class Heard(asyncio.Protocol):
    """Keeps what comes."""

    def __init__(self) -> None:
        self.data = b""
        self.lost = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


async def ended_stream() -> tuple[Stream, Mux, Mux]:
    """A stream on which the other end has said something, and which it has closed, and both ends."""

    async def speak(stream: Stream) -> None:
        stream.send(b"last words")
        stream.abort()

    host, phone = Mux(), Mux(find_service=lambda name: speak)
    near, far = socket.socketpair()
    for mux, sock in ((host, near), (phone, far)):
        sock.setblocking(False)
        await asyncio.get_running_loop().create_connection(lambda mux=mux: mux, sock=sock)
    stream = await host.open("any:")
    async with asyncio.timeout(60):
        while not stream._ended:
            await asyncio.sleep(0.01)
    return stream, host, phone


async def test_a_stream_that_ended_before_it_is_a_transport_has_its_last_words_and_its_end() -> None:
    stream, *ends = await ended_stream()
    heard, transport = Heard(), StreamTransport(stream)
    transport.set_protocol(heard)
    await asyncio.wait_for(heard.lost.wait(), 60)
    assert heard.data == b"last words"
    for mux in ends:
        await mux.close()


async def test_a_stream_that_ended_before_it_is_joined_to_a_socket_ends_that() -> None:
    stream, *ends = await ended_stream()
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    await asyncio.wait_for(joined(stream, near), 60)
    said = b""
    while part := await asyncio.get_running_loop().sock_recv(far, 100):
        said += part
    assert said == b"last words"
    far.close()
    for mux in ends:
        await mux.close()
