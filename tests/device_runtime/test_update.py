"""Updates come back as they were sent, in few bits, and a hostile one is refused before it costs anything."""

import struct
import tracemalloc
import zlib
from contextlib import suppress

import numpy as np
import pytest
from crowdlearn_device.errors import WireError
from crowdlearn_device.sharing.selection import select_top
from crowdlearn_device.sharing.update import HEADER, Limits, Update, chunks, decode_update, encode_update
from crowdlearn_device.sharing.update_indices import index_entropy
from crowdlearn_device.sharing.update_values import ValueType, as_decoded
from hypothesis import given
from hypothesis import strategies as st

MODEL = 5000
LIMITS = Limits(MODEL, MODEL)
finite = st.floats(-(2.0**14), 2.0**14, width=32)


@st.composite
def updates(draw: st.DrawFn) -> Update:
    """Index sets of every density and clustering, values of every size and sign."""
    density = draw(st.sampled_from([0.001, 0.03, 0.1, 0.3, 0.5, 0.8, 0.97, 1.0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    start, stop = sorted((draw(st.integers(0, MODEL)), draw(st.integers(0, MODEL))))
    chosen = rng.random(stop - start) < density
    if draw(st.booleans()):
        chosen.sort()
    indices = (start + np.flatnonzero(chosen)).astype(np.uint32)
    values = rng.standard_normal(len(indices)) * draw(st.sampled_from([0.0, 1e-6, 0.05, 1000.0]))
    values[: min(3, len(values))] = draw(st.lists(finite, min_size=3, max_size=3))[: len(values)]
    return Update(
        draw(st.integers(0, 2**32 - 1)), draw(st.integers(0, 2**32 - 1)), indices, values.astype(np.float32)
    )


@given(updates())
def test_float32_updates_come_back_exactly(update: Update) -> None:
    back = decode_update(encode_update(update), LIMITS)
    assert (back.owner, back.round) == (update.owner, update.round)
    np.testing.assert_array_equal(back.indices, update.indices)
    np.testing.assert_array_equal(back.values, update.values)
    assert (back.indices.dtype, back.values.dtype) == (np.uint32, np.float32)


@given(updates())
def test_shorter_values_come_back_as_rounded(update: Update) -> None:
    half = decode_update(encode_update(update, ValueType.FLOAT16), LIMITS)
    np.testing.assert_array_equal(half.values, update.values.astype(np.float16))
    byte = decode_update(encode_update(update, ValueType.INT8), LIMITS)
    np.testing.assert_array_equal(byte.indices, update.indices)
    step = np.abs(update.values).max(initial=0) / 127
    assert np.abs(byte.values - update.values).max(initial=0) <= step * 0.5001 + 1e-36


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_whatever_is_encoded_is_decoded(values: list[float]) -> None:
    update = Update(0, 0, np.arange(len(values), dtype=np.uint32), np.array(values, np.float32))
    for value_type in ValueType:
        with suppress(ValueError):
            assert len(decode_update(encode_update(update, value_type), LIMITS).values) == len(values)


@pytest.mark.parametrize("largest", [np.finfo(np.float32).max, np.nextafter(np.finfo(np.float32).max, 0)])
def test_int8_carries_the_largest_values_there_are(largest: np.float32) -> None:
    update = Update(0, 0, np.arange(2, dtype=np.uint32), np.array([largest, -largest / 2], np.float32))
    back = decode_update(encode_update(update, ValueType.INT8), LIMITS)
    np.testing.assert_allclose(back.values.astype(np.float64), update.values, rtol=0.01)


@given(updates(), st.sampled_from(ValueType))
def test_values_as_decoded_are_those_that_decoding_gives(update: Update, value_type: ValueType) -> None:
    back = decode_update(encode_update(update, value_type), LIMITS)
    assert as_decoded(update.values, value_type).tobytes() == back.values.tobytes()


@pytest.mark.parametrize(
    ("value", "value_type"),
    [
        (np.inf, ValueType.FLOAT32),
        (1e6, ValueType.FLOAT16),
        (np.nan, ValueType.INT8),
    ],
)
def test_values_that_no_receiver_takes_have_no_decoded_form(value: float, value_type: ValueType) -> None:
    with pytest.raises(ValueError, match="not finite"):
        as_decoded(np.array([value], np.float32), value_type)


@given(updates(), st.sampled_from(ValueType))
def test_an_encoded_update_stays_within_what_receivers_allow(update: Update, value_type: ValueType) -> None:
    assert len(encode_update(update, value_type)) <= Limits(MODEL, max(1, len(update))).max_bytes


@given(updates(), st.integers(1, 700))
def test_chunks_together_are_the_update(update: Update, size: int) -> None:
    parts = [decode_update(encode_update(part), Limits(MODEL, size)) for part in chunks(update, size)]
    assert np.array_equal(np.concatenate([p.indices for p in parts] or [[]]), update.indices)
    assert np.array_equal(np.concatenate([p.values for p in parts] or [[]]), update.values)
    assert all(len(part) <= size and part.round == update.round for part in parts)


@pytest.mark.parametrize("value_type", ValueType)
@pytest.mark.parametrize("theta", [0.001, 0.01, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9, 0.99, 1])
def test_an_update_needs_at_most_a_tenth_over_the_entropy_of_its_indices(
    theta: float, value_type: ValueType
) -> None:
    rng = np.random.default_rng(7)
    size = 400_000
    indices = select_top(rng.random(size), theta).astype(np.uint32)
    # Values without any redundancy, so that the index set cannot hide behind their compression.
    values = rng.integers(-(2**30), 2**30, len(indices), np.int32).astype(np.float32)
    if value_type is ValueType.FLOAT16:
        values = rng.integers(0, 2**15 - 2**10, len(indices), np.uint16).view(np.float16).astype(np.float32)
    bits = 8 * len(encode_update(Update(0, 0, indices, values), value_type))
    assert bits <= 1.1 * (index_entropy(size, len(indices)) + value_type.bits * len(indices))


@given(st.lists(st.floats(0, 10, width=32) | st.just(float("inf")), max_size=60), st.floats(0, 1))
def test_selection_takes_the_largest_and_the_lower_position_among_equals(
    sums: list[float], theta: float
) -> None:
    chosen = select_top(np.array(sums, np.float32), theta)
    ranked = sorted(range(len(sums)), key=lambda i: (-sums[i], i))
    assert chosen.tolist() == sorted(ranked[: int(theta * len(sums) + 0.5)])


def test_selection_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        select_top(np.zeros(3), 1.5)
    with pytest.raises(ValueError, match="NaN"):
        select_top(np.array([0.0, np.nan]), 0.5)


@pytest.mark.parametrize(
    ("indices", "values", "value_type", "reason"),
    [
        ([1, 1], [0, 0], ValueType.FLOAT32, "strictly"),
        ([2, 1], [0, 0], ValueType.FLOAT32, "strictly"),
        ([1, 2], [0], ValueType.FLOAT32, "one value an index"),
        ([1], [np.inf], ValueType.FLOAT32, "not finite"),
        ([1], [np.nan], ValueType.INT8, "not finite"),
        ([1], [1e6], ValueType.FLOAT16, "float16"),
    ],
)
def test_a_malformed_update_is_not_encoded(
    indices: list[int], values: list[float], value_type: ValueType, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        encode_update(Update(0, 0, np.array(indices, np.uint32), np.array(values, np.float32)), value_type)


FIELDS = (
    *("version", "type", "kind", "shift", "owner", "round"),
    *("count", "first", "span", "raw", "packed", "valued"),
)


def header(**changed: int) -> bytes:
    """An update of weights 3 to 6, with fields of its header changed."""
    update = Update(1, 2, np.arange(3, 7, dtype=np.uint32), np.arange(4, dtype=np.float32))
    data = encode_update(update)
    fields = dict(zip(FIELDS, HEADER.unpack_from(data), strict=True)) | changed
    return HEADER.pack(*fields.values()) + data[HEADER.size :]


@pytest.mark.parametrize(
    "changed",
    [
        {"version": 2},
        {"type": 3},
        {"type": 1},
        {"kind": 4},
        {"kind": 1},
        {"kind": 2},
        {"shift": 32},
        {"count": MODEL + 1},
        {"count": 3},
        {"count": 0},
        {"span": 5},
        {"span": 0},
        {"first": MODEL - 3},
        {"first": 2**32 - 1},
        {"raw": 5},
        {"raw": 2**32 - 1},
        {"packed": 1},
        {"valued": 0},
    ],
    ids=str,
)
def test_a_header_that_lies_is_refused(changed: dict[str, int]) -> None:
    assert len(decode_update(header(), LIMITS)) == 4
    with pytest.raises(WireError):
        decode_update(header(**changed), LIMITS)


def test_values_that_are_not_finite_are_refused() -> None:
    update = Update(1, 2, np.arange(4, dtype=np.uint32), np.ones(4, np.float32))
    body = struct.pack("<I", 4)
    data = bytearray(encode_update(update))
    assert data[-8:-4] == body
    data[-4:] = b"\x7f" * 4
    data[HEADER.size : -8] = b"\xff" * (len(data) - HEADER.size - 8)
    with pytest.raises(WireError, match="not finite"):
        decode_update(bytes(data), LIMITS)


def test_what_would_unpack_to_more_than_it_claims_is_not_unpacked() -> None:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = deflate.compress(bytes(64 << 20)) + deflate.flush()
    limits = Limits(1 << 20, 1 << 16)
    fields = {"version": 1, "type": 0, "kind": 1, "shift": 0, "owner": 1, "round": 2, "count": 8}
    fields |= {"first": 0, "span": 8, "raw": 1, "packed": len(bomb), "valued": 0}
    data = HEADER.pack(*(fields[name] for name in FIELDS)) + bomb
    assert len(data) < limits.max_bytes
    tracemalloc.start()
    with pytest.raises(WireError, match="other than the 1 bytes that it claims"):
        decode_update(data, limits)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


@given(updates(), st.sampled_from(ValueType), st.data())
def test_damage_gives_a_refusal_or_a_well_formed_update(
    update: Update, value_type: ValueType, data: st.DataObject
) -> None:
    encoded = bytearray(encode_update(update, value_type))
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    encoded = encoded[: data.draw(st.integers(0, len(encoded)) | st.just(len(encoded)))]
    with suppress(WireError):
        back = decode_update(bytes(encoded), LIMITS)
        assert np.isfinite(back.values).all()
        assert len(back.indices) == len(back.values) <= LIMITS.max_weights
        assert (np.diff(back.indices.astype(np.int64)) > 0).all()
        assert back.indices.max(initial=0) < MODEL


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(WireError):
        decode_update(noise, LIMITS)
