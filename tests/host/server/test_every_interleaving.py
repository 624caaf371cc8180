"""No order of events and no single crash, anywhere, makes a small group deadlock or lose a mini-batch."""

from __future__ import annotations

import pytest

from .exhaustive import Explorer


@pytest.mark.parametrize(
    ("samples", "crashes"), [((2, 2), 1), ((4, 2), 1), ((2, 2, 2), 0)], ids=["1+1", "2+1", "spare"]
)
def test_every_state_of_a_small_group(samples: tuple[int, ...], crashes: int) -> None:
    explorer = Explorer(samples, crashes)
    explorer.explore()
    print(f"{explorer.states} states, {explorer.ends} ends")
    assert explorer.ends > 0
