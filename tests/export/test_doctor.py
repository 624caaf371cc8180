"""The doctor tells what a model can do before it is exported."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_export.doctor.doctor import diagnose
from crowdlearn_export.errors import ExportError
from torch import nn
from torch.nn.utils import prune


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.cells, self.head = kind(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cells(x.reshape(x.shape[0], -1, 4))[0][:, -1])


class Attentive(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(4, 2, 8, dropout, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(x.reshape(x.shape[0], -1, 4)).mean(1))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x) if x.sum() > 0 else self.head(-x)


def test_a_sliceable_network_is_found_healthy():
    report = diagnose(
        nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)), torch.randn(4, 6)
    )
    assert not report.slices
    assert all(module.slices and module.trains for module in report.modules)
    assert report.gradient_error is not None
    assert report.gradient_error <= 1e-5
    assert report.step_bytes > 0


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_transformer_block_trains_whole(dropout):
    report = diagnose(Attentive(dropout), torch.randn(5, 12))
    assert not report.compiles
    assert report.slices
    assert all(module.trains for module in report.modules)
    assert report.gradient_error is not None
    assert report.gradient_error <= 1e-5


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_recurrences_train_whole(kind):
    report = diagnose(Recurrent(kind), torch.randn(5, 12))
    assert report.slices
    assert report.exact
    assert all(module.trains for module in report.modules)


class Masked(nn.Module):
    """Attention with a mask per sample, of what AlphaDropout leaves, and left out at random itself."""

    def __init__(self):
        super().__init__()
        self.enter, self.drop = nn.Linear(3, 8), nn.AlphaDropout(0.2)
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        x = x.reshape(-1, 5, 3)
        y = self.drop(torch.selu(self.enter(x)))
        mixed = self.attention(y, y, y, key_padding_mask=x[:, :, 0] > 1.5)[0]
        if self.training:
            mixed = mixed * mixed.new_empty((mixed.shape[0], 1, 1)).bernoulli_(0.8).div_(0.8)
        return self.head((y + mixed).mean(1))


def test_what_trains_only_together_trains():
    torch.manual_seed(0)
    report = diagnose(Masked(), torch.randn(4, 15))
    assert report.compiles == ""
    assert report.exact
    assert all(module.trains for module in report.modules)


def test_what_freezing_saves_is_told_in_numbers():
    model = nn.Sequential(nn.Linear(6, 5).requires_grad_(False), nn.Tanh(), nn.Linear(5, 3))
    told = json.loads(json.dumps(asdict(diagnose(model, torch.randn(4, 6)))))["frozen"]
    assert told["weights"] == [18, 53]
    for rounded, frozen_as, taken in zip(told["rounded"], ("float16", "int8"), (60, 30 + 24), strict=True):
        assert 0 < rounded.pop("difference") < 5e-2
        assert rounded == {"frozen_as": frozen_as, "bytes": taken, "float_bytes": 120, "samples": 4}


def test_the_module_that_cannot_be_trained_is_named():
    model = nn.Sequential(nn.Linear(6, 5), nn.Dropout(1.0), nn.Linear(5, 3))
    report = diagnose(model, torch.randn(4, 6))
    assert [m.name for m in report.modules if not m.trains] == ["1"]
    assert "use Dropout" in report.compiles
    assert report.slices


@pytest.mark.parametrize(
    ("model", "kind", "advice"),
    [
        (Branching(), "", "branches on the values"),
        (nn.Sequential(nn.Flatten(), nn.Softmax(1)), "", "nothing that learns"),
    ],
)
def test_what_cannot_be_trained_is_told_in_plain_words(model, kind, advice):
    report = diagnose(model, torch.randn(5, 12))
    assert advice in report.compiles
    assert [m.kind for m in report.modules if not m.trains] == ([kind] if kind else [])


def test_modules_that_only_train_whole_are_told_apart():
    report = diagnose(
        nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(16, 3)),
        torch.randn(4, 2, 4, 4),
    )
    assert [m.slices for m in report.modules] == [False, False, True, True]
    assert all(m.trains for m in report.modules)
    assert report.gradient_error is not None


class Folded(nn.Module):
    """Positions are rows of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 5), nn.Linear(15, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = torch.relu(self.inner(x.reshape(-1, 4)))
        return self.head(nn.functional.max_pool2d(rows.reshape(-1, 15, 1, 1), 1).flatten(1))


def pooled(size: int, *pool: Any) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(2, 3, 1), nn.ReLU(inplace=True), nn.MaxPool2d(*pool), nn.Flatten()), nn.Linear(size, 3)
    )


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (pooled(12, 1, 2), (2, 4, 4)),
        (pooled(3, 3, 2, 1), (2, 2, 2)),
        (Folded(), (12,)),
    ],
)
def test_pools_and_rows_of_any_kind_are_looked_into(model, shape):
    report = diagnose(model, torch.randn(4, *shape))
    assert report.exact
    assert all(module.trains for module in report.modules), "a ReLU may work in place"


@pytest.mark.parametrize(
    "model", [nn.Linear(5, 3), nn.Sequential(nn.Linear(12, 6), nn.Unflatten(1, (1, 2, 3)))]
)
def test_a_model_that_gives_no_scores_is_refused(model):
    with pytest.raises(ExportError, match=r"shape \("):
        diagnose(model, torch.randn(4, 12))


def test_a_module_that_is_used_twice_is_named_and_the_model_stays_as_it_was():
    layer = nn.Linear(6, 6)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = diagnose(model, torch.randn(4, 6))
    assert "used twice" in report.slices
    assert not report.compiles, "a whole network may have tied weights"
    assert type(layer.weight) is nn.Parameter
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_gradients_that_are_not_numbers_fail(monkeypatch):
    run = ExecuTorchExecutor.run

    def broken(self: ExecuTorchExecutor, method: str, arrays: list[np.ndarray]) -> object:
        return [values * np.nan for values in run(self, method, arrays)]

    monkeypatch.setattr(ExecuTorchExecutor, "run", broken)
    report = diagnose(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), torch.randn(4, 6))
    assert report.gradient_error == np.inf
    assert not report.exact


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (nn.Sequential(nn.Linear(4, 5), nn.LazyLinear(3)), "call the model on a batch first"),
        (nn.Linear(4, 3).double(), "model.float"),
        (prune.l1_unstructured(nn.Linear(4, 3), "weight", amount=0.5), "prune.remove"),
    ],
)
def test_weights_that_no_program_holds_are_refused(model, said):
    with pytest.raises(ExportError, match=said):
        diagnose(model, torch.randn(4, 4))
