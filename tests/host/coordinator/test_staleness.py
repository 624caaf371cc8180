"""With staleness 1 a mini-batch enters before the one ahead of it has updated; what is computed is defined:
every gradient is that of the weights before the last update.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crowdlearn_device.member.roles.piece_pass import PiecePass
from crowdlearn_device.piece.piece import Piece
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Array, Floats
from crowdlearn_device.protocol.schedule import Pass, dominator_order, micro_batches, mini_batches, pass_order
from crowdlearn_host.coordinator.group.settings import Settings

from .crowd import (
    ONE_PIECE,
    THREE_PIECES,
    Action,
    Counts,
    Crowd,
    largest_difference,
    memory_folder,
    settings_for,
)
from .crowd_parties import Phone
from .test_group_protocol import PHASES, ROLES, KillOnce, phase_of
from .tiny import LAST, LAYERS, MOMENTUM, TinyExecutor, first_weights, manifest

EVERY = 3
"""Mini-batches between snapshots: there the pipeline is drained, also within a pass."""
SAMPLES = (13, 9, 16, 6)
POINTS = 2
"""Kill points by role and phase."""


def stale(counts: Counts = THREE_PIECES, **changes: Any) -> Settings:
    usual: dict[str, Any] = {"staleness": 1, "in_flight": 4, "snapshot_every": EVERY}
    return settings_for(counts, **{**usual, **changes})


def piece_of(phone: Phone) -> Piece | None:
    generation = phone.member.generation if phone.member else None
    role = generation.role if generation else None
    return role.work.piece if isinstance(role, PiecePass) else None


def delayed_sgd(settings: Settings, phones: list[Phone]) -> dict[str, Floats]:
    """The weights after the run, by the definition: one unsliced network, one mini-batch after the other."""
    newest = first_weights()
    momentum = {name: np.zeros_like(array) for name, array in newest.items()}
    for epoch in range(settings.epochs):
        for device in dominator_order(range(len(phones)), seed=settings.seed, epoch=epoch):
            data = phones[device].data
            order = pass_order(len(data), seed=settings.seed, epoch=epoch, device=device)
            for number, batch in enumerate(mini_batches(len(data), settings.batch)):
                if number % settings.snapshot_every == 0:
                    older = newest
                inputs, labels = np.asarray(data.inputs)[order[batch]], data.labels[order[batch]]
                weights = {**newest, **older} if settings.staleness else newest
                gradients, statistics = _gradients(weights, newest, inputs, labels, settings.micro_batch)
                older = {name: newest[name] for name in gradients}
                for name, gradient in gradients.items():
                    momentum[name] = MOMENTUM * momentum[name] + gradient
                    newest = {
                        **newest,
                        name: newest[name] - np.float32(settings.learning_rate) * momentum[name],
                    }
                newest.update(statistics)
    return newest


def _gradients(
    weights: dict[str, Floats], newest: dict[str, Floats], inputs: Array, labels: Array, micro: int
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Of a mini-batch, and its running statistics after it."""
    of = manifest(LAYERS)
    executor = TinyExecutor(of)
    statistics = {a.name: newest[a.name] for a in of.arrays if not a.trained}
    total: dict[str, Floats] = {}

    def run(method: str, **given: Array) -> dict[str, Array]:
        spec = of.method(method)
        arrays = [
            given[p.role] if p.role in given else {**weights, **statistics}[p.name] for p in spec.inputs
        ]
        results = dict(zip(spec.outputs, executor.run(method, arrays), strict=True))
        for port, values in results.items():
            if port.role == "gradient":
                total[port.name] = total.get(port.name, np.float32(0)) + values
            elif port.role == "buffer":
                statistics[port.name] = values
        return {port.role: values for port, values in results.items()}

    for rows in micro_batches(len(inputs), micro):
        sums = [inputs[rows]]
        for layer in range(LAST):
            sums.append(run(f"forward_{layer}", sum=sums[layer])["sum"])
        scale = np.array(1 / len(inputs), np.float32)
        error = run("loss", sum=sums[LAST], labels=labels[rows], scale=scale)["error"]
        for layer in reversed(range(LAST)):
            error = run(f"backward_{layer}", sum=sums[layer], error=error).get("error", error)
    return total, statistics


def test_mini_batches_overlap_between_drained_boundaries() -> None:
    of = Pass(first=10, end=18, every=4, staleness=1)
    assert [b for b in range(10, 19) if of.drained(b)] == [10, 14, 18]
    assert [list(of.under_way(b)) for b in (10, 12, 13, 14, 17, 18)] == [
        [10, 11],
        [12, 13],
        [13],
        [14, 15],
        [17],
        [],
    ]
    assert [list(Pass(0, 2).under_way(b)) for b in range(3)] == [[0], [1], []]


@pytest.mark.parametrize("staleness", [0, 1])
@pytest.mark.parametrize("every", [EVERY, 100])
@pytest.mark.parametrize("counts", [THREE_PIECES, ONE_PIECE])
def test_weights_are_those_of_the_definition(
    counts: Counts, staleness: int, every: int, folder: Path
) -> None:
    settings = stale(counts, staleness=staleness, snapshot_every=every)
    crowd = Crowd(folder, settings, SAMPLES)
    overlapping = 0

    def note(_: Action) -> None:
        nonlocal overlapping
        pieces = [piece for phone in crowd.phones if (piece := piece_of(phone)) is not None]
        overlapping += any(len(piece._steps) > 1 for piece in pieces)

    crowd.run(note)
    crowd.check_done()
    assert bool(overlapping) == bool(staleness)
    expected = delayed_sgd(settings, crowd.phones)
    assert largest_difference(crowd.model(), expected) <= 1e-5
    other = delayed_sgd(stale(staleness=1 - staleness, snapshot_every=every), crowd.phones)
    assert largest_difference(crowd.model(), other) > 1e-3


@pytest.fixture(scope="module")
def undisturbed() -> tuple[dict[str, Floats], dict[str, int]]:
    """The weights of a run in which nothing happens, and how many actions each phase has."""
    count = dict.fromkeys(PHASES, 0)
    with memory_folder() as folder:
        crowd = Crowd(folder, stale(), SAMPLES)

        def note(action: Action) -> None:
            count[phase_of(action, crowd)] += 1

        crowd.run(note)
        assert crowd.done
        return crowd.model(), count


def test_any_order_of_events_gives_the_same_bits(
    undisturbed: tuple[dict[str, Floats], dict[str, int]], folder: Path
) -> None:
    for seed in range(1, 4):
        crowd = Crowd(folder / str(seed), stale(), SAMPLES, seed=seed)
        crowd.run()
        assert largest_difference(crowd.model(), undisturbed[0]) == 0


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("role", ROLES)
def test_a_death_changes_nothing(
    role: str, phase: str, undisturbed: tuple[dict[str, Floats], dict[str, int]], folder: Path
) -> None:
    """Whoever dies while two mini-batches are under way, all ends as if nothing had happened."""
    model, count = undisturbed
    for point in range(POINTS):
        crowd = Crowd(folder / str(point), stale(), SAMPLES, seed=point)
        kill = KillOnce(crowd, role, phase, nth=count[phase] * (2 * point + 1) // (2 * POINTS + 1))
        crowd.run(kill.and_back)
        assert kill.done, f"point {point} was never reached"
        crowd.check_done(model)


def test_int8_is_rounded_alike_when_two_mini_batches_are_repeated(folder: Path) -> None:
    settings = stale(wire_type=pb.INT8, epochs=1)
    calm = Crowd(folder / "calm", settings, SAMPLES)
    calm.run()
    crowd = Crowd(folder / "disturbed", settings, SAMPLES, seed=1)
    kill = KillOnce(crowd, "follower", "backward", nth=20)
    crowd.run(kill.and_back)
    assert kill.done
    assert crowd.done
    assert largest_difference(crowd.model(), calm.model()) == 0


def test_a_snapshot_holds_one_version_of_the_weights(folder: Path) -> None:
    """The pipeline is drained where pieces are saved: there is nothing else to hold."""
    crowd = Crowd(folder, stale(epochs=1), SAMPLES)
    looked = 0

    def check(action: Action) -> None:
        nonlocal looked
        frame = action.frame()
        if frame is not None and frame.WhichOneof("body") == "held" and action.kind == "hear":
            piece = piece_of(crowd.phones[action.number])
            if piece is not None and piece.boundary == frame.held.boundary and not piece._steps:
                assert not piece._weights.two_versions
                looked += 1

    crowd.run(check)
    assert crowd.done
    assert looked
