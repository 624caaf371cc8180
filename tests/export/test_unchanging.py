"""A model that changes while it runs is refused by name, in slices and whole, by doctor as well."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from crowdlearn_export.doctor.doctor import diagnose
from crowdlearn_export.doctor.verdict import trainable_graph
from crowdlearn_export.errors import UnsupportedModule
from crowdlearn_export.graph.whole import Whole
from crowdlearn_export.tracing.unchanging import check_unchanging
from crowdlearn_export.tracing.whole import whole_graph
from torch import Tensor, nn


class Net(nn.Module):
    """Two dense layers, and what is done at every call before them."""

    def __init__(self, before: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.before = nn.Linear(6, 8), nn.Linear(8, 3), before
        self.calls, self.seen = 0, torch.zeros(6)
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(self.before(self, x))))


def replaces(net: Net, x: Tensor) -> Tensor:
    net.last = copy.deepcopy(net.last)
    return x


def adds(net: Net, x: Tensor) -> Tensor:
    if not hasattr(net, "extra"):
        net.extra = nn.Linear(6, 6)
    return net.extra(x)


def clamps(net: Net, x: Tensor) -> Tensor:
    net.first.weight.data.clamp_(-0.1, 0.1)
    return x


def renews(net: Net, x: Tensor) -> Tensor:
    net.first.weight = nn.Parameter(net.first.weight.detach().clone())
    return x


def rounds_when_evaluated(net: Net, x: Tensor) -> Tensor:
    if not net.training:
        net.last.weight.data.mul_(16).round_().div_(16)
    return x


def counts(net: Net, x: Tensor) -> Tensor:
    net.calls += 1
    return x * net.calls if net.training else x


def remembers(net: Net, x: Tensor) -> Tensor:
    if net.training:
        net.seen = 0.9 * net.seen + 0.1 * x.detach().mean(0)
    return x - net.seen


def freezes(net: Net, x: Tensor) -> Tensor:
    net.first.bias.requires_grad_(False)
    return x


def hooks(net: Net, x: Tensor) -> Tensor:
    if not net.calls:
        net.calls = 1
        net.first.register_forward_hook(lambda module, given, out: None)
    return x


CHANGING = {
    replaces: r"last \(Linear\) is replaced, added or removed while the model runs",
    adds: r"extra \(Linear\) is replaced, added or removed while the model runs",
    clamps: "first.weight is written to while the model runs",
    renews: "first.weight is written to while the model runs",
    rounds_when_evaluated: "last.weight is written to while the model runs",
    freezes: r"first \(Linear\) is switched while the model runs",
    hooks: r"first \(Linear\) is switched while the model runs",
    counts: "other scores for the same samples and weights in training",
    remembers: "other scores for the same samples and weights in training",
}


@pytest.mark.parametrize("change", CHANGING)
def test_what_changes_while_it_runs_is_refused_by_name(change: Callable[[Net, Tensor], Tensor]) -> None:
    words, x = CHANGING[change], torch.randn(4, 6)
    with pytest.raises(UnsupportedModule, match=words):
        check_unchanging(Net(change), (6,))
    if change is not adds:
        with pytest.raises(UnsupportedModule, match=words):
            whole_graph(Net(change), (6,))
    for pieces in (1, 2):
        with pytest.raises(UnsupportedModule):
            trainable_graph(Net(change), x, pieces=pieces)
    assert diagnose(Net(change), x).compiles


def test_a_forward_that_goes_to_evaluation_trains_whole_without_what_it_leaves_out() -> None:
    class Rested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.drop, self.last = nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.drop.eval()
            scores: Tensor = self.last(self.drop(torch.tanh(self.first(x))))
            return scores

    with pytest.raises(UnsupportedModule, match=r"drop \(Dropout\) is switched while the model runs"):
        trainable_graph(Rested(), torch.zeros(2, 6), pieces=2)
    whole = trainable_graph(Rested(), torch.zeros(2, 6), pieces=1).whole
    assert whole is not None
    assert not whole.drops


def cached(net: Net, x: Tensor) -> Tensor:
    if not net.calls:
        net.calls, net.seen = 1, torch.ones(6)
    net.last_input = x
    return x * net.seen


def spread(net: Net, x: Tensor) -> Tensor:
    if net.training:
        net.mean = x.detach().mean().expand(6)
    return x - net.mean


@pytest.mark.parametrize("same", [cached, spread, lambda net, x: x * net.first.weight.clamp(-1, 1).mean()])
def test_what_a_call_keeps_without_using_it_is_no_change(same: Callable[[Net, Tensor], Tensor]) -> None:
    check_unchanging(Net(same), (6,))


def centred(net: Net, x: Tensor) -> Tensor:
    if net.training:
        net.mean = 0.9 * net.mean + 0.1 * x.detach().mean(0)
    return x - net.mean


def test_a_buffer_that_is_put_in_place_of_another_is_a_buffer_that_moves() -> None:
    net = Net(centred)
    graph = whole_graph(net, (6,))
    assert isinstance(graph.whole, Whole)
    assert {each.name: each.role for each in graph.whole.arrays}["mean"] == "buffer"
    x, state = torch.randn(5, 6), {name: value.clone() for name, value in net.state_dict().items()}
    scores, (moved,) = graph.whole.run(x, state, [], training=True)
    torch.testing.assert_close(scores, net(x))
    torch.testing.assert_close(moved, net.mean)
