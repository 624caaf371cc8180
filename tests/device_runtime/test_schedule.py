import numpy as np
from crowdlearn_device.protocol.schedule import (
    count_mini_batches,
    dropout_mask,
    micro_batches,
    mini_batches,
    pass_order,
)
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(1, 300), st.integers(2, 64))
def test_mini_batches_cover_every_sample_once(samples, batch):
    parts = mini_batches(samples, batch)
    assert [i for part in parts for i in part] == list(range(samples))
    assert all(len(part) <= batch for part in parts)


@given(st.integers(2, 300), st.integers(3, 64))
def test_no_batch_has_a_single_sample(samples, batch):
    assert all(len(part) > 1 for part in mini_batches(samples, batch))
    assert all(len(part) > 1 for part in micro_batches(samples, batch))


@given(st.integers(2, 300), st.integers(2, 64))
def test_where_it_matters_a_last_sample_joins_others_and_every_other_split_stays(samples, batch):
    usual, safe = mini_batches(samples, batch), mini_batches(samples, batch, 2)
    assert [i for part in safe for i in part] == list(range(samples))
    assert all(1 < len(part) <= batch + 1 for part in safe)
    assert safe == usual or 1 in map(len, usual)
    assert micro_batches(samples, batch, 2) == safe


def test_a_last_sample_joins_two():
    assert [len(part) for part in mini_batches(5, 2)] == [2, 2, 1]
    assert [len(part) for part in mini_batches(5, 2, 2)] == [2, 3]


def test_a_pass_is_a_permutation_that_depends_on_seed_epoch_and_device_alone():
    order = pass_order(50, seed=1, epoch=2, device=3)
    assert sorted(order) == list(range(50))
    assert np.array_equal(order, pass_order(50, seed=1, epoch=2, device=3))
    others = [pass_order(50, seed=s, epoch=e, device=d) for s, e, d in ((0, 2, 3), (1, 0, 3), (1, 2, 0))]
    assert not any(np.array_equal(order, other) for other in others)


def test_dropout_keeps_the_expected_value():
    mask = dropout_mask(400, 50, 0.25, seed=1, step=2, micro=0, layer=1)
    assert set(np.unique(mask)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs(mask.mean() - 1) < 0.02


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 2))
def test_mini_batches_are_counted_without_being_made(samples: int, batch: int, least: int) -> None:
    assert count_mini_batches(samples, batch, least) == len(mini_batches(samples, batch, least))
    assert count_mini_batches((1 << 32) - 1, 1) == (1 << 32) - 1
