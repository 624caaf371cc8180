"""The global model of the real server: uploads in, averages out, counted once."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from crowdlearn_device.errors import WireError
from crowdlearn_device.program.manifest import ArraySpec
from crowdlearn_device.sharing.selection import apply_patch, shared_updates, stretches
from crowdlearn_device.sharing.update import HEADER, Update, encode_update
from crowdlearn_device.sharing.update_values import ValueType
from crowdlearn_device.state.piece_state import PieceState
from crowdlearn_host.coordinator.group.effects import Merge
from crowdlearn_host.coordinator.storage.shared_model import SharedModel
from crowdlearn_host.errors import RunError, UpdateRefused

from .crowd import THREE_PIECES, layout_of
from .tiny import LAYERS, array_specs, first_weights, manifest

LAYOUT = layout_of(THREE_PIECES)
SIZE = sum(LAYERS[s.layer] * int(np.prod(s.shape)) for s in array_specs())


def state_of(piece: int, weights: dict[str, np.ndarray], gradient: float = 0.0) -> PieceState:
    layers: dict[int, dict[str, np.ndarray]] = {}
    rng = np.random.default_rng(piece)
    for spec in array_specs():
        a, b = LAYOUT[piece][spec.layer]
        if b > a:
            arrays = layers.setdefault(spec.layer, {})
            arrays[f"value/{spec.name}"] = weights[spec.name][a:b].copy()
            if spec.trained and gradient:
                arrays[f"gradient/{spec.name}"] = rng.random(arrays[f"value/{spec.name}"].shape, np.float32)
    return PieceState(LAYOUT[piece], layers)


def upload(model: SharedModel, group: int, weights: dict[str, np.ndarray], theta: float = 1.0) -> None:
    for piece, counts in enumerate(THREE_PIECES):
        state = state_of(piece, weights, gradient=float(theta < 1))
        for update in shared_updates(manifest(counts), state, piece, 0, theta):
            model.merge(group, Merge(piece, 1, 0, LAYOUT[piece], encode_update(update)))


def close(model: SharedModel, group: int, place: tuple[int, int] = (0, 0)) -> list[bytes]:
    """The records of a group's round, which the model waits with."""
    records = model.close(group, 1, place)
    for record in records:
        model.take_in(record)
    return records


def release(model: SharedModel, reached: tuple[int, int] | None = None) -> list[bytes]:
    records = model.entering(reached=reached)
    for record in records:
        model.take_in(record)
    return records


def commit(model: SharedModel, group: int) -> list[bytes]:
    return close(model, group) + release(model)


def resumed(records: list[bytes], **of: Any) -> SharedModel:
    """A model of a server that was started again."""
    model = SharedModel(array_specs(), first_weights(), **of)
    model.resume(model.window, iter(records))
    return model


def shifted(by: float) -> dict[str, np.ndarray]:
    return {name: array + np.float32(by) for name, array in first_weights().items()}


def test_with_theta_one_the_global_model_is_what_the_group_has():
    model = SharedModel(array_specs(), first_weights())
    upload(model, 0, shifted(1))
    np.testing.assert_equal(model.model(), first_weights())
    commit(model, 0)
    np.testing.assert_equal(model.model(), shifted(1))


def test_the_global_model_is_the_average_over_groups():
    model = SharedModel(array_specs(), first_weights(), omega=2)
    for group, by in ((0, 1.0), (1, 3.0)):
        upload(model, group, shifted(by))
        commit(model, group)
    for name, array in shifted(2).items():
        np.testing.assert_allclose(model.model()[name], array, rtol=1e-6)


def test_a_round_that_was_begun_anew_counts_once():
    model = SharedModel(array_specs(), first_weights(), omega=2)
    upload(model, 0, shifted(1))
    restarted = resumed([], omega=2)
    upload(restarted, 0, shifted(1))
    commit(restarted, 0)
    assert set(restarted.window.counts) == {1}


def test_a_round_enters_the_window_when_all_groups_have_shared_it_and_in_their_order():
    """Group 1 is a round ahead and shares first; omega = 1 keeps what entered last."""
    model = SharedModel(array_specs(), first_weights(), omega=1)
    records = []
    for group, place, by in ((1, (0, 0), 1), (1, (0, 2), 2), (0, (0, 0), 3)):
        upload(model, group, shifted(by))
        records += close(model, group, place)
    for each in (model, resumed(records, omega=1)):
        entered = list(records)
        for reached, entering, by in (((0, 0), 0, 0), ((0, 2), 2, 1), (None, 1, 2)):
            released = release(each, reached)
            assert len(released) == entering
            np.testing.assert_equal(each.model(), shifted(by) if by else first_weights())
            entered += released
            np.testing.assert_equal(resumed(entered, omega=1).model(), each.model())


def test_a_patch_replaces_a_pieces_weights_and_nothing_else():
    model = SharedModel(array_specs(), first_weights(), omega=2, tau=0.4)
    upload(model, 1, shifted(5), theta=0.5)
    commit(model, 1)
    changed = model.window.counts > 0
    for piece, counts in enumerate(THREE_PIECES):
        state = state_of(piece, first_weights())
        for data in model.patch(7, LAYOUT[piece]):
            apply_patch(manifest(counts), state, data)
        for spec in array_specs():
            a, b = LAYOUT[piece][spec.layer]
            row = int(np.prod(spec.shape))
            own = changed[spec.offset + a * row : spec.offset + b * row]
            if b > a:
                before = state_of(piece, first_weights()).layers[spec.layer][f"value/{spec.name}"].reshape(-1)
                after = state.layers[spec.layer][f"value/{spec.name}"].reshape(-1)
                np.testing.assert_allclose(after, np.where(own, before + 5, before), rtol=1e-6)
    assert 0.4 * SIZE < changed.sum() < 0.75 * SIZE


def update(indices: Sequence[int], owner: int = 1, number: int = 0) -> bytes:
    return encode_update(
        Update(owner, number, np.array(indices, np.uint32), np.ones(len(indices), np.float32))
    )


def not_a_number() -> bytes:
    """Four float32 ones, all bits of which are set in transit."""
    data = bytearray(update(range(OWN.start, OWN.start + 4)))
    data[HEADER.size : -8] = b"\xff" * (len(data) - HEADER.size - 8)
    data[-4:] = b"\x7f" * 4
    return bytes(data)


OWN = max(stretches(array_specs(), LAYOUT[1]), key=lambda stretch: stretch.stop - stretch.start)
FOREIGN = next(
    i for i in range(SIZE) if not any(p.start <= i < p.stop for p in stretches(array_specs(), LAYOUT[1]))
)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (update([OWN.start], owner=2), "signed by device 2"),
        (update([OWN.start], number=1), "of round 1, and round 0 is open"),
        (update([FOREIGN]), "not its own"),
        (update([SIZE]), "do not fit"),
        (not_a_number(), "not finite"),
        (bytes(2 << 20), "bytes; expected"),
        (b"", "0 bytes; expected"),
    ],
    ids=["owner", "round", "foreign index", "index out of range", "not finite", "too large", "empty"],
)
def test_a_bad_update_is_refused_with_a_reason_and_the_round_goes_on(bad: bytes, reason: str) -> None:
    model = SharedModel(array_specs(), first_weights())
    with pytest.raises(UpdateRefused, match=reason) as refusal:
        model.merge(0, Merge(1, 1, 0, LAYOUT[1], bad))
    assert refusal.value.owner == 1
    upload(model, 0, shifted(1))
    with pytest.raises(UpdateRefused, match="already this round"):
        model.merge(0, Merge(1, 1, 0, LAYOUT[1], update([OWN.start])))
    commit(model, 0)
    np.testing.assert_equal(model.model(), shifted(1))


def test_a_weight_that_could_not_travel_back_is_refused():
    model = SharedModel(array_specs(), first_weights(), values=ValueType.FLOAT16)
    with pytest.raises(UpdateRefused, match="float16"):
        upload(model, 0, shifted(1e5))
    upload(model, 0, shifted(1))
    commit(model, 0)
    assert list(model.patch(0, LAYOUT[0]))


def test_a_patch_with_foreign_weights_is_refused():
    data = encode_update(Update(0, 0, np.array([0], np.uint32), np.ones(1, np.float32)))
    owner = next(k for k, piece in enumerate(LAYOUT) if piece[array_specs()[0].layer][0] == 0)
    stranger = next(k for k in range(3) if k != owner and LAYOUT[k][0][1] == LAYOUT[k][0][0])
    state = state_of(stranger, first_weights())
    with pytest.raises(WireError, match="does not own"):
        apply_patch(manifest(THREE_PIECES[stranger]), state, data)


@pytest.mark.parametrize("cut", [0, 3, 20])
def test_records_that_are_none_are_told_as_damaged(cut: int):
    model = SharedModel(array_specs(), first_weights())
    upload(model, 0, shifted(1))
    records = close(model, 0)
    with pytest.raises(RunError, match="damaged"):
        resumed([records[0][:cut], b"E" + records[0][1:13]])


def test_what_is_frozen_is_sent_only_to_who_has_no_state():
    """Exactly, whatever type shared values travel in; and the server takes no upload of it."""
    specs = [ArraySpec("w", 0, (), False, 0, frozen=True), ArraySpec("b", 0, (), True, 3)]
    first = {"w": np.array([0.1, 0.2, 0.3], np.float32), "b": np.zeros(3, np.float32)}
    model, neurons = SharedModel(specs, first, values=ValueType.INT8), ((0, 3),)
    of: Any = SimpleNamespace(arrays=specs)
    state = PieceState(neurons, {0: {"value/w": first["w"], "value/b": first["b"] + 1}})
    for update in shared_updates(of, state, 0, 0, 1.0):
        model.merge(0, Merge(0, 1, 0, neurons, encode_update(update, ValueType.INT8)))
    forged = Update(0, 0, np.array([0], np.uint32), np.ones(1, np.float32))
    with pytest.raises(UpdateRefused, match="not its own"):
        model.merge(0, Merge(0, 1, 0, neurons, encode_update(forged)))
    commit(model, 0)
    for whole in (False, True):
        got = PieceState(neurons, {0: {"value/w": np.zeros(3, np.float32), "value/b": first["b"].copy()}})
        for data in model.patch(1, neurons, whole=whole):
            apply_patch(of, got, data)
        assert np.array_equal(got.layers[0]["value/w"], first["w"] * whole)
        np.testing.assert_allclose(got.layers[0]["value/b"], 1, rtol=0.01)
