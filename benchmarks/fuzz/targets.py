"""What is fuzzed: each target accepts bytes or refuses them with a typed error, and must do nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from crowdlearn.errors import HostError
from crowdlearn_device.errors import DeviceError
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_device.program.isolation.isolated import RUN_SECONDS
from crowdlearn_device.program.manifest import ArraySpec, LayerSpec, Manifest, MethodSpec, Port
from crowdlearn_device.program.manifest_reader import read_manifest
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import decode_frame, decode_tensor, encode_frame, encode_tensor
from crowdlearn_device.sharing.update import Limits, Update, decode_update, encode_update
from crowdlearn_device.state.piece_state import PieceState
from crowdlearn_host.emulator.entrances import ENTRANCES

from benchmarks.fuzz import host, programs
from benchmarks.fuzz.opened import SEEDS, opened


@dataclass(frozen=True)
class Target:
    """`run` is fed with up to `max_bytes`; `seeds` are inputs to start from, or make them in a folder."""

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...] | Callable[[Path], tuple[bytes, ...]]
    max_bytes: int = 4096
    hang_seconds: int = 10


def seeds_of(target: Target, corpus: Path) -> tuple[bytes, ...]:
    """Return the inputs to start from; those that are made lie below the corpus."""
    return target.seeds(corpus / "programs") if callable(target.seeds) else target.seeds


def frame(data: bytes) -> None:
    """A protobuf frame and every tensor in it."""
    try:
        for tensor in _tensors(decode_frame(data)):
            decode_tensor(tensor)
    except DeviceError:
        return


def tensor(data: bytes) -> None:
    """One tensor message."""
    message = pb.Tensor()
    try:
        message.ParseFromString(data)
    except Exception as error:
        if type(error).__name__ != "DecodeError":
            raise
        return
    try:
        decode_tensor(message)
    except DeviceError:
        return


def update(data: bytes) -> None:
    """A message with shared weights."""
    try:
        decode_update(data, Limits(model_weights=10_000, max_weights=1000))
    except (DeviceError, HostError):
        return


def manifest(data: bytes) -> None:
    """A program's manifest."""
    try:
        read_manifest(data)
    except DeviceError:
        return


def state(data: bytes) -> None:
    """Stored state of a piece, as it is and with the hash that belongs to it."""
    for content in (data, data + hashlib.sha256(data).digest()):
        try:
            stored = PieceState.from_bytes(content)
        except DeviceError:
            continue
        for layer, (start, stop) in enumerate(stored.neurons):
            with suppress(DeviceError):
                list(stored.parts(layer, (start, min(stop, start + 8))))


def _tensors(message: Any) -> list[pb.Tensor]:
    found = []
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for child in value if not hasattr(value, "ListFields") else [value]:
            if isinstance(child, pb.Tensor):
                found.append(child)
            elif hasattr(child, "ListFields"):
                found += _tensors(child)
    return found


def _update_seed() -> bytes:
    indices = np.array([1, 5, 6, 900])
    return encode_update(Update(0, 0, indices, np.ones(4, np.float32)))


def _manifest_seed() -> bytes:
    return (
        Manifest(
            program="0" * 64,
            max_batch=4,
            optimizer=Sgd(momentum=0.9),
            layers=(LayerSpec(4, 2, (2,)), LayerSpec(3, 1, (1,))),
            edges=(),
            arrays=(ArraySpec("w", 0, (3,), trained=True),),
            methods=(MethodSpec("forward_0", (Port("sum", ("B", 2), layer=0),), ()),),
        )
        .to_json()
        .encode()
    )


def _frame_seeds() -> tuple[bytes, ...]:
    hello = pb.Frame(hello=pb.Hello(version=1, device="d"))
    share = pb.Frame(share=pb.Share())
    envelope = pb.Frame(envelope=pb.Envelope())
    return tuple(map(encode_frame, (hello, share, envelope)))


PTE_BYTES = 1 << 16
STATE = PieceState(((0, 1),), {0: {"w": np.ones((1, 2), np.float32)}})
TARGETS = {
    **{name: Target(*entrance) for name, entrance in ENTRANCES.items()},
    "frame": Target(frame, _frame_seeds()),
    "manifest": Target(manifest, (_manifest_seed(),)),
    "members": Target(host.members, host.MEMBERS),
    "opened": Target(opened, SEEDS),
    "program": Target(programs.run_apart, programs.seeds, PTE_BYTES, hang_seconds=2 * RUN_SECONDS),
    "program_verified": Target(programs.verified, programs.seeds, max_bytes=PTE_BYTES),
    "state": Target(state, (STATE.to_bytes(), STATE.to_bytes()[:-32])),
    "tensor": Target(tensor, (encode_tensor(np.ones((2, 3), np.float32)).SerializeToString(),)),
    "update": Target(update, (_update_seed(),)),
    "web_socket": Target(host.web_socket, host.SOCKETS),
}
