"""Devices drawn by lot."""

from __future__ import annotations

from collections.abc import Sequence

from .base import Candidate, Selection


class Anyone(Selection):
    """The selection by lot among devices that hold samples, each as likely as any other: what is learned is
    of no class of devices more than of another.
    """

    name = "anyone"

    def refusal(self, candidate: Candidate) -> str:
        return "" if candidate.samples else "holds no samples"

    def order(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        return self.lots.sample(list(candidates), len(candidates))
