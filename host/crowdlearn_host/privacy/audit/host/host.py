"""The host's audit: its best membership attack in each mode, and a lower bound of epsilon by canaries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import exp

import numpy as np
import torch
from crowdlearn_device.data.dataset import Dataset
from numpy.typing import NDArray
from scipy.stats import binom

from crowdlearn_host.methods.secure_sharing import LEAST_GROUPS
from crowdlearn_host.models.named import build_model
from crowdlearn_host.privacy.audit.figures import auc

from .attacks import ATTACKS, loaded
from .view import MODES, PROJECTED, HostView, config_of, host_view, single_view

DEVICES, SAMPLES, OWN = 100, (50, 500), 3000
EPSILON = 8.0
"""The recommended budget of a sample, at delta 1e-5, with secure sums."""
CANDIDATES = 2000
"""Members, and as many others, that attacks are tried on."""
QUICK_MOVES = 30
"""Devices whose moves are attacked in a quick audit, where the host sees each of them."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class HostRow:
    """One attack: `auc` is None for canaries, which give `epsilon_bound`, a lower bound of `epsilon`.

    `accuracy` is that of the round's global model on samples that no device trained on, with the best attack.
    """

    mode: str
    role: str
    attack: str
    samples: int
    devices: int
    auc: float | None
    epsilon: float | None
    epsilon_bound: float | None = None
    accuracy: float | None = None

    def row(self) -> dict[str, object]:
        """Return the figures, for JSON."""
        return asdict(self)


def host_rows(data: Dataset, seed: int = 0, *, quick: bool = False) -> Iterator[HostRow]:
    """Attack every mode at every number of samples a device, then audit noise by canaries.

    The last row of a mode and number is its best attack. `data` holds the samples of all, and of the host; a
    number of samples for which it has too few is left out. A `quick` audit attacks fewer devices' moves, and
    no projections of them.
    """
    rng = np.random.default_rng(seed)
    flat = Dataset(data.inputs.reshape(len(data), -1), data.labels)
    for samples in SAMPLES:
        devices = min(DEVICES, max(LEAST_GROUPS, (len(flat) - OWN) // (2 * samples)))
        if 2 * devices * samples > len(flat):
            continue  # no sum is released of fewer, and none would be left to compare with
        order = rng.permutation(len(flat))
        taken = devices * samples
        members = np.array_split(order[:taken], devices)
        rest = order[taken:]
        others, own = rest[: len(rest) // 2], rest[len(rest) // 2 :][:OWN]
        for mode in MODES if quick else (*MODES, *PROJECTED):
            view = host_view(mode, flat, members, EPSILON, seed)
            most = QUICK_MOVES if quick or mode in PROJECTED else None
            found = dict(_attacked(view, flat, others, own, seed, most))
            for attack, figure in found.items():
                yield HostRow(mode, "host", attack, samples, devices, figure, view.epsilon)
            right = None if mode in PROJECTED else _accuracy(view, flat, others, seed)
            best = max(found.values())
            yield HostRow(mode, "host", "best", samples, devices, best, view.epsilon, None, right)
        yield _canaries(flat, members, seed)


def _attacked(
    view: HostView,
    data: Dataset,
    others: NDArray[np.int64],
    own: NDArray[np.int64],
    seed: int,
    most: int | None,
) -> Iterator[tuple[str, float]]:
    """Yield each attack's AUC, over `most` of the moves that the host sees (None: all)."""
    model = build_model(config_of("plain", 1, data.inputs.shape[1], EPSILON, seed).model, seed)
    rng = np.random.default_rng(seed)
    each = max(CANDIDATES // len(view.moves), 8)
    for name, attack in ATTACKS.items():
        figures = []
        for move, members in zip(view.moves[:most], view.members[:most], strict=True):
            sets = [rng.permutation(which)[:each] for which in (members, others)]
            scores = [
                attack(
                    model,
                    view.initial,
                    move,
                    data.inputs[chosen],
                    torch.from_numpy(data.labels[chosen]),
                    data.inputs[own],
                )
                for chosen in sets
            ]
            figures.append(auc(scores[0], scores[1]))
        yield name, float(np.mean(figures))


def _accuracy(view: HostView, data: Dataset, others: NDArray[np.int64], seed: int) -> float:
    """Return the share of `others` that the mean of the moves gets right after the round."""
    model = build_model(config_of("plain", 1, data.inputs.shape[1], EPSILON, seed).model, seed)
    loaded(model, view.initial + view.moves.mean(0))
    with torch.no_grad():
        classes = model(torch.from_numpy(data.inputs[others])).argmax(1).numpy()
    return float((classes == data.labels[others]).mean())


def _canaries(data: Dataset, members: list[NDArray[np.int64]], seed: int) -> HostRow:
    """Bound epsilon from below by one run (Steinke, Nasr, Jagielski, 2023).

    A device's samples get wrong labels, which moves the weights most; half of them, at random, take part. The
    attacker, who sees the device's own noisy move, guesses which: more right guesses than an epsilon allows
    bound it.
    """
    canaries = members[0]
    labels = data.labels.copy()
    rng = np.random.default_rng(seed)
    labels[canaries] = (labels[canaries] + rng.integers(1, 10, len(canaries))) % 10
    taking = rng.random(len(canaries)) < 0.5
    wrong = Dataset(data.inputs, labels)
    view = single_view(wrong, canaries[taking], EPSILON, seed)
    model = build_model(config_of("dp", 8, data.inputs.shape[1], EPSILON, seed).model, seed)
    scores = ATTACKS["gradient matching"](
        model,
        view.initial,
        view.moves[0],
        data.inputs[canaries],
        torch.from_numpy(labels[canaries]),
        data.inputs[:2],
    )
    order = np.argsort(scores)
    guesses = max(len(canaries) // 5, 4)
    right = int(taking[order[-guesses:]].sum() + (~taking[order[:guesses]]).sum())
    bound = epsilon_bound(right, 2 * guesses)
    return HostRow("dp", "host", "canaries", len(canaries), 1, None, view.epsilon, bound)


def epsilon_bound(right: int, guesses: int) -> float:
    """Return the largest epsilon under which so many right guesses of all would be too rare (95 %)."""
    bound = 0.0
    for epsilon in np.arange(0, 10, 0.01):
        chance = exp(epsilon) / (1 + exp(epsilon))
        if binom.sf(right - 1, guesses, chance) > 1 - CONFIDENCE:
            break
        bound = float(epsilon)
    return bound
