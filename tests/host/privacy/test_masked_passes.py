"""Devices under masked sums, with their own code and messages in one process, learn what plain ones learn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from crowdlearn_device.errors import WireError
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_host.common.toml_files import parse_config
from crowdlearn_host.privacy.audit import rehearsal
from crowdlearn_host.privacy.audit.case import first_moment, recipe_of
from crowdlearn_host.privacy.audit.rehearsal import PassTape, Recipe, rehearse
from crowdlearn_host.runs.prepare import Prepared, prepare
from crowdlearn_host.spec.run_spec import RunSpec
from torch import nn


def smooth() -> nn.Module:
    """No kinks, so that rounding stays small."""
    layers = [nn.Linear(64, 40), nn.BatchNorm1d(40), nn.Tanh(), nn.Linear(40, 24), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(24, 20), nn.Tanh(), nn.Linear(20, 10))


VALUES: dict[str, Any] = {
    "data": "digits",
    "model": f"{__file__}:smooth",
    "group": {"pieces": 4},
    "training": {
        "batch": 48,
        "micro_batch": 16,
        "learning_rate": 0.05,
        "momentum": 0.9,
        "kernels": "by_size",
    },
    "privacy": {"sums": "masked"},
}


def prepared_of(wire: str) -> Prepared:
    training = {**VALUES["training"], "wire": wire}
    return prepare(
        parse_config({**VALUES, "training": training}, RunSpec, "the test"), lambda event, told: None
    )


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepared_of("float32")


def plain(recipe: Recipe) -> Recipe:
    training = pb.Training()
    training.CopyFrom(recipe.training)
    training.masked = 0
    return replace(recipe, training=training)


def trained(prepared: Prepared, recipe: Recipe) -> PassTape:
    assert prepared.train is not None
    data = prepared.train.subset(np.arange(400))
    return rehearse(recipe, first_moment(prepared), data, epoch=0, device=0)


def test_a_masked_pass_ends_in_the_weights_of_a_plain_one(prepared: Prepared) -> None:
    recipe = recipe_of(prepared)
    masked, clear = trained(prepared, recipe).after, trained(prepared, plain(recipe)).after
    for name, exact in clear.values.items():
        assert np.abs(masked.values[name] - exact).max() <= 1e-3, name


def test_a_targets_memory_holds_totals_only(prepared: Prepared) -> None:
    """Its sums of hidden layers are those of all sources, and each single one is random."""
    recipe = recipe_of(prepared)
    masked, clear = trained(prepared, recipe), trained(prepared, plain(recipe))
    first = {e for e, edge in enumerate(recipe.graph.edges) if edge.source == 0}
    for piece in range(1, 4):
        held, open_ = masked.records[piece], clear.records[piece]
        sums = [r for r in held if r.kind == "sums" and r.edge not in first and not r.boundary]
        assert sums
        for total in sums:
            place = total.boundary, total.micro, total.edge
            parts = [r for r in open_ if r.kind == "sums" and (r.boundary, r.micro, r.edge) == place]
            words = [r for r in held if r.kind == "masked" and (r.boundary, r.micro, r.edge) == place]
            assert len(parts) == len(words) >= 2
            assert np.abs(total.values - sum(r.values for r in parts)).max() < 1e-3
        wide = [r for r in held if r.kind == "masked"]
        drawn = np.concatenate([(r.values.ravel() >> 16) & 0xFF for r in wide])
        counts = np.bincount(drawn, minlength=256)
        expected = counts.sum() / 256
        assert ((counts - expected) ** 2 / expected).sum() < 400  # chi square of 255 degrees, 1e-8
        told = {r.edge for r in held if r.kind == "sums"} - first
        assert {r.edge for r in wide} == told


def test_masks_repeat_the_same_bits(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recovery draws new keys."""
    recipe = recipe_of(prepared)
    first = trained(prepared, recipe).after
    key = lambda carrier, piece: bytes([carrier._piece * piece + 9]) * 32  # noqa: E731
    monkeypatch.setattr(rehearsal._Carrier, "common_key", key)
    second = trained(prepared, recipe).after
    for name, values in first.values.items():
        np.testing.assert_array_equal(values, second.values[name])


def test_masked_sums_take_at_most_twice_the_bytes_of_int8() -> None:
    prepared = prepared_of("int8")
    recipe = recipe_of(prepared)
    masked, clear = (sent_bytes(prepared, each) for each in (recipe, plain(recipe)))
    assert 1 < masked / clear <= 2


def sent_bytes(prepared: Prepared, recipe: Recipe) -> int:
    sizes = []
    deliver = rehearsal._Carrier.deliver

    def counted(carrier: Any, piece: int, purpose: Any, content: bytes, *, express: bool) -> None:
        sizes.append(len(content))
        deliver(carrier, piece, purpose, content, express=express)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rehearsal._Carrier, "deliver", counted)
        trained(prepared, recipe)
    return sum(sizes)


@pytest.mark.parametrize("change", ["clear", "twice", "step", "short"])
def test_masked_sums_that_do_not_fit_are_refused(
    prepared: Prepared, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver, changed = rehearsal._Carrier.deliver, []

    def tamper(carrier: Any, piece: int, purpose: Any, content: bytes, *, express: bool) -> None:
        sums = pb.Sums.FromString(content)
        if sums.values.dtype == pb.MASKED and not changed:
            changed.append(sums)
            if change == "clear":
                shape = tuple(sums.values.shape)
                sums.values.CopyFrom(pb.Tensor(shape=shape, data=bytes(4 * int(np.prod(shape)))))
            elif change == "twice":
                deliver(carrier, piece, purpose, content, express=express)
            elif change == "step":
                sums.step += 9
            else:
                sums.values.data = sums.values.data[:-3]
            content = sums.SerializeToString()
        deliver(carrier, piece, purpose, content, express=express)

    monkeypatch.setattr(rehearsal._Carrier, "deliver", tamper)
    with pytest.raises(WireError):
        trained(prepared, recipe_of(prepared))
