"""Every optimizer computes what torch.optim does: on arrays, in a program and on tensors."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from crowdlearn_device.optimizers.adam import Adam, AdamW
from crowdlearn_device.optimizers.base import Optimizer
from crowdlearn_device.optimizers.clipping import clipping, square
from crowdlearn_device.optimizers.registry import OPTIMIZERS, SLOTS, described, read_optimizer
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_device.piece.descent import BLOCK, descend
from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_device.state.piece_state import MOST_KINDS
from crowdlearn_export.compiler.compile import compile_program
from crowdlearn_export.compiler.method import Method
from crowdlearn_export.stages.optimizers import torch_optimizer
from torch import Tensor

ALL = [
    Sgd(),
    Sgd(weight_decay=0.1),
    Sgd(momentum=0.9),
    Sgd(momentum=0.9, nesterov=True, weight_decay=0.1),
    Adam(),
    Adam(beta1=0.8, beta2=0.9, eps=1e-3, weight_decay=0.1),
    AdamW(weight_decay=0.1),
]
STEPS, RATE = 20, 0.05
SHAPE = (7, 5)


def of(kind: Optimizer) -> str:
    return " ".join(f"{key}={value}" for key, value in described(kind).items() if value)


def gradients(shape: tuple[int, ...] = SHAPE) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(0, 1 + number % 3, shape).astype(np.float32) for number in range(STEPS)]


def exact(optimizer: Optimizer, start: np.ndarray, slopes: list[np.ndarray]) -> np.ndarray:
    """The weights after the same steps of torch.optim in float64."""
    weights = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    own = torch_optimizer(optimizer, [weights], RATE)
    for slope in slopes:
        weights.grad = torch.tensor(slope, dtype=torch.float64)
        own.step()
    return weights.detach().numpy()


def test_all_kinds_are_tried() -> None:
    assert {type(each) for each in ALL} == set(OPTIMIZERS.values())
    assert {slot for each in ALL for slot in each.slots} == SLOTS
    assert max(len(each.slots) for each in ALL) + 2 == MOST_KINDS


@pytest.mark.parametrize("optimizer", ALL, ids=of)
def test_arrays_are_changed_as_torch_optim_changes_them(optimizer: Optimizer) -> None:
    shape = (3, BLOCK // 2)
    start = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    weights, slots = start.copy(), [np.zeros(shape, np.float32) for _ in optimizer.slots]
    summed, slopes = np.zeros(shape, np.float32), gradients(shape)
    for number, slope in enumerate(slopes, 1):
        numbers = {name: np.float32(x) for name, x in optimizer.of_step(RATE, number).items()}
        descend(optimizer, weights, slope.copy(), slots, summed, numbers)
    np.testing.assert_allclose(weights, exact(optimizer, start, slopes), rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(summed, np.sum(np.abs(slopes), 0), rtol=1e-5)


@pytest.mark.parametrize("optimizer", ALL, ids=of)
def test_a_program_changes_arrays_as_torch_optim_does(optimizer: Optimizer) -> None:
    kept = len(optimizer.slots)

    def function(weights: Tensor, slope: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        return optimizer.step(
            weights, slope, rest[:kept], dict(zip(optimizer.numbers, rest[kept:], strict=True))
        )

    shapes = [SHAPE] * (2 + kept) + [()] * len(optimizer.numbers)
    example = tuple(torch.rand(shape) for shape in shapes)
    method = Method("step", function, example, tuple(range(2 + kept)))
    executor = ExecuTorchExecutor(compile_program([method], max_batch=SHAPE[0]).pte)
    start = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    state = [start, *(np.zeros(SHAPE, np.float32) for _ in optimizer.slots)]
    for number, slope in enumerate(gradients(), 1):
        numbers = [np.array(x, np.float32) for x in optimizer.of_step(RATE, number).values()]
        state = [np.array(x) for x in executor.run("step", [state[0], slope, *state[1:], *numbers])]
    np.testing.assert_allclose(state[0], exact(optimizer, start, gradients()), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("optimizer", [each for each in ALL if each.is_linear], ids=of)
def test_a_linear_optimizer_takes_the_gradient_times_the_rate(optimizer: Optimizer) -> None:
    start, slope = gradients()[:2]
    numbers = {"rate": np.float32(RATE)}
    (whole,) = optimizer.step(start, slope, (), numbers)
    scaled = optimizer.scaled_step(start, slope * np.float32(RATE), numbers)
    np.testing.assert_allclose(scaled, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", ALL, ids=of)
def test_what_a_manifest_says_of_it_is_read_again(optimizer: Optimizer) -> None:
    clipped = replace(optimizer, clip_norm=2.5)
    assert read_optimizer(json.loads(json.dumps(described(clipped)))) == clipped


@pytest.mark.parametrize("limit", [0.5, 1e6])
def test_parts_of_gradients_are_clipped_as_all_of_them_are(limit: float) -> None:
    slopes = gradients()[:3]
    exactly = [torch.zeros(SHAPE, dtype=torch.float64, requires_grad=True) for _ in slopes]
    for parameter, slope in zip(exactly, slopes, strict=True):
        parameter.grad = torch.tensor(slope, dtype=torch.float64)
    torch.nn.utils.clip_grad_norm_(exactly, limit)
    factor = clipping([square(slopes[:1]), square(slopes[1:])], limit)
    for parameter, slope in zip(exactly, slopes, strict=True):
        assert parameter.grad is not None
        np.testing.assert_allclose(slope * np.float32(factor), parameter.grad.numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        (Sgd, {"nesterov": True}, "goes with momentum"),
        (Sgd, {"momentum": 1.0}, "below 1"),
        (Sgd, {"weight_decay": -1.0}, "from 0"),
        (Adam, {"beta1": 1.0}, "below 1"),
        (Adam, {"eps": float("inf")}, "from 0"),
    ],
)
def test_options_that_cannot_be_are_refused(kind: type[Optimizer], options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        kind(**options)
