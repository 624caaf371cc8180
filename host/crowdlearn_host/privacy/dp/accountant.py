"""The account of noise: epsilon after so many steps of DP-SGD, at a delta.

`epsilon` is dp-accounting's, by Renyi divergences. `own_epsilon` computes the same analysis by itself
(Mironov, Talwar, Zhang, "Renyi differential privacy of the sampled Gaussian mechanism", 2019): two programs
must not differ by more than 1 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, lgamma, log, log1p

import numpy as np

from crowdlearn_host.errors import ConfigError

ORDERS = (*range(2, 65), 80, 96, 128, 192, 256, 384, 512)
"""Orders of the divergence, whole numbers."""


@dataclass(frozen=True)
class Schedule:
    """A schedule of `steps` steps with noise of `noise` times the clipping norm, each on samples drawn at the
    rate `rate`.
    """

    noise: float
    rate: float
    steps: int


def epsilon(schedule: Schedule, delta: float) -> float:
    """Return epsilon by dp-accounting. Raises ConfigError if it is not installed."""
    try:
        import dp_accounting
        from dp_accounting import rdp
    except ImportError as error:
        raise ConfigError("dp-accounting is not installed; pip install 'crowdlearn[privacy]'") from error
    if schedule.noise == 0:
        return inf
    accountant = rdp.RdpAccountant(ORDERS)
    step = dp_accounting.PoissonSampledDpEvent(schedule.rate, dp_accounting.GaussianDpEvent(schedule.noise))
    accountant.compose(step, schedule.steps)
    return float(accountant.get_epsilon(delta))


def own_epsilon(schedule: Schedule, delta: float) -> float:
    """Return epsilon by our own computation of the same analysis."""
    if schedule.noise == 0:
        return inf
    found = [
        schedule.steps * _divergence(schedule, order)
        + log1p(-1 / order)
        - (log(delta) + log(order)) / (order - 1)
        for order in ORDERS
    ]
    return max(min(found), 0.0)


def _divergence(schedule: Schedule, order: int) -> float:
    """Return the Renyi divergence of one step at a whole order."""
    q, noise = schedule.rate, schedule.noise
    if q == 1:
        return order / (2 * noise**2)
    k = np.arange(order + 1)
    binomial = np.array([lgamma(order + 1) - lgamma(i + 1) - lgamma(order - i + 1) for i in k])
    terms = binomial + (order - k) * log1p(-q) + k * log(q) + (k * k - k) / (2 * noise**2)
    largest = float(terms.max())
    return (largest + log(float(np.exp(terms - largest).sum()))) / (order - 1)


def noise_for(target: float, rate: float, steps: int, delta: float) -> float:
    """Return the least noise, to 0.1 %, whose epsilon after `steps` is at most `target`."""
    low, high = 0.1, 1.0
    while own_epsilon(Schedule(high, rate, steps), delta) > target:
        high *= 2
        if high > 1e4:
            raise ConfigError(f"no noise gives epsilon {target} after {steps} steps; allow a larger epsilon")
    while high / low > 1.001:
        middle = (low * high) ** 0.5
        if own_epsilon(Schedule(middle, rate, steps), delta) > target:
            low = middle
        else:
            high = middle
    return high
