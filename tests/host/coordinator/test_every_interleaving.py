"""No order of events and no single crash, anywhere, makes a small group deadlock or lose a mini-batch."""

from __future__ import annotations

from typing import Any

import pytest

from .exhaustive import FROZEN, OVERLAPPING, RENEWING, Explorer


@pytest.mark.parametrize(
    ("samples", "crashes", "changes"),
    [
        *(((4, 2), 1, {}), ((4, 2), 1, FROZEN), ((2, 2, 2), 0, {})),
        *(((4, 2), 1, RENEWING), ((6, 2), 1, OVERLAPPING)),
    ],
    ids=["2+1", "2+1, frozen", "spare", "2+1, each shared", "3+1, overlapping"],
)
def test_every_state_of_a_small_group(
    samples: tuple[int, ...], crashes: int, changes: dict[str, Any]
) -> None:
    explorer = Explorer(samples, crashes, **changes)
    explorer.explore()
    print(f"{explorer.states} states, {explorer.ends} ends")
    assert explorer.ends > 0
