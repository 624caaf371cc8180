"""The host's audit: what weights of one device, sums, and sums with noise reveal."""

from __future__ import annotations

import pytest
from crowdlearn_host.privacy.audit.host import host as audit
from crowdlearn_host.runs.data import load_split


def test_the_host_tells_members_from_weights_and_not_from_sums_with_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit, "SAMPLES", (20,))
    monkeypatch.setattr(audit, "DEVICES", 8)
    monkeypatch.setattr(audit, "OWN", 300)
    rows = list(audit.host_rows(load_split("digits", "train")))
    best = {row.mode: row for row in rows if row.attack == "best"}
    assert best["plain"].auc > 0.8
    assert best["dp"].auc < 0.65
    assert best["plain"].epsilon is None
    assert 0 < best["dp"].epsilon <= audit.EPSILON
    (canaries,) = (row for row in rows if row.attack == "canaries")
    assert 0 <= canaries.epsilon_bound <= canaries.epsilon


def test_a_bound_grows_with_right_guesses_and_chance_gives_none() -> None:
    assert audit.epsilon_bound(50, 100) == 0
    bounds = [audit.epsilon_bound(right, 100) for right in (60, 80, 95, 100)]
    assert bounds == sorted(bounds)
    assert bounds[-1] > 3
