"""The distributions of a model's first weights, measured from models of several seeds."""

from __future__ import annotations

import numpy as np
from crowdlearn_device.privacy.first_weights.distributions import (
    CONSTANT,
    GIVEN,
    LARGEST,
    NORMAL,
    UNIFORM,
    Distribution,
)
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.graph.shape import array_specs
from crowdlearn_export.graph.weights import arrays_of

from .named import build_model

NUMBERS = 256
"""Numbers of an array from which its distribution is told."""
MOST_MODELS = 32
BOUND = 2.1
"""The largest magnitude over the deviation: less is a uniform distribution (1.73), more is a normal one."""


def first_distributions(model: str, graph: NeuronGraph, seed: int) -> dict[str, Distribution]:
    """Return the distribution of each array that learns, by name.

    An array that is the same for every seed is a constant, or GIVEN: what was learned before stays.
    """
    learning = [array.name for array in array_specs(graph) if array.trained]
    drawn: list[dict[str, Floats]] = []
    while len(drawn) < 2 or (len(drawn) < MOST_MODELS and _few(drawn, learning)):
        drawn.append(arrays_of(graph, build_model(model, seed + len(drawn)).state_dict()))
    return {name: _distribution([arrays[name] for arrays in drawn]) for name in learning}


def _few(drawn: list[dict[str, Floats]], learning: list[str]) -> bool:
    """Return whether an array that differs from seed to seed has too few numbers yet."""
    first, second = drawn[0], drawn[1]
    random = [name for name in learning if not np.array_equal(first[name], second[name])]
    return any(first[name].size * len(drawn) < NUMBERS for name in random)


def _distribution(arrays: list[Floats]) -> Distribution:
    first = arrays[0]
    if all(np.array_equal(first, other) for other in arrays[1:]):
        alike = first.size and (first == first.flat[0]).all()
        return Distribution(CONSTANT, float(first.flat[0])) if alike else Distribution(GIVEN)
    numbers = np.concatenate([each.reshape(-1) for each in arrays]).astype(np.float64)
    mean, deviation = float(numbers.mean()), float(numbers.std())
    if abs(mean) < 4 * deviation / len(numbers) ** 0.5:
        mean = 0.0
    most = float(np.abs(numbers - mean).max())
    if max(abs(mean) + most, deviation) > LARGEST:
        return Distribution(GIVEN)
    if most < BOUND * deviation:
        bound = most * (1 + 1 / len(numbers))
        return Distribution(UNIFORM, mean - bound, mean + bound)
    return Distribution(NORMAL, mean, deviation)
