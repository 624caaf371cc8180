"""Every loss has PyTorch's value and gradient, also in the program of a piece, and tells its targets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_device.protocol.targets import IGNORED
from crowdlearn_export.errors import UnsupportedModule
from crowdlearn_export.losses.base import Loss
from crowdlearn_export.losses.classes import CrossEntropy
from crowdlearn_export.losses.numbers import HuberError, SquaredError
from crowdlearn_export.losses.registry import LOSSES, make_loss
from crowdlearn_export.losses.watched import WatchedMetric
from crowdlearn_export.program.slice_program import export_slice
from crowdlearn_export.tracing.trace import neuron_graph
from torch import Tensor, nn

WEIGHTED = CrossEntropy(0.1, (0.5, 2.0, 1.0, 0.25))
EVERY: list[Loss] = [*(make_loss(kind) for kind in LOSSES), CrossEntropy(0.1), HuberError(0.3), WEIGHTED]
OWN = {
    "cross_entropy": nn.CrossEntropyLoss(),
    "mse": nn.MSELoss(),
    "l1": nn.L1Loss(),
    "huber": nn.HuberLoss(),
    "bce": nn.BCEWithLogitsLoss(),
}


def example(loss: Loss, rows: int = 9, outputs: int = 4) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(rows)
    scores = torch.randn(rows, outputs, generator=draw, dtype=torch.float64) * 3
    spec = loss.targets(outputs)
    if spec.are_classes:
        return scores, torch.randint(0, outputs, (rows,), generator=draw)
    drawn = torch.rand(rows, *spec.shape, generator=draw, dtype=torch.float64)
    return scores, drawn if spec.most == 1 else drawn * 6 - 3


@pytest.mark.parametrize("loss", EVERY, ids=repr)
def test_value_and_gradient_are_pytorchs(loss: Loss) -> None:
    scores, targets = example(loss)
    found, due = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    value = loss.value(found, targets, torch.tensor(1 / len(scores), dtype=torch.float64))
    own = loss.reference(due, targets) / len(scores)
    torch.testing.assert_close(value, own)
    torch.testing.assert_close(*(torch.autograd.grad(v, x)[0] for v, x in ((value, found), (own, due))))


@pytest.mark.parametrize("loss", [CrossEntropy(), CrossEntropy(0.1), WEIGHTED], ids=repr)
def test_positions_that_do_not_count_are_left_out_of_the_mean(loss: CrossEntropy) -> None:
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(6, 5, 4, generator=draw, dtype=torch.float64).requires_grad_()
    targets = torch.randint(0, 4, (6, 5), generator=draw)
    targets[0], targets[2, 3:] = IGNORED, IGNORED
    spec = loss.targets(5, 4)
    assert spec.shape == (5,)
    scale = torch.tensor(1 / spec.weight(targets.numpy()), dtype=torch.float64)
    value = loss.value(scores, targets, scale)
    weights = torch.tensor(loss.class_weights, dtype=torch.float64) if loss.class_weights else None
    own = nn.CrossEntropyLoss(weights, label_smoothing=loss.label_smoothing)(
        scores.flatten(0, 1), targets.flatten()
    )
    torch.testing.assert_close(value, own)
    torch.testing.assert_close(loss.reference(scores, targets) * scale, own)
    torch.testing.assert_close(*(torch.autograd.grad(x, scores)[0] for x in (value, own)))


@pytest.mark.parametrize("kind", LOSSES)
def test_a_mini_batch_has_the_mean_that_pytorch_defines(kind: str) -> None:
    loss = make_loss(kind)
    scores, targets = example(loss)
    torch.testing.assert_close(loss.reference(scores, targets) / len(scores), OWN[kind](scores, targets))


@pytest.mark.parametrize("kind", ["bce", "cross_entropy"])
def test_large_scores_do_not_overflow(kind: str) -> None:
    loss = make_loss(kind)
    scores = torch.tensor([[500.0, -500.0], [-500.0, 500.0]]).requires_grad_()
    targets = torch.tensor([0, 1]) if kind == "cross_entropy" else torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    value = loss.value(scores, targets, torch.tensor(1.0))
    torch.testing.assert_close(value, loss.reference(scores, targets))
    assert torch.autograd.grad(value, scores)[0].isfinite().all()


OWN_LOSS = """
import torch

def weighted(scores, targets):
    return ((scores - targets).square() * torch.exp(-targets)).mean(1)

def hinge(scores, targets):
    right = torch.gather(scores, 1, targets.unsqueeze(1))
    return torch.relu(1 + scores - right).sum(1)

def constant(scores, targets):
    return (scores * 0).sum(1) + 1

def mean(scores, targets):
    return (scores - targets).square().mean()
"""


def test_a_users_own_function_is_a_loss(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN_LOSS)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    graph = neuron_graph(model, torch.zeros(2, 5))
    loss = make_loss("own", function=f"{tmp_path / 'mine.py'}:weighted")
    assert loss.targets(3).shape == (3,)
    program = export_slice(graph, [5, 6, 3], Sgd(momentum=0.9), loss, max_batch=8)
    assert program.manifest.targets == loss.targets(3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("constant", "is constant"),
        ("mean", "the loss of each"),
        ("hinge", "fails on scores"),
        ("absent", "cannot be imported"),
    ],
)
def test_a_function_that_is_no_loss_is_refused(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "mine.py").write_text(OWN_LOSS)
    with pytest.raises(UnsupportedModule, match=words):
        make_loss("own", function=f"{tmp_path / 'mine.py'}:{name}").targets(3)


@pytest.mark.parametrize("loss", EVERY, ids=repr)
def test_a_piece_learns_it(loss: Loss) -> None:
    """Exporting compares with float64 autograd, forward and backward, in stages and as one program."""
    outputs = 4 if loss is WEIGHTED else 3
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, outputs))
    graph = neuron_graph(model, torch.zeros(2, 5))
    for owned in ([5, 6, outputs], [5, 0, outputs]):
        program = export_slice(graph, owned, Sgd(momentum=0.9), loss, max_batch=8)
        assert program.manifest.targets == loss.targets(outputs)


def test_one_score_learns_numbers_but_no_class() -> None:
    with pytest.raises(UnsupportedModule, match='train with loss = "bce" or "mse"'):
        CrossEntropy().targets(1)
    assert all(make_loss(kind).targets(1).shape == (1,) for kind in LOSSES if kind != "cross_entropy")


METRICS = """
import torch

def near(scores, targets):
    return ((scores - targets).abs() < 0.5).float().mean(1)

def mean(scores, targets):
    return (scores - targets).abs().mean()

def broken(scores, targets):
    return scores.numpys()
"""


@pytest.mark.parametrize(("name", "words"), [("mean", "one number for each"), ("broken", "numpys")])
def test_a_metric_that_is_none_is_refused(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "own.py").write_text(METRICS)
    spec = SquaredError().targets(3)
    WatchedMetric(f"{tmp_path / 'own.py'}:near").check(spec, (3,))
    with pytest.raises(UnsupportedModule, match=words):
        WatchedMetric(f"{tmp_path / 'own.py'}:{name}").check(spec, (3,))
    with pytest.raises(UnsupportedModule, match="cannot be imported"):
        WatchedMetric(f"{tmp_path / 'own.py'}:nothing").check(spec, (3,))
