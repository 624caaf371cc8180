"""Devices arrive at a service by TLS, wait, and are sent to a run or home for a while."""

import asyncio
import random
from contextlib import AsyncExitStack, asynccontextmanager

import numpy as np
import pytest
from crowdlearn_device.errors import JoinError
from crowdlearn_device.member.events import Received
from crowdlearn_device.member.handlers.table import handle
from crowdlearn_device.platform.battery import DeviceState
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.transport.join import join_host
from crowdlearn_host.devices.joining.certificate import certificate
from crowdlearn_host.devices.joining.enrolment import Enrolment
from crowdlearn_host.service.pace import Pace
from crowdlearn_host.service.reception import Reception


class Known:
    """A device that is as it is told to be."""

    def __init__(self, state: DeviceState) -> None:
        self._state = state

    def state(self) -> DeviceState:
        return self._state

    def low(self) -> str:
        return ""


class Crowd:
    """Devices that dial a reception at `port`, and what its pace said."""

    def __init__(self, tmp_path, most=10) -> None:
        self.home, self.changes = tmp_path, asyncio.Event()
        self.reception = Reception(tmp_path, Pace(random.Random(0)), self.changes.set, most)
        self.data = tmp_path / "data"
        self.data.mkdir()
        np.savez(self.data / "train.npz", inputs=np.zeros((7, 4), np.float32), labels=np.zeros(7, np.int64))
        self.stopping = asyncio.Event()

    def device(self, name: str, url: str, state: DeviceState = DeviceState()) -> asyncio.Task[None]:
        token, (_, pin) = Enrolment(self.home).enrol(name), certificate(self.home)
        joining = join_host(self.home / name, self.data, name, url, token, pin, self.stopping, Known(state))
        return asyncio.create_task(joining)

    async def until(self, met) -> None:
        async with asyncio.timeout(30):
            while not met():
                self.changes.clear()
                await self.changes.wait()


@asynccontextmanager
async def a_crowd(tmp_path, most=10):
    crowd = Crowd(tmp_path, most)
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(crowd.reception.open("127.0.0.1:0"))
        yield crowd, f"wss://127.0.0.1:{port}"
        crowd.stopping.set()


async def test_a_device_waits_with_what_it_tells_of_itself(tmp_path):
    told = DeviceState(thermal=1, percent=42, charging=False, metered=True, in_use=True)
    async with a_crowd(tmp_path) as (crowd, url):
        device = crowd.device("phone-1", url, told)
        await crowd.until(lambda: "phone-1" in crowd.reception.waiting)
        visitor = crowd.reception.here("phone-1")
        assert (visitor.samples, visitor.state) == (7, told)
        crowd.stopping.set()
        await asyncio.wait_for(device, 30)
        await crowd.until(lambda: not crowd.reception.waiting)


async def test_a_device_that_is_not_enrolled_is_refused_in_words(tmp_path):
    async with a_crowd(tmp_path) as (crowd, url):
        _, pin = certificate(tmp_path)
        with pytest.raises(JoinError, match="not enrolled"):
            await join_host(tmp_path / "x", crowd.data, "stranger", url, "guess", pin)
        assert crowd.reception.refused == 1
        assert not crowd.reception.waiting


async def test_a_device_is_sent_to_a_run_at_another_port(tmp_path):
    async with a_crowd(tmp_path) as (crowd, url):
        other = Reception(tmp_path, Pace(random.Random(0)), crowd.changes.set)
        async with other.open("127.0.0.1:0") as port:
            device = crowd.device("phone-1", url)
            await crowd.until(lambda: "phone-1" in crowd.reception.waiting)
            await crowd.reception.waiting["phone-1"].go_to(port)
            await crowd.until(lambda: "phone-1" in other.waiting)
            assert not crowd.reception.waiting
            crowd.stopping.set()
            await asyncio.wait_for(device, 30)


@pytest.mark.parametrize(
    "frame", [pb.Frame(pong=pb.Pong()), pb.Frame(snapshot=pb.Snapshot(sealed=bytes(3 << 20)))]
)
async def test_a_device_that_sends_something_while_it_waits_is_hung_up_on(tmp_path, monkeypatch, frame):
    """Thousands could have had the host hold 64 MB each."""

    def also_sends(member, event):
        yield from handle(member, event)
        if isinstance(event, Received) and event.frame.HasField("challenge"):
            yield frame

    monkeypatch.setattr("crowdlearn_device.transport.driver.handle", also_sends)
    async with a_crowd(tmp_path) as (crowd, url):
        waited: list[list[str]] = []

        def changed() -> None:
            waited.append(list(crowd.reception.waiting))
            crowd.changes.set()

        crowd.reception._on_change = changed
        device = crowd.device("phone-1", url)
        await crowd.until(lambda: waited[:2] == [["phone-1"], []])
        crowd.stopping.set()
        await asyncio.wait_for(device, 30)


async def test_a_device_is_sent_on_twice_in_a_row_and_not_for_ever(tmp_path, monkeypatch):
    """By a service to a run, and by that to a relay; then it comes back."""
    monkeypatch.setattr("crowdlearn_device.transport.join.FIRST_RETRY", 0.01)
    async with a_crowd(tmp_path) as (crowd, url), AsyncExitStack() as stack:
        others = [Reception(tmp_path, Pace(random.Random(0)), crowd.changes.set) for _ in range(3)]
        ports = [await stack.enter_async_context(each.open("127.0.0.1:0")) for each in others]
        device = crowd.device("phone-1", url)
        for here, port in zip((crowd.reception, *others), ports, strict=False):
            await crowd.until(lambda here=here: here.here("phone-1"))
            await here.here("phone-1").go_to(port)
        await crowd.until(lambda: crowd.reception.here("phone-1"))
        assert not others[2].waiting
        crowd.stopping.set()
        await asyncio.wait_for(device, 30)


async def test_where_there_is_no_place_a_device_is_told_when_to_come_again(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "crowdlearn")
    async with a_crowd(tmp_path, most=1) as (crowd, url):
        monkeypatch.setattr(Pace, "again", lambda self: 0.01)
        first = crowd.device("phone-1", url)
        await crowd.until(lambda: "phone-1" in crowd.reception.waiting)
        second = crowd.device("phone-2", url)
        async with asyncio.timeout(30):
            while caplog.text.count("no place at") < 2:  # it has come again
                await asyncio.sleep(0.01)
        crowd.reception.waiting["phone-1"].hang_up()
        first.cancel()
        await crowd.until(lambda: "phone-2" in crowd.reception.waiting)
        crowd.stopping.set()
        await asyncio.wait_for(second, 30)


async def test_a_device_of_a_run_has_a_place_also_if_all_are_taken(tmp_path):
    """It was sent away for half a minute, and its run waited."""
    async with a_crowd(tmp_path, most=1) as (crowd, url):
        crowd.reception._belongs = {"phone-2"}.__contains__
        devices = [crowd.device("phone-1", url)]
        await crowd.until(lambda: "phone-1" in crowd.reception.waiting)
        devices.append(crowd.device("phone-2", url))
        await crowd.until(lambda: "phone-2" in crowd.reception.waiting)
        crowd.stopping.set()
        await asyncio.wait(devices, timeout=30)


async def test_a_device_that_is_enrolled_no_more_is_hung_up_on(tmp_path):
    async with a_crowd(tmp_path) as (crowd, url):
        device = crowd.device("phone-1", url)
        await crowd.until(lambda: "phone-1" in crowd.reception.waiting)
        crowd.reception.check_enrolled()
        assert crowd.reception.here("phone-1")
        Enrolment(tmp_path).revoke("phone-1")
        crowd.reception.check_enrolled()
        await crowd.until(lambda: not crowd.reception.waiting)
        with pytest.raises(JoinError, match="not enrolled"):
            await asyncio.wait_for(device, 30)
