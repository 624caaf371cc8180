import numpy as np
import pytest
from crowdlearn_device.errors import WireError
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.fields import counted
from crowdlearn_device.protocol.frames import (
    MAX_FRAME,
    Address,
    address_of,
    decode_frame,
    decode_tensor,
    encode_frame,
    encode_tensor,
)
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

FLOATS = st.floats(-1e4, 1e4, width=32)
ARRAYS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=4, max_side=5), elements=FLOATS)


@given(ARRAYS)
def test_float32_tensors_come_back_exactly(values):
    np.testing.assert_array_equal(decode_tensor(encode_tensor(values)), values)


@given(ARRAYS, st.integers(0, 1000))
@example(np.array([1e-42, -1e-43], np.float32), 0)
def test_int8_tensors_come_back_within_one_step(values, seed):
    tensor = encode_tensor(values, pb.INT8, np.random.default_rng(seed))
    assert len(tensor.data) == values.size
    step = np.abs(values).max(initial=0) / 127
    assert np.abs(decode_tensor(tensor) - values).max(initial=0) <= step * (1 + 1e-5) + 1e-30


def test_int8_rounding_is_right_on_average():
    rng = np.random.default_rng(0)
    values = np.array([1.0, 0.3, -0.7], np.float32)
    mean = np.mean([decode_tensor(encode_tensor(values, pb.INT8, rng)) for _ in range(3000)], axis=0)
    np.testing.assert_allclose(mean, values, atol=5e-4)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_refused(data):
    try:
        frame = decode_frame(data)
    except WireError:
        return
    assert frame.WhichOneof("body")


@pytest.mark.parametrize("number", [-1, 99])
@pytest.mark.parametrize(("kind", "word"), [("fault", "kind"), ("share", "values")])
def test_a_word_that_is_not_in_the_protocol_is_refused(kind, word, number):
    frame = pb.Frame()
    setattr(getattr(frame, kind), word, number)
    with pytest.raises(WireError, match=f"{kind} of unknown {word} {number}; update the older side"):
        decode_frame(frame.SerializeToString())


@pytest.mark.parametrize(
    "tensor",
    [
        pb.Tensor(dtype=pb.FLOAT32, shape=[3], data=b"\0" * 8),
        pb.Tensor(dtype=pb.FLOAT32, shape=[1 << 31, 1 << 31], data=b""),
        pb.Tensor(dtype=pb.FLOAT32, shape=[1] * 5, data=b"\0" * 4),
        pb.Tensor(dtype=pb.FLOAT32, shape=[1], data=np.float32(np.nan).tobytes()),
        pb.Tensor(dtype=pb.INT8, shape=[1], data=b"\1", scale=float("inf")),
        pb.Tensor(dtype=pb.INT8, shape=[1], data=b"\1", scale=float("nan")),
        pb.Tensor(dtype=pb.INT8, shape=[2], data=b"\x7f\x80", scale=3e38),
        pb.Tensor(dtype=pb.INT8, shape=[1], data=b"\x80", scale=2.0**121),
    ],
)
def test_tensors_that_lie_are_refused(tensor):
    with pytest.raises(WireError):
        decode_tensor(tensor)


@pytest.mark.parametrize("dtype", [pb.FLOAT32, pb.FLOAT16, pb.INT8])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_not_sent(dtype, value):
    values = np.array([0.001, 0.25, value, -0.4], np.float32)
    with pytest.raises(WireError, match="training has diverged; lower"):
        encode_tensor(values, dtype, np.random.default_rng(0))


@pytest.mark.parametrize("dtype", [pb.FLOAT32, pb.FLOAT16, pb.INT8])
@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
@example(float(np.finfo(np.float32).max))
@example(float(np.finfo(np.float32).max) * 127 / 128)
@example(65504.0)
@example(65519.0)
def test_what_is_sent_is_received(dtype, value):
    try:
        tensor = encode_tensor(np.array([value], np.float32), dtype)
    except WireError:
        assert abs(value) > 65504
        return
    assert np.isfinite(decode_tensor(tensor)).all()


def test_a_tensor_of_another_shape_than_due_is_refused():
    with pytest.raises(WireError, match=r"\(2, 3\) was due"):
        decode_tensor(encode_tensor(np.zeros((3, 2), np.float32)), (2, 3))


def test_a_frame_that_is_too_large_is_refused_before_it_is_parsed():
    with pytest.raises(WireError, match="at most"):
        decode_frame(bytes(MAX_FRAME + 1))


@given(
    st.builds(
        pb.Envelope,
        generation=st.integers(0, (1 << 32) - 1),
        sender=st.integers(0, (1 << 32) - 1),
        receiver=st.integers(0, 300),
        sequence=st.integers(0, (1 << 32) - 1),
        purpose=st.sampled_from(pb.Purpose.values()),
        sealed=st.binary(max_size=300),
        express=st.booleans(),
        more=st.integers(0, 255),
    )
)
def test_an_envelope_travels_whole_and_its_address_is_read_without_it(envelope):
    data = encode_frame(pb.Frame(envelope=envelope))
    assert decode_frame(data) == pb.Frame(envelope=envelope)
    assert address_of(data) == tuple(getattr(envelope, name) for name in Address._fields)


@given(st.binary(max_size=40), st.integers(0, 40), st.integers(0, 255))
def test_what_has_an_address_is_an_envelope_that_decodes_to_it(noise, at, byte):
    whole = pb.Frame(envelope=pb.Envelope(generation=300, sender=1, receiver=2, sealed=noise, express=True))
    damaged = bytearray(encode_frame(whole))
    damaged[at % len(damaged)] = byte
    for data in (bytes(damaged), bytes(damaged[:at]), noise, b"\0" + noise):
        if (address := address_of(data)) is not None:
            envelope = decode_frame(data).envelope
            assert address == tuple(getattr(envelope, name) for name in Address._fields)
        elif data[:1] == b"\0":
            with pytest.raises(WireError, match="header"):
                decode_frame(data)


def test_an_envelope_has_one_form():
    with pytest.raises(WireError, match="header of its own"):
        decode_frame(pb.Frame(envelope=pb.Envelope(sealed=b"x")).SerializeToString())


def wide(inner: bytes) -> bytes:
    """Return a frame with a list of stretches, each an object, that takes little more than `inner`."""
    for number in (6, 2, 28):  # SumOwner in SumBegin, in SumStep, in Frame
        size, inner = len(inner), inner
        prefix = bytearray()
        for value in (number << 3 | 2, size):
            while value > 127:
                prefix.append(value & 127 | 128)
                value >>= 7
            prefix.append(value)
        inner = bytes(prefix) + inner
    return inner


@pytest.mark.parametrize(
    "before", [b"", b"\x53\x54", b"\x0a\x00"], ids=["alone", "after a group", "after a peer"]
)
def test_a_frame_of_too_many_fields_is_refused_before_they_are_objects(before):
    with pytest.raises(WireError, match="more than 1048576 fields"):
        decode_frame(wide(before + b"\x12\x00" * (4 << 20)))


def test_what_is_large_by_its_bytes_passes():
    stretches = [pb.Range(start=n, stop=n + 1) for n in range(200_000)]
    step = pb.SumStep(attempt=bytes(16))
    step.begin.owners.add().stretches.extend(stretches)
    frames = [pb.Frame(sum_step=step), pb.Frame(shared=pb.Shared(update=b"\x12\x00" * (4 << 20)))]
    part = pb.StatePart(arrays=[pb.NamedTensor(name="value/x", values=pb.Tensor(data=bytes(8 << 20)))])
    frames.append(pb.Frame(global_state=pb.GlobalState(part=part)))
    for frame in frames:
        data = frame.SerializeToString()
        assert len(data) > 1 << 20
        assert decode_frame(data) == frame


@given(
    st.lists(st.integers(0, 300)),
    st.binary(max_size=40),
    st.lists(st.tuples(st.text(max_size=5), st.floats(0, 9))),
)
def test_no_object_of_a_message_goes_uncounted(numbers, content, options):
    training = pb.Training(
        augment=[pb.Augmentation(kind="flip", options=dict(options))], maps=[pb.LinearMap(kernel=numbers)]
    )
    frame = pb.Frame(assign=pb.Assign(training=training, heirs=numbers, keep_program="x"))
    frame.assign.peers.extend(pb.Peer(device=n, identity=content) for n in numbers)
    data = frame.SerializeToString()
    objects = 3 + 2 + 3 * len(numbers) + len(dict(options))
    assert counted(pb.Frame.DESCRIPTOR, data) >= objects
