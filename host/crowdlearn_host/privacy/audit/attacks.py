"""Attacks: from views to samples and labels.

Each learns from pairs of views and samples that the attacker made itself, by rehearsing the protocol on data
of its own. It is then applied to the victim's views.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from crowdlearn_device.protocol.frames import Floats
from numpy.typing import NDArray

from crowdlearn_host.privacy.leaks.matching import standardised

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Evidence:
    """An attacker's knowledge: its `features` [M, d], `inputs` [M, p] and `labels` [M], and the victim's
    views `seen` [N, d]. All arrays but the labels are float32.

    With `drifted`, weights have moved since the attacker knew them: seen views are then scaled by their own
    statistics, else by those of the known ones. `noise` [d] is the standard deviation of what views may
    be off by.
    """

    features: Floats
    inputs: Floats
    labels: Labels
    seen: Floats
    drifted: bool = False
    noise: Floats | None = None

    @cached_property
    def standard(self) -> tuple[Floats, Floats]:
        """Centre and scale known features, with noise, and seen ones.

        Features are float32 [n, d].
        """
        known = self.features
        if self.noise is not None:
            drawn = np.random.default_rng(0).standard_normal(known.shape, np.float32)
            known = known + drawn * self.noise
        return standardised(known, known), standardised(self.seen, self.seen if self.drifted else known)


class Attack(ABC):
    """A way to guess samples from views."""

    name: str

    @abstractmethod
    def guess(self, evidence: Evidence) -> Floats:
        """Guess the victim's samples: float32 [N, p]."""


class PriorOnly(Attack):
    """The guess without any view: the mean of the attacker's own samples."""

    name = "prior only"

    def guess(self, evidence: Evidence) -> Floats:
        """Repeat the mean. Views are float32 [n, d], samples float32 [n, D]."""
        return np.tile(evidence.inputs.mean(0), (len(evidence.seen), 1))


class Linear(Attack):
    """The best linear estimate under a Gaussian prior, whose covariance is that of the attacker's samples."""

    name = "linear, PCA prior"
    ridges = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    held_out = 600
    """Samples at most by which the ridge is chosen."""

    def guess(self, evidence: Evidence) -> Floats:
        """Regress samples on views, with the ridge that predicts held-out samples best.

        Views are float32 [n, d], samples float32 [n, D].
        """
        known, seen = evidence.standard
        if not known.shape[1]:
            return PriorOnly().guess(evidence)
        cut = len(known) - min(len(known) // 5, self.held_out)
        mean = evidence.inputs.mean(0)
        target = evidence.inputs - mean
        gram = np.asarray(known[:cut].T @ known[:cut] / cut, np.float32)
        cross = np.asarray(known[:cut].T @ target[:cut] / cut, np.float32)

        def error(ridge: float) -> float:
            return float(((known[cut:] @ _solved(gram, cross, ridge) - target[cut:]) ** 2).mean())

        best = min(self.ridges, key=error)
        guessed = mean + seen @ _solved(gram, cross, best)
        return _clipped(guessed, evidence.inputs)


class Decoder(Attack):
    """A trained network from views to samples (learning to invert), which starts from the linear estimate."""

    name = "trained decoder"

    def __init__(self, epochs: int = 8, width: int = 384, seed: int = 0) -> None:
        self._epochs, self._width, self._seed = epochs, width, seed

    def guess(self, evidence: Evidence) -> Floats:
        """Train on the attacker's pairs, then decode the seen views.

        Views are float32 [n, d], samples float32 [n, D].
        """
        import torch
        from torch import nn

        known, seen = evidence.standard
        if not known.shape[1]:
            return PriorOnly().guess(evidence)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            features, inputs = known.shape[1], evidence.inputs.shape[1]
            net = nn.Sequential(
                nn.Linear(features, self._width),
                nn.LeakyReLU(0.1),
                nn.Linear(self._width, self._width),
                nn.LeakyReLU(0.1),
                nn.Linear(self._width, inputs),
            )
            mean = torch.from_numpy(evidence.inputs.mean(0))
            x, y = torch.from_numpy(known), torch.from_numpy(evidence.inputs) - mean
            optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=1e-3)
            steps = self._epochs * -(-len(x) // 128)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
            for _ in range(self._epochs):
                for rows in torch.split(torch.randperm(len(x)), 128):
                    optimizer.zero_grad()
                    torch.nn.functional.mse_loss(net(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    schedule.step()
            with torch.no_grad():
                guessed: Floats = (net(torch.from_numpy(seen)) + mean).numpy()
        return _clipped(guessed, evidence.inputs)


ATTACKS: Mapping[str, type[Attack]] = {each.name: each for each in (PriorOnly, Linear, Decoder)}


def _solved(gram: Floats, cross: Floats, ridge: float) -> Floats:
    solved: Floats = np.linalg.solve(gram + np.float32(ridge) * np.eye(len(gram), dtype=np.float32), cross)
    return solved


def _clipped(guess: Floats, known: Floats) -> Floats:
    return np.clip(guess, known.min(), known.max()).astype(np.float32)
