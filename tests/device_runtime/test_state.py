import hashlib
import json
import struct

import numpy as np
import pytest
from crowdlearn_device.errors import StateError, WireError
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_device.program.manifest import ArraySpec, LayerSpec, Manifest
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import encode_tensor
from crowdlearn_device.state.on_disk import StateStore, StoredState
from crowdlearn_device.state.piece_state import PartialState, PieceState
from hypothesis import given
from hypothesis import strategies as st

NEURONS = ((2, 5), (0, 0), (1, 2))
MANIFEST = Manifest(
    program="0" * 64,
    max_batch=8,
    optimizer=Sgd(momentum=0.9),
    layers=(LayerSpec(6, 3, ()), LayerSpec(3, 0, ()), LayerSpec(4, 1, ())),
    edges=(),
    arrays=(
        ArraySpec("w", 0, (3,), True),
        ArraySpec("mean", 0, (), False),
        ArraySpec("b", 2, (), True),
        ArraySpec("half", 0, (2,), False, frozen=True, dtype="float16"),
        ArraySpec("code", 2, (4,), False, frozen=True, dtype="int8"),
    ),
    methods=(),
)


def state(seed: int = 0) -> PieceState:
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.standard_normal(shape, np.float32)  # noqa: E731
    trained = lambda name, *shape: {  # noqa: E731
        f"{kind}/{name}": draw(*shape) for kind in ("value", "momentum", "gradient")
    }
    first = {**trained("w", 3, 3), "value/mean": draw(3), "value/half": np.float16(draw(3, 2))}
    codes = rng.integers(-127, 128, (1, 4), np.int8)
    return PieceState(NEURONS, {0: first, 2: {**trained("b", 1), "value/code": codes}})


def equal(a: PieceState | StoredState, b: PieceState) -> bool:
    pairs = [
        (a.layers[layer][name][:], x) for layer, arrays in b.layers.items() for name, x in arrays.items()
    ]
    return a.neurons == b.neurons and all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in pairs)


def test_a_state_comes_back_from_its_bytes():
    assert equal(PieceState.from_bytes(state().to_bytes()), state())


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_damaged_state_is_refused(position, flip):
    data = bytearray(state().to_bytes())
    data[position % len(data)] ^= flip
    with pytest.raises(StateError, match="damaged"):
        PieceState.from_bytes(bytes(data))


@given(st.binary(max_size=100))
def test_any_bytes_are_refused(data):
    with pytest.raises(StateError):
        PieceState.from_bytes(b"CLSTATE2" + data)


@given(st.integers(0, 10_000), st.integers(0, 255), st.integers(-40, 2))
def test_a_state_on_disk_is_taken_or_refused_as_its_bytes_are(tmp_path_factory, position, flip, longer):
    whole = bytearray(state().to_bytes())
    whole[position % len(whole)] ^= flip
    data = bytes(whole[: len(whole) + longer]).ljust(len(whole) + longer, b"x")
    path = tmp_path_factory.mktemp("state") / "a.state"
    path.write_bytes(data)
    if flip or longer:
        with pytest.raises(StateError, match="damaged"):
            StoredState.open(path)
    else:
        assert equal(StoredState.open(path), PieceState.from_bytes(data))


def test_a_state_on_disk_is_given_in_the_same_parts_as_one_in_memory(tmp_path):
    StateStore(tmp_path).save(1, 0, state())
    stored = StateStore(tmp_path).load(1, 0)
    for layer, neurons in ((0, (3, 5)), (0, (2, 5)), (2, (1, 2)), (1, (0, 0))):
        assert [*stored.parts(layer, neurons)] == [*state().parts(layer, neurons)]
    assert {n for x in stored.values_only().layers.values() for n in x} == {
        "value/w",
        "value/mean",
        "value/b",
        "value/half",
        "value/code",
    }
    with pytest.raises(StateError, match="asked for"):
        [*stored.parts(0, (1, 3))]


@pytest.mark.parametrize(
    ("neurons", "shape"),
    [([[0, 2]], []), ([[0, 2]], [1]), ([], [2]), ([[0, 1e400]], [2]), ([[0, 1 << 70]], [1 << 70])],
)
def test_a_sealed_state_whose_arrays_are_not_of_its_neurons_is_refused(tmp_path, neurons, shape):
    """Whoever sealed it also wrote the hash."""
    text = json.dumps({"neurons": neurons, "arrays": [[0, "value/w", shape, "float32"]]}).encode()
    content = b"CLSTATE2" + struct.pack("<I", len(text)) + text + bytes(8)
    whole = content + hashlib.sha256(content).digest()
    with pytest.raises(StateError, match="damaged"):
        PieceState.from_bytes(whole)
    (tmp_path / "a.state").write_bytes(whole)
    with pytest.raises(StateError, match="damaged"):
        StoredState.open(tmp_path / "a.state")


def test_a_state_moves_in_parts_of_any_order():
    partial = PartialState(MANIFEST, NEURONS, rank=True)
    whole = state()
    parts = [*whole.parts(2, (1, 2)), *whole.parts(0, (4, 5)), *whole.parts(0, (2, 4))]
    for part in parts:
        assert not partial.complete
        partial.add(pb.StatePart.FromString(part.SerializeToString()))
    assert equal(partial.finish(), whole)


@pytest.mark.parametrize("value", [0.5, 128.0, -3e38])
def test_codes_that_are_none_are_refused(value: float) -> None:
    partial = PartialState(MANIFEST, NEURONS, rank=True)
    (part,) = state().parts(2, (1, 2))
    (named,) = (each for each in part.arrays if each.name == "value/code")
    named.values.CopyFrom(encode_tensor(np.full((1, 4), value, np.float32)))
    with pytest.raises(WireError, match="value/code holds values that are no whole numbers"):
        partial.add(part)


def test_parts_that_are_not_due_are_refused():
    partial = PartialState(MANIFEST, NEURONS, rank=True)
    (part,) = state().parts(0, (2, 4))
    partial.add(part)
    with pytest.raises(WireError, match="twice"):
        partial.add(part)
    part.neurons.start, part.neurons.stop = 4, 6
    with pytest.raises(WireError, match="not due"):
        partial.add(part)
    part.layer = 1
    with pytest.raises(WireError, match="nothing"):
        partial.add(part)
    with pytest.raises(StateError):
        partial.finish()


def test_the_store_keeps_points_until_they_are_forgotten(tmp_path):
    store = StateStore(tmp_path)
    for point in ((1, 0), (1, 8), (2, 8)):
        store.save(*point, state(point[1]))
    assert equal(store.load(1, 8), state(8))
    (tmp_path / "00000003-000000000009.partial").write_bytes(b"half written")
    store = StateStore(tmp_path)
    assert store.points() == [(1, 0), (1, 8), (2, 8)]
    store.forget_before(2, 8)
    assert store.points() == [(2, 8)]
    with pytest.raises(StateError, match="boundary 8"):
        store.load(1, 8)


def test_what_training_does_not_need_is_not_kept_and_a_fresh_epoch_forgets_gradients():
    partial = PartialState(MANIFEST, NEURONS, rank=False)
    assert not any(name.startswith("gradient/") for name in partial._layers[0])
    partial = PartialState(MANIFEST, NEURONS, rank=True)
    for layer, neurons in ((0, (2, 5)), (2, (1, 2))):
        for part in state().parts(layer, neurons):
            partial.add(part)
    finished = partial.finish(fresh=True)
    assert not finished.layers[0]["gradient/w"].any()
    assert finished.layers[0]["momentum/w"].any()
