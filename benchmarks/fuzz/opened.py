"""What an authenticated peer may put into an envelope: anything. A device in the middle of a group takes it,
or refuses it with a typed error.

    data[0] % 7: the purpose    data[1] % 2: while it waits for its state, or trains    data[2:]: the content
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.errors import DataError, DeviceError
from crowdlearn_device.member.events import Event, Received, Turn
from crowdlearn_device.member.handlers.assigning import generation_of
from crowdlearn_device.member.handlers.table import EVENTS
from crowdlearn_device.member.member import Member
from crowdlearn_device.member.run import Run
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_device.program.executor import Executor
from crowdlearn_device.program.manifest import ArraySpec, EdgeSpec, LayerSpec, Manifest, MethodSpec, Port
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Array, encode_tensor
from crowdlearn_device.protocol.joint import joined
from crowdlearn_device.security.envelope import Channel
from crowdlearn_device.security.identity import Identity
from crowdlearn_device.state.on_disk import StateStore
from crowdlearn_device.state.piece_state import PieceState
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

ME, PEER, GENERATION = 1, 0, 6
WIDTH, ROWS, MICRO = 2, 3, 2
SUM, BACK = (Port(role, ("B", WIDTH), layer=1) for role in ("sum", "error"))
ONWARD, RETURNED = (Port(role, ("B", WIDTH), layer=2, edge=1) for role in ("sum", "error"))
BIAS, GRADIENT = (Port(role, (WIDTH,), name="bias", layer=1) for role in ("parameter", "gradient"))
MANIFEST = Manifest(
    program="0" * 64,
    max_batch=4,
    optimizer=Sgd(),
    layers=(LayerSpec(WIDTH, 0, ()), LayerSpec(WIDTH, WIDTH, ()), LayerSpec(WIDTH, 0, ())),
    edges=(EdgeSpec(0, 1), EdgeSpec(1, 2)),
    arrays=(ArraySpec("bias", 1, (), trained=True),),
    methods=(
        MethodSpec("forward_1", (SUM, BIAS), (ONWARD,)),
        MethodSpec("backward_1", (SUM, BIAS, RETURNED), (BACK, GRADIENT)),
    ),
)


class _Zeros:
    """An executor whose outputs are zero, of the shapes that the manifest tells."""

    def hold(self, arrays: Iterable[Array]) -> None:
        return

    def zeros(self, shape: Sequence[int], dtype: str = "float32") -> Array:
        return np.zeros(shape, dtype)

    def run(self, method: str, inputs: Sequence[Array], *, borrowed: bool = False) -> list[Array]:
        rows = inputs[0].shape[0]
        shapes = [
            tuple(rows if d == "B" else int(d) for d in p.shape) for p in MANIFEST.method(method).outputs
        ]
        return [np.zeros(shape, np.float32) for shape in shapes]


class _Programs:
    """One program, which every piece is run by."""

    def manifest(self, sha256: str) -> Manifest:
        return MANIFEST

    def executor(self, manifest: Manifest) -> Executor:
        return _Zeros()

    def files(self, sha256: str) -> dict[str, bytes]:
        return {}


class _Disk(StateStore):
    def save(self, generation: int, boundary: int, state: PieceState) -> None:
        return


class _Run(Run):
    """A run whose devices know each other, and whose disk keeps nothing."""

    known: Mapping[int, bytes]

    @cached_property
    def states(self) -> StateStore:
        return _Disk(self.folder)

    @property
    def identities(self) -> Mapping[int, bytes]:
        return self.known


def _no_data() -> Dataset:
    raise DataError("there is none here")


def opened(data: bytes) -> None:
    """One envelope of the peer."""
    if len(data) < 2:
        return
    with tempfile.TemporaryDirectory() as folder:
        channel, device = _beside_a_peer(Path(folder), trains=bool(data[1] % 2))
        purposes = pb.Purpose.values()
        purpose, more = purposes[data[0] % len(purposes)], data[0] // len(purposes)
        envelope = channel.seal(purpose, data[2:], more=more)
        try:
            _take(device, Received(pb.Frame(envelope=envelope)))
            while device.has_work:
                _take(device, Turn())
        except DeviceError:
            return


def _take(device: Member, event: Event) -> list[pb.Frame]:
    """Return what a device sends on an event. Raises what `handle` makes a fault of."""
    return list(EVENTS[type(event)](device, event))


def _beside_a_peer(folder: Path, *, trains: bool) -> tuple[Channel, Member]:
    """A peer's channel to a device that holds the middle layer, and that device."""
    mine, its, ephemeral = Identity.generate(), Identity.generate(), X25519PrivateKey.generate()
    device = Member("me", folder, mine, 0, _no_data, _Programs())
    device.run = run = _Run(folder, mine, "fuzzed", "1", ME)
    run.known = {ME: mine.public, PEER: its.public}
    whole, none = pb.Range(start=0, stop=WIDTH), pb.Range()
    assign = pb.Assign(
        generation=GENERATION,
        piece=1,
        pieces=[
            pb.PieceSpec(device=PEER, neurons=[whole, none, whole]),
            pb.PieceSpec(device=ME, neurons=[none, whole, none]),
        ],
        training=pb.Training(batch=ROWS, micro_batch=MICRO, in_flight=2, learning_rate=0.1),
        from_generation=GENERATION - 1,
        provided=[pb.PieceSpec(device=PEER, neurons=[none, whole, none])],
        pass_end=4,
    )
    device.generation = generation_of(device, run, assign)
    offer = pb.KeyOffer(device=PEER, ephemeral=ephemeral.public_key().public_bytes_raw())
    _take(device, Received(pb.Frame(keys=pb.Keys(generation=GENERATION, offers=[offer]))))
    own = device.generation.channels.public
    channel = Channel(run.full_name, GENERATION, PEER, its, ephemeral, ME, mine.public, own)
    if trains:
        _take(device, Received(pb.Frame(envelope=channel.seal(pb.PURPOSE_SHUFFLE, _state()))))
        _take(device, Received(pb.Frame(go=pb.Go(generation=GENERATION))))
    return channel, device


def _state() -> bytes:
    values = encode_tensor(np.ones(WIDTH, np.float32))
    part = pb.StatePart(layer=1, neurons=pb.Range(start=0, stop=WIDTH))
    part.arrays.add(name="value/bias", values=values)
    return part.SerializeToString()


def _sums(edge: int) -> bytes:
    values = encode_tensor(np.ones((MICRO, WIDTH), np.float32))
    return pb.Sums(micros=2, rows=ROWS, edge=edge, values=values).SerializeToString()


SEEDS = (
    bytes([pb.PURPOSE_SHUFFLE, 0]) + _state(),
    bytes([pb.PURPOSE_ACTIVATION, 1]) + _sums(0),
    bytes([pb.PURPOSE_ERROR, 1]) + _sums(1),
    bytes([pb.PURPOSE_CONTROL, 1]) + _sums(1),
    bytes([pb.PURPOSE_SHARING, 1]) + _sums(1),
    bytes([len(pb.Purpose.values()) + pb.PURPOSE_ACTIVATION, 1]) + joined([_sums(0), _sums(0)]),
)
