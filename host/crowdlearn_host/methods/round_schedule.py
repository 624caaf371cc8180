"""Rounds of training and sharing, alike on phones and simulated: how many, at what rate, what is renewed."""

from __future__ import annotations

from math import cos, pi
from typing import Literal

Fall = Literal["constant", "linear", "cosine", "step"]
LAST_RATE = 0.01
"""The part of the learning rate that is left at the end."""


def share_left(fall: Fall, done: float, steps: int = 0, factor: float = 0.1) -> float:
    """Return the share of the learning rate that a round has, `done` of all rounds being over: 1 to
    LAST_RATE, or `factor` for each of the `steps` taken.
    """
    if fall == "step":
        return float(factor**steps)
    left = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + cos(pi * done)) / 2}[fall]
    return LAST_RATE + (1 - LAST_RATE) * left


def rounds_an_epoch(passes: int, every: int) -> int:
    """Return sharings in an epoch of so many passes: one after `every` of them (0: all) and one after the
    rest.
    """
    return -(-passes // min(every or passes, passes))


def renews(theta: float, tau: float, has_slots: bool, groups: int) -> bool:
    """Return whether a sharing replaces a group's whole state: the next holders take their pieces from the
    download then, and nothing shuffles.
    """
    return theta == 1 and tau == 0 and not has_slots and groups > 1


def doubt_of_sharing(theta: float, tau: float) -> str:
    """Return a warning about groups that share so little that training together is in vain, or ""."""
    if theta == 0:
        return (
            "sharing.theta = 0: no trained weight is shared, and the global model keeps those that it began "
            "with; raise theta, or switch sharing off"
        )
    if tau == 1:
        return "sharing.tau = 1: no group ever takes what others share; lower tau"
    return ""
