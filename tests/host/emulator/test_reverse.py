"""Ports that lead back to the computer can be led elsewhere, on the event loop that phones run on."""

import asyncio

from crowdlearn_host.adb.carriers.mux import Mux
from crowdlearn_host.common import event_loop
from crowdlearn_host.emulator.daemon.reverse import Reverse


class Answers:
    """A stream that keeps what is written."""

    def __init__(self) -> None:
        self.said: list[bytes] = []

    async def write(self, data: bytes) -> None:
        self.said.append(data)


def test_a_port_is_led_elsewhere_and_given_back() -> None:
    """The loop held the old socket for a moment longer, and the port was in use."""

    async def body() -> list[bytes]:
        reverse, answers = Reverse(Mux()), Answers()
        await reverse.serve(answers, "forward:tcp:0;tcp:1")  # type: ignore[arg-type]
        port = int(answers.said[0][8:])
        for request in (f"forward:tcp:{port};tcp:2", f"killforward:tcp:{port}", f"forward:tcp:{port};tcp:3"):
            await asyncio.sleep(0.01)  # it accepts
            await reverse.serve(answers, request)  # type: ignore[arg-type]
        reverse.close()
        return answers.said

    assert [said[:4] for said in event_loop.run(body())] == [b"OKAY"] * 4
