"""Augmentations change samples by a seed, keep their shape, and are refused where they do not fit."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from crowdlearn_device.data.augmentation.base import Augmentation
from crowdlearn_device.data.augmentation.maps import Crop, Erase, Flip
from crowdlearn_device.data.augmentation.registry import (
    AUGMENTATIONS,
    augmented,
    check_augmentations,
    make_augmentation,
)
from crowdlearn_device.data.augmentation.values import Shift
from crowdlearn_device.errors import DataError
from crowdlearn_device.protocol.frames import Floats
from hypothesis import given
from hypothesis import strategies as st

PLACE = {"seed": 3, "epoch": 1, "device": 2, "number": 5}
SHAPES: dict[int, tuple[int, ...]] = {0: (6,), 2: (3, 20), 3: (3, 12, 14)}


def samples_for(each: type[Augmentation], rows: int = 9) -> Floats:
    """Samples that an augmentation takes, all different."""
    return np.random.default_rng(0).normal(size=(rows, *SHAPES[each.axes])).astype(np.float32)


@pytest.mark.parametrize("each", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_an_augmentation_keeps_shapes_repeats_by_its_seed_and_leaves_what_it_was_given(
    each: type[Augmentation],
) -> None:
    samples = samples_for(each)
    before = samples.copy()
    found = augmented([each()], samples, **PLACE)
    assert found.dtype == np.float32
    assert found.shape == samples.shape
    assert found.flags.c_contiguous
    assert (samples == before).all()
    assert (found == augmented([each()], samples, **PLACE)).all()
    assert (found != samples).any()
    for name in PLACE:
        assert (found != augmented([each()], samples, **{**PLACE, name: 9})).any()


@pytest.mark.parametrize("each", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_options_below_zero_and_unknown_ones_are_refused(each: type[Augmentation]) -> None:
    option = fields(each)[0].name
    with pytest.raises(ValueError, match=f"{option} of {each.kind} is -1"):
        make_augmentation(each.kind, {option: -1})
    with pytest.raises(ValueError, match="has no colour"):
        make_augmentation(each.kind, {"colour": 1.0})


@pytest.mark.parametrize("each", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_samples_that_do_not_fit_and_tokens_are_refused(each: type[Augmentation]) -> None:
    check_augmentations([each()], SHAPES[each.axes], integers=False)
    with pytest.raises(DataError, match="whole numbers"):
        check_augmentations([each()], SHAPES[each.axes], integers=True)
    if each.axes:
        with pytest.raises(DataError, match=r"shape \[6\]"):
            check_augmentations([each()], (6,), integers=False)


def test_an_unknown_augmentation_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="there are crop, erase, flip"):
        make_augmentation("rotate", {})


@given(st.integers(0, 4), st.integers(0, 1000))
def test_a_crop_is_a_window_of_the_padded_image(padding: int, seed: int) -> None:
    samples = samples_for(Crop, rows=4)
    found = augmented([Crop(padding)], samples, seed=seed, epoch=0, device=0, number=0)
    around = np.pad(samples, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    height, width = samples.shape[2:]
    for row, image in enumerate(found):
        windows = [
            around[row, :, top : top + height, left : left + width]
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
        ]
        assert any((window == image).all() for window in windows)


def test_flips_mirror_whole_samples_and_no_others() -> None:
    samples = samples_for(Flip, rows=64)
    found = augmented([Flip(0.25)], samples, **PLACE)
    mirrored = (found == samples[..., ::-1]).all((1, 2, 3))
    assert (mirrored | (found == samples).all((1, 2, 3))).all()
    assert 4 <= mirrored.sum() <= 28
    assert (augmented([Flip(0.0)], samples, **PLACE) == samples).all()


def test_a_shift_repeats_the_edge() -> None:
    samples = np.arange(1, 11, dtype=np.float32).reshape(1, 1, 10).repeat(50, 0)
    found = augmented([Shift(3)], samples, **PLACE)[:, 0]
    by = (samples[:, 0, 5] - found[:, 5]).astype(int)
    assert {*by} == {-3, -2, -1, 0, 1, 2, 3}
    for row, move in zip(found, by, strict=True):
        assert (row == np.clip(np.arange(1, 11) - move, 1, 10)).all()


def test_an_erased_square_is_no_larger_than_its_size() -> None:
    samples = np.ones((50, 2, 12, 14), np.float32)
    zeros = (augmented([Erase(5)], samples, **PLACE) == 0).sum((2, 3))
    assert (zeros[:, 0] == zeros[:, 1]).all()
    assert zeros.max() == 25
    assert zeros.min() >= 6


def test_options_arrive_as_floats_and_count_as_whole_numbers() -> None:
    assert make_augmentation("crop", {"padding": 2.0}) == Crop(2)
    with pytest.raises(ValueError, match="whole number"):
        make_augmentation("crop", {"padding": 2.5})
    with pytest.raises(ValueError, match="from 0 to 1"):
        make_augmentation("flip", {"probability": 2.0})


def test_more_changes_than_a_device_makes_are_refused() -> None:
    check_augmentations([Flip()] * 32, (1, 8, 8), integers=False)
    with pytest.raises(DataError, match="33 changes, 32 are possible"):
        check_augmentations([Flip()] * 33, (1, 8, 8), integers=False)
