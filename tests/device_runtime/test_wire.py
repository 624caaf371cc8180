import numpy as np
import pytest
from crowdlearn_device import wire_pb2 as pb
from crowdlearn_device.errors import WireError
from crowdlearn_device.wire import MAX_FRAME, decode_frame, decode_tensor, encode_tensor
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


@pytest.mark.parametrize(
    "tensor",
    [
        pb.Tensor(dtype=pb.FLOAT32, shape=[3], data=b"\0" * 8),
        pb.Tensor(dtype=pb.FLOAT32, shape=[1 << 31, 1 << 31], data=b""),
        pb.Tensor(dtype=pb.FLOAT32, shape=[1] * 5, data=b"\0" * 4),
        pb.Tensor(dtype=pb.FLOAT32, shape=[1], data=np.float32(np.nan).tobytes()),
        pb.Tensor(dtype=pb.INT8, shape=[1], data=b"\1", scale=float("inf")),
    ],
)
def test_tensors_that_lie_are_refused(tensor):
    with pytest.raises(WireError):
        decode_tensor(tensor)


def test_a_tensor_of_another_shape_than_due_is_refused():
    with pytest.raises(WireError, match=r"\(2, 3\) was due"):
        decode_tensor(encode_tensor(np.zeros((3, 2), np.float32)), (2, 3))


def test_a_frame_that_is_too_large_is_refused_before_it_is_parsed():
    with pytest.raises(WireError, match="at most"):
        decode_frame(bytes(MAX_FRAME + 1))
