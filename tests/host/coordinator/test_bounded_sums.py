"""Norms bounded inside secure sums between real members: liars are refused, honest devices never."""

from __future__ import annotations

from collections.abc import Iterator
from errno import ENOSPC
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crowdlearn_device.errors import AggregationError
from crowdlearn_device.member.run import Run
from crowdlearn_device.member.secure_sharing import PROJECTIONS, SecureSharing
from crowdlearn_device.privacy.aggregation import projection
from crowdlearn_device.privacy.aggregation.fixed_point import FixedPoint, Words
from crowdlearn_device.privacy.aggregation.projection import (
    BLOCK,
    ROWS,
    SLACK,
    largest_square,
    projected,
    square_of,
)
from crowdlearn_device.privacy.dp.noisy_move import NoisyMove
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_host.privacy.dp.budget import Budget

from . import crowd_parties, sum_crowd, test_secure_rounds, tiny
from .crowd import memory_folder
from .sum_crowd import GROUPS, SumCrowd
from .test_noisy_sums import check_clipped
from .test_secure_rounds import VICTIM, flat, heard, stage
from .tiny import first_weights

BOUND = 0.02
ONE = 1 << FixedPoint(GROUPS).fraction


@pytest.fixture(autouse=True)
def _without_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    specs = tiny.without_statistics()
    for module in (tiny, crowd_parties, sum_crowd, test_secure_rounds):
        monkeypatch.setattr(module, "array_specs", lambda: specs)


@pytest.fixture
def folder() -> Iterator[Path]:
    with memory_folder() as path:
        yield path


def bounded(folder: Path, bound: float = BOUND, **changes: Any) -> SumCrowd:
    budget = Budget(None, 1e-5, 0.5, 3, 2)
    usual: dict[str, Any] = {"epochs": 2, "budget": budget, "clip": 1.0}
    return SumCrowd(folder, bound=bound, **{**usual, **changes})


def lie(monkeypatch: pytest.MonkeyPatch, liars: set[int], how: object) -> None:
    """Have devices that call themselves so add other values than those that they should."""
    honest = NoisyMove.encoded

    def encoded(self: NoisyMove, numbers: FixedPoint) -> Words:
        words = honest(self, numbers)
        return how(words) if self.group & liars else words  # type: ignore[operator]

    monkeypatch.setattr(NoisyMove, "encoded", encoded)


def test_moves_are_clipped_and_none_is_refused(folder: Path) -> None:
    crowd = bounded(folder)
    check_clipped(crowd, BOUND)
    assert len(heard(crowd, "projected")) == 2 * GROUPS
    assert not crowd.log("norm_refused") + crowd.log("sum_contradicted") + crowd.log("sum_begun_anew")


HALF = np.uint32(1 << 31)


def wrapped(words: Words) -> Words:
    """Return words of which two are off by half of the ring: with entries of -1 and 1 they would cancel."""
    words = words.copy()
    words[:2] += HALF
    return words


@pytest.mark.parametrize(
    "how", [lambda words: words * np.uint32(20), lambda words: words * np.uint32(-20 % 2**32), wrapped]
)
def test_a_group_that_adds_more_is_named_and_left_out(
    how: object, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lie(monkeypatch, {0, 1}, how)
    crowd = bounded(folder, groups=GROUPS + 1)
    crowd.run()
    crowd.check_done(crowd.model())
    assert [told["group"] for told in crowd.log("norm_refused")] == [0]
    assert crowd.host.sums.number == 2
    assert np.linalg.norm(flat(crowd.model()) - flat(first_weights())) <= 2 * BOUND + 1e-4


def test_what_stays_within_the_bound_is_not_detected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lie(monkeypatch, {0, 1}, lambda words: -words)
    crowd = bounded(folder)
    crowd.run()
    assert crowd.done
    assert not crowd.log("norm_refused") + crowd.log("sum_contradicted")


def test_a_device_that_shows_other_projections_than_its_values_have_spoils_its_sum_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = SecureSharing._project

    def project(self: SecureSharing, step: pb.SumStep) -> pb.SumStep:
        told = honest(self, step)
        if self._number == VICTIM:
            told.projected = bytes(4 * ROWS)
        return told

    monkeypatch.setattr(SecureSharing, "_project", project)
    crowd = bounded(folder)
    crowd.run()
    assert crowd.done
    assert len(crowd.log("sum_contradicted")) == 2
    assert (flat(crowd.model()) == flat(first_weights())).all()


@pytest.mark.parametrize("step", ["masked", "projected", "tags", "revealed"])
def test_a_device_may_die_at_every_step(step: str, folder: Path) -> None:
    crowd = bounded(folder, seed=1)
    crowd.run(lambda: VICTIM in heard(crowd, step))
    crowd.crash(VICTIM)
    crowd.run(lambda: bool(crowd.log("left")))
    crowd.connect(VICTIM)
    crowd.run()
    assert crowd.done
    assert not crowd.log("sum_lost") + crowd.log("norm_refused") + crowd.log("sum_contradicted")


@pytest.mark.parametrize("name", ["norms", "agreeing", "revealing"])
def test_the_host_may_die_at_every_step(name: str, folder: Path) -> None:
    crowd = bounded(folder, seed=2)
    crowd.run(lambda: stage(crowd) == name)
    crowd.crash_host()
    crowd.run()
    assert crowd.done
    assert crowd.host.sums.number == 2
    assert not crowd.log("sum_lost") + crowd.log("norm_refused") + crowd.log("sum_contradicted")


def test_devices_project_the_same_weights_a_few_times_alone(folder: Path) -> None:
    """Many projections would be the move itself."""
    crowd = bounded(folder)
    crowd.run(lambda: stage(crowd) == "norms")
    member = crowd.phones[VICTIM].member
    assert member is not None
    assert member.run is not None
    kept = member.run.sums._kept
    for _ in range(PROJECTIONS):
        kept.keep_projection()
    with pytest.raises(AggregationError, match="were projected 4 times; train before"):
        kept.keep_projection()
    again = SecureSharing("run", VICTIM, member.identity, kept._path.parent)._kept
    again.boundary = kept.boundary
    with pytest.raises(AggregationError, match="were projected 4 times"):
        again.check_projections()


def test_moves_without_noise_are_not_projected(folder: Path) -> None:
    crowd = SumCrowd(folder, bound=BOUND)
    crowd.run(lambda: bool(crowd.log("fault")), limit=20_000)
    assert not heard(crowd, "key")


def test_steps_without_noise_are_remembered_after_a_death(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = SumCrowd(folder, bound=BOUND)
    victim = crowd.phones[VICTIM]

    def trained() -> bool:
        generation = victim.member.generation if victim.member else None
        role = generation.role if generation else None
        return generation is not None and role is not None and role.boundary == generation.assign.pass_end

    crowd.run(trained)
    crowd.crash(VICTIM)
    monkeypatch.setattr(Run, "note_plain_steps", lambda run: None)  # from now on its disk alone knows
    crowd.connect(VICTIM)
    crowd.run(lambda: any("no noise was added" in told["reason"] for told in faults(crowd, VICTIM)))
    assert victim.member is not None
    assert victim.member.run is not None
    assert not victim.member.run.has_noise
    assert not heard(crowd, "key")


def test_a_device_that_cannot_remember_steps_without_noise_takes_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("crowdlearn_device.member.run.write_atomically", full)
    crowd = SumCrowd(folder, bound=BOUND)
    crowd.run(lambda: bool(faults(crowd, VICTIM)), limit=20_000)
    assert "No space left" in faults(crowd, VICTIM)[0]["reason"]
    assert not any(crowd.log("go"))


def faults(crowd: SumCrowd, device: int) -> list[dict[str, Any]]:
    return [told for told in crowd.log("fault") if told["device"] == f"phone-{device}"]


def test_projections_are_of_the_whole_vector_whoever_holds_its_parts() -> None:
    rng = np.random.default_rng(0)
    words = rng.integers(0, 1 << 32, 2 * BLOCK + 77, dtype=np.uint32)
    whole = projected(bytes(32), ((0, len(words)),), words)
    inner = projected(bytes(32), ((5, BLOCK + 9),), words[5 : BLOCK + 9])
    outer = projected(
        bytes(32), ((0, 5), (BLOCK + 9, len(words))), np.concatenate([words[:5], words[BLOCK + 9 :]])
    )
    np.testing.assert_array_equal(inner + outer, whole)
    entries = projection.entries(bytes(32), 0)[:BLOCK]
    assert [round(float((entries == each).mean()), 2) for each in (-1, 0, 1)] == [0.25, 0.5, 0.25]


def test_honest_norms_at_the_bound_pass_and_double_ones_do_not() -> None:
    rng, numbers = np.random.default_rng(1), FixedPoint(GROUPS)
    found = []
    for size in (3, 40, 5000):
        limit = largest_square(1.0, numbers, size)
        for _ in range(100):
            move = rng.normal(size=size) * (rng.random(size) < 0.5) + 1e-9
            words = numbers.encode((move / np.linalg.norm(move)).astype(np.float32))
            found.append(square_of(projected(rng.bytes(32), ((0, size),), words)) / ONE**2)
            assert found[-1] * ONE**2 <= limit
            large = words * np.uint32(6)
            assert square_of(projected(rng.bytes(32), ((0, size),), large)) > limit
    assert abs(np.mean(found) - 1) < 0.05
    assert (SLACK**2 * np.exp(1 - SLACK**2)) ** (ROWS / 2) < 1e-10
    for size in (1, 2, 8):  # half of the ring, anywhere
        words = np.zeros(size, np.uint32)
        words[:] = HALF
        assert square_of(projected(rng.bytes(32), ((0, size),), words)) > largest_square(64.0, numbers, size)
