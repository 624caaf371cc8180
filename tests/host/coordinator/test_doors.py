"""One member, however often it fails or whatever it says, ends no run and fills no disk."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
from crowdlearn_device.errors import WireError
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import encode_frame
from crowdlearn_device.transport.large_message import LargeMessage
from crowdlearn_host.coordinator.group import effects as do
from crowdlearn_host.coordinator.group.events import Joined, Received
from crowdlearn_host.coordinator.group.faults import MAX_FAULTS, MAX_FAULTS_OF_DEVICE, contradiction
from crowdlearn_host.coordinator.group.group import Group
from crowdlearn_host.coordinator.group.handlers.table import handle
from crowdlearn_host.coordinator.group.restore_points import Device
from crowdlearn_host.coordinator.hub import large_messages
from crowdlearn_host.coordinator.hub.large_messages import MOST_FOR_HOST, LargeMessages
from crowdlearn_host.coordinator.hub.repeated import EACH, Repeated
from hypothesis import given
from hypothesis import strategies as st

from .crowd import TWO_PIECES, settings_for


def gathered(devices: int) -> Group:
    """A group that forms for the first time."""
    group = Group(settings_for(TWO_PIECES, devices))
    for number in range(devices):
        handle(group, Joined(Device(number, f"device-{number}", bytes([number]) * 32, 10)))
    assert group.phase == "forming"
    return group


def test_a_device_that_keeps_faulting_is_let_go_and_named_and_the_others_go_on() -> None:
    group = gathered(4)
    (bad, *_) = group.holders
    for _ in range(MAX_FAULTS_OF_DEVICE):
        assert group.phase != "stopped"
        fault = pb.Fault(generation=group.generation, kind=pb.FAULT_WIRE, reason="it says so")
        handle(group, Received(bad, pb.Frame(fault=fault)))
    assert group.phase == "forming"
    assert bad not in group.holders
    assert "faulted 4 times, at last: it says so" in group.attendance.unfit[bad]


def test_faults_of_different_devices_stop_a_group_that_gets_nowhere() -> None:
    group = gathered(4)
    for _ in range(MAX_FAULTS * 4):
        if group.phase == "stopped":
            break
        holder = group.holders[0]
        fault = pb.Fault(generation=group.generation, reason="all do")
        handle(group, Received(holder, pb.Frame(fault=fault)))
    assert (group.phase, group.reason) == ("stopped", f"device-{holder}: all do")
    assert len(group.attendance.unfit) == 2, "as many as the others can do without"


def test_a_snapshot_of_a_boundary_that_no_piece_can_be_at_is_not_taken() -> None:
    group = gathered(3)
    assert not group.takes_snapshot(group.boundary - 1)
    assert not group.takes_snapshot(group.pass_end + 1)
    assert not group.takes_snapshot(1 << 60)
    assert group.takes_snapshot(group.pass_end)


@given(st.integers(1, 100_000))
def test_what_a_device_repeats_is_counted_and_hardly_written(count: int) -> None:
    repeated = Repeated()
    told = [n for n in (repeated.times("fault", {"device": "a"}) for _ in range(count)) if n]
    assert len(told) <= EACH + 14
    assert told[:EACH] == [1] * min(EACH, count)
    assert told[EACH:] == [EACH * 2**k for k in range(1, len(told) - EACH + 1)]
    assert repeated.times("fault", {"device": "b"}) == 1
    assert all(repeated.times("progress", {"device": "a"}) for _ in range(100))


@pytest.mark.parametrize(
    ("kind", "untrue"),
    [
        (pb.FAULT_DATA, "only the dominator reads its samples"),
        (pb.FAULT_ENVELOPE, "no keys were exchanged"),
    ],
)
def test_a_device_that_says_what_cannot_be_true_is_let_go_at_once_and_named(
    kind: pb.FaultKind, untrue: str
) -> None:
    group = gathered(4)
    liar = next(device for device in group.holders if device != group.schedule.dominator)
    fault = pb.Fault(generation=group.generation, kind=kind, reason="so it says")
    effects = handle(group, Received(liar, pb.Frame(fault=fault)))
    assert untrue in group.attendance.unfit[liar]
    assert "so it says (which is not so" in group.attendance.unfit[liar]
    told = [e.fields for e in effects if isinstance(e, do.Record) and e.event == "fault"]
    assert told[-1]["contradicted"].startswith(untrue)
    assert group.phase == "forming"
    assert liar not in group.holders


def test_a_fault_that_may_be_true_costs_no_device_at_first() -> None:
    group = gathered(4)
    kinds = (pb.FAULT_DATA, group.schedule.dominator), (pb.FAULT_WIRE, group.holders[1])
    for kind, device in kinds:
        fault = pb.Fault(generation=group.generation, kind=kind, reason="maybe")
        handle(group, Received(device, pb.Frame(fault=fault)))
    assert not group.attendance.unfit


def test_a_program_that_others_run_is_not_damaged() -> None:
    of: dict[str, Any] = {"dominator": 0, "forming": None}
    fault = pb.Fault(generation=3, kind=pb.FAULT_PROGRAM)
    assert contradiction(fault, 1, runs_elsewhere=True, **of) == "another device runs the same program"
    assert contradiction(fault, 1, runs_elsewhere=False, **of) == ""
    fault.generation = 0
    assert contradiction(fault, 1, runs_elsewhere=True, **of) == ""


class Reader:
    """The stream to a receiver that reads or does not."""

    def __init__(self) -> None:
        self.has_room, self._roomy = True, asyncio.Event()
        self.queued, self.aborted = 0, False

    def abort(self) -> None:
        self.aborted = True

    async def room(self) -> None:
        await self._roomy.wait()

    def reads(self) -> None:
        self.has_room = True
        self._roomy.set()


def as_stream(reader: Reader) -> Any:
    return reader


def waits(room: Awaitable[None] | None) -> asyncio.Future[None]:
    assert room is not None
    return asyncio.ensure_future(room)


def large(receiver: int, size: int) -> LargeMessage:
    message = LargeMessage(size, b"")
    message.add(encode_frame(pb.Frame(envelope=pb.Envelope(receiver=receiver, sealed=b"x" * 64))))
    return message


async def test_large_messages_go_one_at_a_time_to_a_receiver_and_not_beyond_the_bound() -> None:
    hub, reader = LargeMessages(most=100_000), Reader()
    first, second = large(1, 40_000), large(1, 40_000)
    assert hub.admit(first, as_stream(reader)) is None
    waiting = waits(hub.admit(second, as_stream(reader)))
    await asyncio.sleep(0)
    assert not waiting.done(), "one at a time"
    other = large(2, 50_000)
    assert hub.admit(other, as_stream(Reader())) is None
    assert hub.bytes == 90_000
    third = waits(hub.admit(large(3, 40_000), as_stream(Reader())))
    await asyncio.sleep(0)
    assert not third.done(), "not beyond the bound"
    reader.has_room = False
    del first, other
    await asyncio.wait_for(third, 60)
    assert not waiting.done(), "the receiver does not read"
    reader.reads()
    await asyncio.wait_for(waiting, 60)


async def test_what_memory_may_not_hold_lies_on_disk_up_to_a_bound(tmp_path: Path) -> None:
    hub = LargeMessages(tmp_path, most=100_000, on_disk=100_000)
    messages = [large(receiver, 80_000) for receiver in range(2)]
    for message in messages:
        assert hub.admit(message, as_stream(Reader())) is None
    assert (hub.bytes, hub.bytes_on_disk) == (160_000, 80_000)
    waiting = waits(hub.admit(large(2, 80_000), as_stream(Reader())))
    await asyncio.sleep(0)
    assert not waiting.done(), "not beyond both bounds"
    del message, messages
    await asyncio.wait_for(waiting, 60)
    assert hub.bytes_on_disk == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("halts", ["sender", "receiver"])
async def test_a_message_that_halts_while_others_wait_for_its_room_is_given_up(
    halts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_messages, "PATIENCE", 0.1)
    hub, reader, given_up = LargeMessages(most=100_000), Reader(), asyncio.Event()
    halting = large(1, 80_000)
    halting.give_up = given_up.set
    assert hub.admit(halting, as_stream(reader)) is None
    if halts == "receiver":
        halting.add(bytes(80_000))
        content = halting.content()
        monkeypatch.setattr(reader, "abort", given_up.set)
    else:
        content = b""
    waiting = waits(hub.admit(large(2, 80_000), as_stream(Reader())))
    await asyncio.wait_for(given_up.wait(), 60)
    assert not waiting.done()
    del halting, content
    await asyncio.wait_for(waiting, 60)


def test_a_large_message_to_the_host_is_refused() -> None:
    message = LargeMessage(MOST_FOR_HOST + 1, b"")
    message.add(pb.Frame(fault=pb.Fault(generation=1, reason="x" * 100)).SerializeToString())
    with pytest.raises(WireError, match="to the host"):
        LargeMessages().admit(message, None)
