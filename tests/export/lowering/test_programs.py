"""Compiled programs equal float64 autograd on ExecuTorch itself, at every batch, first and repeated calls."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from crowdlearn_device.errors import ProgramError
from crowdlearn_device.optimizers.adam import AdamW
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_device.program.operators import ALLOWED, RUNTIME, WRITTEN
from crowdlearn_export.compiler.compile import compile_program
from crowdlearn_export.compiler.method import Method
from crowdlearn_export.errors import LoweringError, UnsupportedModule
from crowdlearn_export.lowering.operators import check_operators
from crowdlearn_export.stages.dropout import masks
from crowdlearn_export.stages.optimizers import torch_optimizer
from crowdlearn_export.stages.train_step import train_step
from executorch.extension.pybindings import _portable_lib
from torch import nn

from benchmarks.models import Transformer

from .reference import assert_compiles


def test_convolution_and_pooling_program():
    torch.manual_seed(0)
    x, w, b = torch.randn(4, 3, 8, 6), torch.randn(5, 3, 3, 3), torch.randn(5)

    def function(x, w, b):
        return F.max_pool2d(F.relu(F.conv2d(x, w, b, padding=1)), 2).flatten(1)

    assert_compiles(function, [x, w, b])


def test_average_over_the_whole_map_of_a_convolution():
    torch.manual_seed(0)
    x, w, v = torch.randn(4, 3, 6, 5), torch.randn(5, 3, 3, 3), torch.randn(5, 1, 3, 3)

    def function(x, w, v):
        y = F.conv2d(torch.tanh(F.conv2d(x, w, padding=1)), v, padding=1, groups=5)
        return F.adaptive_avg_pool2d(torch.tanh(y), 1).flatten(1)

    assert_compiles(function, [x, w, v])


def test_attention_over_heads_keeps_the_batch_free():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(6, 2, batch_first=True)
    mask = nn.Transformer.generate_square_subsequent_mask(4)
    weights = {name: p.detach() for name, p in attention.named_parameters()}

    def function(x, *given):
        named = dict(zip(weights, given, strict=True))
        where = {"attn_mask": mask.to(x.dtype)}
        out, shares = torch.func.functional_call(attention, named, (x, x, x), where)
        return torch.cat([out, shares], -1).flatten(1)

    assert_compiles(function, [torch.randn(5, 4, 6), *weights.values()])


@pytest.mark.parametrize(
    "optimizer",
    [Sgd(weight_decay=0.01), Sgd(momentum=0.9, weight_decay=0.01), AdamW(weight_decay=0.01)],
    ids=["sgd", "momentum", "adamw"],
)
def test_train_step_is_the_optimizers(optimizer):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU6(), nn.Flatten(), nn.Linear(64, 3)
    )
    x, y = torch.randn(6, 2, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    step = train_step(model, F.cross_entropy, x, y, optimizer)
    executor = ExecuTorchExecutor(compile_program([step.method], max_batch=6).pte)
    own = torch_optimizer(optimizer, list(model.parameters()), 0.1)
    state = [t.numpy().copy() for t in step.state.values()]
    for number, rows in enumerate((6, 5, 2), 1):
        own.zero_grad()
        loss = F.cross_entropy(model(x[:rows]), y[:rows])
        loss.backward()
        own.step()
        numbers = [np.array(x, np.float32) for x in optimizer.of_step(0.1, number).values()]
        given = [*state, x[:rows].numpy(), y[:rows].numpy(), *numbers]
        (found,) = executor.run("train_step", given)
        np.testing.assert_allclose(found, loss.item(), rtol=1e-5)
        executor.hold(state)  # from the second step on: the same numbers either way
    trained = dict(zip(step.state, state, strict=True))
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            np.testing.assert_allclose(trained[name], value.numpy(), rtol=1e-4, atol=1e-6)


def test_known_bad_operator_is_refused_by_name():
    with pytest.raises(LoweringError, match="max_pool2d_with_indices_backward"):
        check_operators(["aten::add.out", "aten::max_pool2d_with_indices_backward.grad_input"])


def test_operator_without_a_rule_is_refused_by_name():
    def function(x):
        return (torch.cumsum(x, 1), torch.linalg.det(x.reshape(-1, 2, 2)))

    with pytest.raises(LoweringError, match="aten::"):
        compile_program([Method("m", function, (torch.randn(3, 4),), (0,))], max_batch=4)


def test_convolution_over_volumes_is_refused_with_advice():
    w = torch.randn(2, 3, 2, 2, 2)
    method = Method("m", lambda x: (F.conv3d(x, w),), (torch.randn(3, 3, 4, 4, 4),), (0,))
    with pytest.raises(LoweringError, match="use Conv1d or Conv2d"):
        compile_program([method], max_batch=4)


def test_train_step_drops_what_its_masks_say():
    torch.manual_seed(0)
    maps = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Dropout2d(0.5), nn.Flatten())
    model = nn.Sequential(maps, nn.Linear(64, 8), nn.Dropout(0.25), nn.Linear(8, 3))
    x, y = torch.randn(5, 2, 6, 6), torch.tensor([0, 1, 2, 0, 1])
    step = train_step(model, F.cross_entropy, x, y)
    assert {name: drop.shape for name, drop in step.dropped.items()} == {"0.2": (4, 1, 1), "2": (8,)}
    executor = ExecuTorchExecutor(compile_program([step.method], max_batch=5).pte)
    exact = copy.deepcopy(model).double()
    for rows in (5, 2):
        factors = masks(step.dropped, rows, seed=3, step=rows)
        assert {float(f) for f in np.unique(factors[0])} == {0.0, 2.0}
        with torch.no_grad():
            for name, value in zip(step.state, step.state.values(), strict=True):
                exact.get_parameter(name).copy_(value)
        wide = [torch.from_numpy(f).double() for f in factors]
        hidden = exact[1](((exact[0][1](exact[0][0](x[:rows].double()))) * wide[0]).flatten(1))
        loss = F.cross_entropy(exact[3](hidden * wide[1]), y[:rows])
        gradients = torch.autograd.grad(loss, list(exact.parameters()))
        state = [t.numpy().copy() for t in step.state.values()]
        batch = [x[:rows].numpy(), y[:rows].numpy()]
        (found,) = executor.run("train_step", [*state, *batch, np.array(1, np.float32), *factors])
        np.testing.assert_allclose(found, loss.item(), rtol=1e-5)
        scale = max(float(g.abs().max()) for g in gradients)
        for old, new, gradient in zip(step.state.values(), state, gradients, strict=True):
            assert np.abs((old.numpy() - new) - gradient.numpy()).max() <= 1e-5 * scale


def test_gradients_of_a_transformer_block_at_every_batch_on_repeated_calls():
    torch.manual_seed(0)
    model = Transformer(tokens=9, length=5, width=8, heads=2)
    x, y = torch.randint(0, 9, (6, 5)), torch.arange(6) % 10
    assert_steps_as_in_float64(model, x, y, (6, 1, 5))


def assert_steps_as_in_float64(model: nn.Module, x: torch.Tensor, y: torch.Tensor, sizes) -> None:
    """A compiled step moves the weights by the model's gradients, twice for each batch size."""
    exact = copy.deepcopy(model).double()
    step = train_step(model, F.cross_entropy, x, y)
    executor = ExecuTorchExecutor(compile_program([step.method], max_batch=len(x)).pte)
    for rows in sizes:
        wide = x[:rows].double() if x.is_floating_point() else x[:rows]
        loss = F.cross_entropy(exact(wide), y[:rows])
        gradients = torch.autograd.grad(loss, list(exact.parameters()))
        scale = max(float(g.abs().max()) for g in gradients)
        for _ in range(2):
            new = [t.numpy().copy() for t in step.state.values()]
            given = [*new, x[:rows].numpy(), y[:rows].numpy(), np.array(1, np.float32)]
            (found,) = executor.run("train_step", given)
            np.testing.assert_allclose(found, loss.item(), rtol=1e-5)
            for old, value, gradient in zip(step.state.values(), new, gradients, strict=True):
                assert np.abs(old.numpy().astype(np.float64) - value - gradient.numpy()).max() <= 1e-5 * scale


class Ordered(nn.Module):
    """Attention that knows positions by a table of whole numbers, and looks as far as a mask lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.positions, self.head = nn.Embedding(3, 4), nn.Linear(12, 3)
        self.register_buffer("ids", torch.tensor([0, 2, 1]))
        self.register_buffer("later", torch.ones(3, 3, dtype=torch.bool).triu(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.view(x.shape[0], 3, 4) + self.positions(self.ids)
        return self.head(self.attention(x, x, x, attn_mask=self.later, need_weights=False)[0].flatten(1))


def test_buffers_of_whole_numbers_are_constants_of_the_step():
    torch.manual_seed(0)
    model = Ordered()
    x, y = torch.randn(5, 12), torch.tensor([0, 1, 2, 0, 1])
    assert_steps_as_in_float64(model, x, y, (5, 2))


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.head(x) / self.calls


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Counting(), "calls changes at every call"),
        (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, momentum=None)), "give it a momentum"),
    ],
)
def test_whole_numbers_that_a_step_would_change_are_refused(model, said):
    with pytest.raises(UnsupportedModule, match=said):
        train_step(model, F.cross_entropy, torch.randn(2, 4), torch.tensor([0, 1]))


def test_a_convolution_without_padding_may_say_so_in_words():
    torch.manual_seed(0)
    x, w = torch.randn(4, 2, 5, 6), torch.randn(3, 2, 2, 3)
    assert_compiles(lambda x, w: F.conv2d(x, w, padding="valid", stride=(2, 1)).flatten(1), [x, w])


class PositionsFirst(nn.Module):
    """Dropout of activations [L, B, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop, self.last = nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.drop(self.first(x.transpose(0, 1))).mean(0))


def test_train_step_drops_along_the_axis_of_samples():
    torch.manual_seed(0)
    model, x, y = PositionsFirst(), torch.randn(4, 4, 3), torch.tensor([0, 1, 1, 0])
    step = train_step(model, F.cross_entropy, x, y)
    (drop,) = step.dropped.values()
    assert (drop.shape, drop.axis) == ((4, 4), 1)
    (factors,) = masks(step.dropped, 4, seed=3, step=0)
    hidden = model.first(x) * torch.from_numpy(factors)
    loss = F.cross_entropy(model.last(hidden.mean(1)), y)
    state = [t.numpy().copy() for t in step.state.values()]
    executor = ExecuTorchExecutor(compile_program([step.method], max_batch=4).pte)
    found = executor.run("train_step", [*state, x.numpy(), y.numpy(), np.array(1, np.float32), factors])
    np.testing.assert_allclose(found[0], loss.item(), rtol=1e-5)


class Viewed(nn.Module):
    """Maps that are flattened by `view`."""

    def __init__(self) -> None:
        super().__init__()
        self.maps, self.head = nn.Conv2d(2, 4, 3), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.max_pool2d(self.maps(x), 2).view(-1, 16))


def test_train_step_of_a_model_that_views_its_maps():
    torch.manual_seed(0)
    model, x, y = Viewed(), torch.randn(4, 2, 6, 6), torch.tensor([0, 1, 2, 0])
    step = train_step(model, F.cross_entropy, x, y)
    state = [t.numpy().copy() for t in step.state.values()]
    executor = ExecuTorchExecutor(compile_program([step.method], max_batch=4).pte)
    found = executor.run("train_step", [*state, x.numpy(), y.numpy(), np.array(1, np.float32)])
    np.testing.assert_allclose(found[0], F.cross_entropy(model(x), y).item(), rtol=1e-5)


class OwnDropout(nn.Dropout):
    pass


@pytest.mark.parametrize("build", [lambda: OwnDropout(0.5), lambda: nn.Dropout(1.0)])
def test_dropout_of_another_kind_or_of_everything_is_refused_by_name(build):
    model = nn.Sequential(nn.Linear(4, 3), build())
    with pytest.raises(LoweringError, match=r"1 \(.*Dropout\)"):
        train_step(model, F.cross_entropy, torch.randn(2, 4), torch.tensor([0, 1]))


def test_a_dropout_called_twice_is_refused():
    drop = nn.Dropout(0.5)
    model = nn.Sequential(nn.Linear(4, 3), drop, nn.Tanh(), drop)
    with pytest.raises(LoweringError, match="called 2 times"):
        train_step(model, F.cross_entropy, torch.randn(2, 4), torch.tensor([0, 1]))


def test_every_allowed_operator_is_in_the_runtime_and_on_android():
    assert not ALLOWED - set(_portable_lib._get_operator_names())
    there = {name.split(".")[0].removeprefix("aten::") for name in ALLOWED}
    assert {name for name in there if not name.startswith(RUNTIME)} == WRITTEN


def test_an_operator_that_android_lacks_is_refused_by_name():
    with pytest.raises(
        LoweringError, match=r"aten::var_mean would reach .* Android's ExecuTorch does not have"
    ):
        check_operators(["aten::add.out", "aten::var_mean.correction_out"])
    with pytest.raises(LoweringError, match="aten::acos has no lowering rule"):
        check_operators(["aten::acos.out"])
    with pytest.raises(LoweringError, match=r"indexing by tensors, as x\[rows, at\]; .* use x.gather"):
        check_operators(["aten::index.Tensor_out"])


def test_updates_are_written_over_inputs_that_nothing_reads_afterwards():
    def function(w, v, x):
        y = x @ w
        return y.sum(), w - v * 0.5, v + w.sum(), y

    w, v, x = torch.randn(5, 5), torch.randn(5, 5), torch.randn(3, 5)
    method = Method("m", function, (w, v, x), (2,), {1: 0, 2: 1})
    executor = ExecuTorchExecutor(compile_program([method], max_batch=4).pte)
    given = [w.numpy().copy(), v.numpy().copy(), x.numpy()]
    for _ in range(2):
        expected = [t.numpy() for t in function(*(torch.from_numpy(g.copy()) for g in given))]
        total, y = executor.run("m", given)
        for found, value in zip((total, given[0], given[1], y), expected, strict=True):
            np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-5)


def test_held_arrays_are_read_anew_at_every_run_and_others_between_change_nothing():
    def function(w, x):
        return x @ w, w - 1.0

    def run(w, x, borrowed=True):
        expected = x @ w
        (found,) = executor.run("m", [w, x], borrowed=borrowed)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        return found

    draw = np.random.default_rng(0).standard_normal
    w, x = draw((5, 5), np.float32), draw((3, 5), np.float32)
    method = Method("m", function, (torch.from_numpy(w.copy()), torch.from_numpy(x)), (1,), {1: 0})
    executor = ExecuTorchExecutor(compile_program([method], max_batch=4).pte)
    executor.hold([w, x])
    for _ in range(3):
        start = w.copy()
        run(w, x)
        np.testing.assert_array_equal(w, start - 1)
        x[:] = draw(x.shape)
    kept = run(w, x, borrowed=False)
    before = kept.copy()
    run(w, draw((2, 5), np.float32))  # not held, and of another batch
    with pytest.raises(ProgramError):
        executor.run("m", [w, draw((3, 4), np.float32)])
    run(w, x)
    run(w, x)
    np.testing.assert_array_equal(kept, before)
    executor.hold([other := draw((5, 5), np.float32)])
    run(other, x)
    run(w, x)
