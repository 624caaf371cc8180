"""The window is exactly the last omega uploads of each weight, and a refused update leaves no trace."""

import numpy as np
import pytest
from crowdlearn_device.sharing.update import Update, chunks, encode_update
from crowdlearn_host.errors import UpdateRefused
from crowdlearn_host.methods.slicenet.round import SharingRound
from crowdlearn_host.methods.slicenet.window import Window
from hypothesis import given
from hypothesis import strategies as st

SIZE = 12


def update(weights: dict[int, float], owner: int = 0, round_: int = 0) -> Update:
    indices = np.array(sorted(weights), np.uint32)
    return Update(owner, round_, indices, np.array([weights[int(i)] for i in indices], np.float32))


weights = st.dictionaries(st.integers(0, SIZE - 1), st.floats(-100, 100, width=32))


@given(st.integers(1, 4), st.lists(weights, max_size=12), st.floats(0, 1))
def test_the_window_is_the_last_omega_uploads_of_each_weight(
    omega: int, uploads: list[dict[int, float]], tau: float
) -> None:
    initial = np.arange(SIZE, dtype=np.float32)
    window = Window(initial, omega)
    told: list[list[float]] = [[] for _ in range(SIZE)]
    for uploaded in uploads:
        window.apply(update(uploaded))
        for index, value in uploaded.items():
            told[index] = [*told[index], value][-omega:]
    expected = [np.mean(t, dtype=np.float64) if t else initial[i] for i, t in enumerate(told)]
    np.testing.assert_allclose(window.average(), expected, rtol=1e-6, atol=1e-5)
    assert window.counts.tolist() == [len(t) for t in told]
    indices, values = window.download(tau)
    assert indices.tolist() == [i for i, t in enumerate(told) if len(t) > omega * tau]
    np.testing.assert_array_equal(values, window.average()[indices])


def test_the_window_takes_the_memory_that_it_states() -> None:
    window = Window(np.zeros(1000, np.float32), 5)
    for _ in range(20):
        window.apply(Update(0, 0, np.arange(1000, dtype=np.uint32), np.ones(1000, np.float32)))
    window.average()
    assert sum(a.nbytes for a in vars(window).values() if isinstance(a, np.ndarray)) == window.nbytes


def test_a_window_restored_from_its_state_goes_on_as_before() -> None:
    window = Window(np.zeros(SIZE, np.float32), 2)
    for value in range(3):
        window.apply(update({0: value, value: 7}))
    restored = Window.from_state(window.state())
    for each in (window, restored):
        each.apply(update({0: 9, 5: 1}))
    np.testing.assert_array_equal(window.average(), restored.average())
    np.testing.assert_array_equal(window.counts, restored.counts)


def test_omega_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="omega"):
        Window(np.zeros(1, np.float32), 0)


@pytest.mark.parametrize("omega", [256, 70_000])
def test_no_omega_is_too_large(omega: int) -> None:
    window = Window(np.zeros(1, np.float32), omega)
    for value in range(omega + 2):
        window.apply(update({0: value}))
    assert window.counts.tolist() == [omega]
    assert window.average()[0] == np.float32((omega + 3) / 2)


@pytest.mark.parametrize("omega", [2, 3])
def test_nothing_is_left_of_an_upload_that_fell_out_however_large(omega: int) -> None:
    window = Window(np.zeros(SIZE, np.float32), omega)
    for value in [3e38, *[1e-3] * omega, 1e10, *[1e-9] * omega]:
        window.apply(update(dict.fromkeys(range(SIZE), value)))
    assert window.average().tolist() == [np.float32(1e-9)] * SIZE


def sharing_round() -> tuple[Window, SharingRound]:
    window = Window(np.zeros(SIZE, np.float32), 3)
    lower = np.arange(SIZE) < SIZE // 2
    return window, SharingRound(window, number=4, owned={1: lower, 2: ~lower}, max_weights=5)


def test_each_chunk_is_applied_when_it_is_received() -> None:
    window, sharing = sharing_round()
    whole = update({i: i + 1 for i in range(6)}, owner=1, round_=4)
    for number, part in enumerate(chunks(whole, 2), 1):
        assert sharing.receive(1, encode_update(part)).indices.tolist() == part.indices.tolist()
        assert np.count_nonzero(window.average()) == 2 * number


@pytest.mark.parametrize(
    ("sender", "bad", "reason"),
    [
        (1, update({0: 1}, owner=2, round_=4), "signed by device 2"),
        (3, update({0: 1}, owner=3, round_=4), "no part in round 4"),
        (1, update({0: 1}, owner=1, round_=3), "of round 3"),
        (1, update({0: 1}, owner=1, round_=5), "of round 5"),
        (1, update({1: 1, 7: 1}, owner=1, round_=4), "weight 7 is not its own"),
        (1, update({2: 5, 3: 5}, owner=1, round_=4), "weight 3 .* already"),
        (1, update({SIZE: 1}, owner=1, round_=4), "do not fit"),
        (1, update(dict.fromkeys(range(6), 1.0), owner=1, round_=4), "at most 5"),
    ],
)
def test_an_update_is_refused_with_a_reason_and_leaves_no_trace(
    sender: int, bad: Update, reason: str
) -> None:
    window, sharing = sharing_round()
    sharing.receive(1, encode_update(update({3: 1}, owner=1, round_=4)))
    before = {name: array.copy() for name, array in window.state().items()}
    with pytest.raises(UpdateRefused, match=reason) as refusal:
        sharing.receive(sender, encode_update(bad))
    assert refusal.value.owner == sender
    for name, array in window.state().items():
        np.testing.assert_array_equal(array, before[name])
    sharing.receive(1, encode_update(update({0: 2, 2: 2}, owner=1, round_=4)))
    assert window.average()[[0, 2, 3]].tolist() == [2, 2, 1]


@pytest.mark.parametrize(
    ("indices", "values", "reason"),
    [
        ([1, 1], [0, 0], "strictly"),
        ([SIZE], [0], "not one of"),
        ([-1], [0], "not one of"),
        ([0], [np.nan], "not finite"),
        ([0, 1], [0], "2,"),
    ],
)
def test_an_unsound_update_does_not_enter_the_window(
    indices: list[int], values: list[float], reason: str
) -> None:
    window = Window(np.zeros(SIZE, np.float32), 3)
    with pytest.raises(UpdateRefused, match=reason):
        window.apply(Update(0, 0, np.array(indices, np.int64), np.array(values, np.float32)))
    assert not window.counts.any()


@given(st.binary(max_size=80))
def test_noise_is_refused_by_name(noise: bytes) -> None:
    _, sharing = sharing_round()
    with pytest.raises(UpdateRefused, match="device 1 is refused"):
        sharing.receive(1, noise)
