"""What the server holds opens for nobody but the devices; what it alters, repeats or misattributes
is refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from crowdlearn_device.errors import EnvelopeError
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import decode_frame, encode_frame
from crowdlearn_device.security.envelope import Channel
from crowdlearn_device.security.identity import Identity
from crowdlearn_device.security.snapshot import SnapshotOpener, unwrapped
from crowdlearn_host.coordinator.hub.server import Server
from crowdlearn_host.coordinator.storage.run_folder import RunFolder
from crowdlearn_host.coordinator.storage.snapshots import Snapshots
from crowdlearn_host.spec.run_spec import RunSpec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from .sockets import Events, train_on_sockets

pytestmark = pytest.mark.system
DEVICES = 3
Tamper = Callable[[pb.Envelope], list[pb.Envelope]]


class TamperingServer(Server):
    """A server that does something to one activation on its way."""

    tamper: Tamper | None = None
    seen: list[pb.Envelope]

    def take(self, attached: Any, data: bytes) -> Awaitable[None] | None:
        frame = decode_frame(data)
        if frame.HasField("envelope"):
            self.seen.append(frame.envelope)
            if (
                self.tamper is not None
                and frame.envelope.purpose == pb.PURPOSE_ACTIVATION
                and self.groups[0].boundary > 2
            ):
                tamper, self.tamper = self.tamper, None
                for envelope in tamper(frame.envelope):
                    self._attached[envelope.receiver].stream.put(encode_frame(pb.Frame(envelope=envelope)))
                return None
        return super().take(attached, data)


async def train_tampered(folder: Path, tamper: Tamper | None) -> tuple[TamperingServer, Events]:
    """Train on three real device runtimes, reached over TCP, through a server that tampers once."""
    config = RunSpec.model_validate(
        {
            "data": "digits",
            "model": "mlp:64-16-8-10",
            "training": {
                "epochs": 1,
                "batch": 64,
                "snapshot_every": 2,
                "wire": "float32",
                "kernels": "by_size",
            },
            "privacy": {"heirs": "all"},  # there is no spare
        }
    )

    def make(**fields: Any) -> TamperingServer:
        server = TamperingServer(**fields)
        server.tamper, server.seen = tamper, []
        return server

    server, events = await train_on_sockets(folder, config, DEVICES, make)
    assert isinstance(server, TamperingServer)
    return server, events


def flipped(envelope: pb.Envelope) -> list[pb.Envelope]:
    envelope.sealed = bytes([envelope.sealed[0] ^ 1]) + envelope.sealed[1:]
    return [envelope]


def replayed(envelope: pb.Envelope) -> list[pb.Envelope]:
    return [envelope, envelope]


def misattributed(envelope: pb.Envelope) -> list[pb.Envelope]:
    envelope.sender = next(d for d in range(DEVICES) if d not in (envelope.sender, envelope.receiver))
    return [envelope]


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (flipped, "altered or not from that device"),
        (replayed, "replayed envelope"),
        (misattributed, "device"),
    ],
)
async def test_tampering_is_refused_and_training_goes_on(tamper, said, tmp_path):
    server, events = await train_tampered(tmp_path, tamper)
    faults = [fields for event, fields in events if event == "fault"]
    assert [fault["kind"] for fault in faults] == ["FAULT_ENVELOPE"]
    assert said in faults[0]["reason"]
    assert server.groups[0].phase == "done"
    assert server.groups[0].schedule.epoch == 1


async def test_what_the_server_holds_opens_for_no_other_key(tmp_path):
    server, events = await train_tampered(tmp_path, None)
    assert not [event for event, _ in events if event == "fault"]
    with RunFolder(tmp_path / "run", create=False) as folder:
        run = f"run/{folder.id.hex()}"
    stranger = Identity.generate()
    public = {device.number: device.identity for device in server.groups[0].devices.values()}
    assert {envelope.purpose for envelope in server.seen} >= {
        pb.PURPOSE_ACTIVATION,
        pb.PURPOSE_ERROR,
        pb.PURPOSE_SHUFFLE,
    }
    for envelope in server.seen[:50]:
        ephemeral = X25519PrivateKey.generate()
        channel = Channel(
            *(run, envelope.generation, envelope.receiver, stranger, ephemeral),
            *(envelope.sender, public[envelope.sender], ephemeral.public_key().public_bytes_raw()),
        )
        channel._received[envelope.express] = envelope.sequence
        with pytest.raises(EnvelopeError, match="altered or not from"):
            channel.open(envelope)
    snapshots = list((tmp_path / "run" / "snapshots").glob("*.sealed"))
    assert snapshots
    for path in snapshots:
        first = next(Snapshots(path.parent).load(*map(int, path.stem.split("-"))))
        heirs = {key.device for key in first.keys}
        assert heirs
        for heir in heirs:
            own = Identity.load(tmp_path / f"device-{heir}" / "identity.key")
            _, key = unwrapped(run, heir, own, public[first.sender], first)
            assert SnapshotOpener(run, key).open(first)
            with pytest.raises(EnvelopeError, match="altered"):
                unwrapped(run, heir, stranger, public[first.sender], first)
