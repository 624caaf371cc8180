"""Whoever dies when: groups on shares, and under masks, train every sample once, and end in the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from crowdlearn_device.privacy.dp.draws import most_drawn
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_host.coordinator.group.settings import Settings
from crowdlearn_host.coordinator.storage.shared_model import SharedModel
from crowdlearn_host.privacy.dp.budget import Budget

from . import crowd as crowds
from . import crowd_parties, tiny_on_shares
from .crowd import Action, Crowd, largest_difference, memory_folder, settings_for
from .test_group_protocol import KillOnce, phase_of

ROLES = ("dominator", "follower", "spare", "host")
POINTS = 20
"""Kill points by role, spread over a whole run."""
SAMPLES = {
    "shares": (7, 5, 6, 4, 5),
    "triples": (7, 0, 0, 5, 0, 0, 4, 0),
    "private": (7, 5, 6, 4, 5),
    "masked": (7, 5, 6, 4),
}
"""Samples by device; snapshots of groups on shares are read by two heirs together."""
FEW = {"private": 10, "triples": 10}
"""One kill point of so many is at every run, where there are more than enough."""


def pieces_of(sums: str) -> tuple[tuple[int, ...], ...]:
    return tiny_on_shares.TWO_TRIPLES if sums == "triples" else tiny_on_shares.PIECES


def settings(sums: str, **changes: Any) -> Settings:
    if sums == "masked":
        return settings_for(masked=14)
    pieces = pieces_of(sums)
    starts = [[sum(p[k] for p in pieces[:i]) for k in range(5)] for i in range(len(pieces))]
    layout = tuple(
        tuple((a, a + n) for a, n in zip(start, piece, strict=True))
        for start, piece in zip(starts, pieces, strict=True)
    )
    programs = tuple(tiny_on_shares.manifest(owned).sha256 for owned in pieces)
    told: dict[str, Any] = {"layout": layout, "programs": programs, "micro_batch": 3}
    told |= {"shares": True, "heirs": "shared"}
    if sums == "private":
        budget = Budget(None, 1e-5, 0.5, 3, 2)
        told |= {"budget": budget, "clip": 0.4, "micro_batch": most_drawn(3), "wire_type": pb.FLOAT32}
    return settings_for(devices=len(SAMPLES[sums]), **told, **changes)


def a_crowd(folder: Path, sums: str, seed: int = 0, **changes: Any) -> Crowd:
    found = Crowd(folder, settings(sums, **changes), SAMPLES[sums], seed)
    if sums != "masked":
        programs = tiny_on_shares.Programs([tiny_on_shares.manifest(p) for p in pieces_of(sums)])
        for phone in found.phones:
            phone._programs = programs
            phone.member.programs = programs  # type: ignore[union-attr]
    return found


@pytest.fixture(params=["shares", "triples", "private", "masked"])
def sums(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param != "masked":

        def model(omega: int = 1) -> SharedModel:
            return SharedModel(
                tiny_on_shares.array_specs(), tiny_on_shares.first_weights(), omega=omega, tau=0.0
            )

        for module in (crowds, crowd_parties):
            monkeypatch.setattr(module, "shared_model", model)
    return str(request.param)


def check_done(crowd: Crowd) -> None:
    """The run is over; each sample was fed once an epoch, where samples are not drawn."""
    if crowd.settings.budget is None:
        crowd.check_done()
    assert crowd.done, crowd.group.reason


UNDISTURBED: dict[str, tuple[dict[str, Floats], dict[str, int]]] = {}


def undisturbed(sums: str) -> tuple[dict[str, Floats], dict[str, int]]:
    """Return the weights of a run in which nothing happens, and how many actions each phase has."""
    if sums not in UNDISTURBED:
        count: dict[str, int] = {}
        with memory_folder() as folder:
            crowd = a_crowd(folder, sums)

            def note(action: Action) -> None:
                phase = phase_of(action, crowd)
                count[phase] = count.get(phase, 0) + 1

            crowd.run(note)
            check_done(crowd)
            UNDISTURBED[sums] = crowd.model(), count
    return UNDISTURBED[sums]


def die(sums: str, role: str, points: range) -> None:
    model, count = undisturbed(sums)
    phases = sorted(count)
    for point in points:
        phase = phases[point % len(phases)]
        nth = count[phase] * (2 * (point // len(phases)) + 1) // (2 * (POINTS // len(phases)) + 1)
        with memory_folder() as folder:
            crowd = a_crowd(folder, sums, seed=point)
            kill = KillOnce(crowd, role, phase, nth)
            crowd.run(kill.and_back if point % 2 else kill)
            if kill.gone is not None and not crowd.done:
                crowd.connect(kill.gone)
                crowd.run()
            assert kill.done, f"point {point} was never reached"
            check_done(crowd)
            assert largest_difference(crowd.model(), model) == 0, f"point {point}"


@pytest.mark.parametrize("role", ROLES)
def test_a_death_costs_no_bit(sums: str, role: str) -> None:
    die(sums, role, range(0, POINTS, FEW.get(sums, 4)))


@pytest.mark.nightly
@pytest.mark.parametrize("role", ROLES)
def test_no_death_costs_a_bit(sums: str, role: str) -> None:
    die(sums, role, range(POINTS))


def test_devices_of_one_owner_do_not_meet_in_a_triple(sums: str) -> None:
    if sums != "shares":
        pytest.skip("triples are those of groups on shares")
    owners = (("phone-1", "phone-2"), ("phone-3",))
    with memory_folder() as folder:
        crowd = a_crowd(folder, sums, owners=owners)
        crowd.run()
        crowd.check_done()
        triples = [set(told["holders"][1:]) for told in crowd.log("assigned")]
        assert triples
        assert not any({"phone-1", "phone-2"} <= triple for triple in triples)
        assert any("phone-1" in triple for triple in triples)
    with memory_folder() as folder:
        crowd = a_crowd(folder, sums, owners=(("phone-1", "phone-2", "phone-3"),))
        crowd.run()
        assert crowd.group.phase == "paused"
        assert "make no triples of helpers of different owners (privacy.owners)" in crowd.group.reason


def test_an_owner_may_help_in_both_triples(sums: str) -> None:
    if sums != "triples":
        pytest.skip("one triple has no other")
    owners = (("phone-1", "phone-2", "phone-3"), ("phone-4", "phone-5"), ("phone-6", "phone-7"))
    with memory_folder() as folder:
        crowd = a_crowd(folder, sums, owners=owners)
        crowd.run()
        crowd.check_done()
        for told in crowd.log("assigned"):
            for triple in (set(told["holders"][1:4]), set(told["holders"][4:])):
                assert not any(len({*owner} & triple) > 1 for owner in owners)


def test_any_order_of_events_gives_the_same_bits(sums: str) -> None:
    model, _ = undisturbed(sums)
    for seed in range(1, 4):
        with memory_folder() as folder:
            crowd = a_crowd(folder, sums, seed=seed)
            crowd.run()
            check_done(crowd)
            assert largest_difference(crowd.model(), model) == 0
