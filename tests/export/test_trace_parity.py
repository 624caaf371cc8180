"""What slices would not train as the model does is refused by name, whatever tracing makes of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_export.errors import UnsupportedModule
from crowdlearn_export.program.slice_program import export_slice
from crowdlearn_export.tracing.trace import neuron_graph
from torch import Tensor, nn
from torch.nn.utils import prune

from benchmarks.models import mobilenet


class Three(nn.Module):
    """Three dense layers, and what `run` makes of them."""

    def __init__(self, run: Callable[[Three, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.same, self.run = nn.Identity(), run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def dense(middle: nn.Module, last: int = 5) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), middle, nn.Tanh(), nn.Linear(last, 3))


def hooked() -> nn.Module:
    layer = nn.Linear(5, 5)
    layer.register_forward_hook(lambda module, given, out: out * 2)
    return dense(layer)


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
    model[2].weight = model[0].weight
    return model


def stopped(model: Three, x: Tensor) -> Tensor:
    with torch.no_grad():
        h = model.a(x)
    return model.c(torch.tanh(model.b(h)))


def overwriting(view: Callable[[Three, Tensor], Tensor]) -> nn.Module:
    def run(model: Three, x: Tensor) -> Tensor:
        h = model.a(x)
        f = F.relu(view(model, h), inplace=True)
        return model.c(model.b(h) + f)

    return Three(run)


REFUSED = {
    "a hook": (hooked, (6,), r"remove the hook of 1 \(Linear\)"),
    "shared weights": (tied, (6,), "2.weight is 0.weight, shared"),
    "a gradient stopped": (lambda: Three(stopped), (6,), "gradient of a.weight"),
    "another way in evaluation": (
        lambda: Three(lambda m, x: m.c(m.b(m.a(x)) if m.training else m.a(x))),
        (6,),
        "scores in evaluation",
    ),
    "a view overwritten": (lambda: overwriting(lambda m, h: h.view(-1, 5)), (6,), "overwrites a value"),
    "itself overwritten": (lambda: overwriting(lambda m, h: m.same(h)), (6,), "overwrites a value"),
    "pruned weights": (
        lambda: dense(prune.l1_unstructured(nn.Linear(5, 5), "weight", amount=0.5)),
        (6,),
        r"1 \(Linear\) computes its weight.*prune.remove",
    ),
    "spectral norm": (
        lambda: dense(nn.utils.spectral_norm(nn.Linear(5, 5))),
        (6,),
        r"1 \(Linear\) computes its weight.*remove_spectral_norm",
    ),
    "weight norm": (
        lambda: dense(nn.utils.weight_norm(nn.Linear(5, 5))),
        (6,),
        r"1 \(Linear\) computes its weight.*remove_weight_norm",
    ),
    "weight norm as a parametrization": (
        lambda: dense(nn.utils.parametrizations.weight_norm(nn.Linear(5, 5))),
        (6,),
        "1 .*computes its weight; call .*remove_parametrizations",
    ),
    "compiled by TorchScript": (
        lambda: dense(torch.jit.script(nn.Linear(5, 5))),
        (6,),
        r"1 \(.*\) is compiled by TorchScript; give the nn.Module",
    ),
    "data parallel": (lambda: nn.DataParallel(dense(nn.ReLU())), (6,), r"wraps a model; give its \.module"),
    "a lone layer": (lambda: nn.Linear(6, 3), (6,), r"a lone Linear; wrap it, as in nn.Sequential\(Linear"),
    "volumes": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)),
        (1, 4, 4, 4),
        r"samples of shape \(1, 4, 4, 4\) cannot be sliced; give \[features\]",
    ),
    "steps of features": (
        lambda: nn.Sequential(nn.Linear(4, 5), nn.Flatten(), nn.Linear(25, 3)),
        (5, 4),
        r"reads neurons of shape \(1, 4\); flatten first",
    ),
    "dropout in evaluation": (
        lambda: Three(lambda m, x: m.c(F.dropout(m.a(x), 0.5))),
        (6,),
        "Three: .*dropout draws random numbers in evaluation mode",
    ),
    "dropout in a module in evaluation": (
        lambda: dense(Three(lambda m, x: F.dropout(x, 0.2, True))),
        (6,),
        r"1 \(Three\): .*dropout draws random numbers",
    ),
    "float64": (lambda: dense(nn.Tanh()).double(), (6,), r"0.weight is torch.float64.*model.float"),
    "no shape yet": (lambda: nn.Sequential(nn.LazyLinear(3)), (6,), "call the model on a batch"),
    "a fixed batch": (
        lambda: Three(lambda m, x: m.c(m.b(m.a(x)).view(2, -1))),
        (6,),
        "batches of any size",
    ),
    "maps for scores": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 1), nn.Tanh(), nn.Conv2d(4, 3, 1), nn.Flatten()),
        (2, 2, 2),
        "one score for each",
    ),
    "everything dropped": (lambda: dense(nn.Dropout(1.0)), (6,), "p below 1"),
    "channels dropped of a flat map": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 1), nn.Flatten(), nn.Dropout2d(0.5), nn.Linear(16, 3)),
        (2, 2, 2),
        "put it before Flatten",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_slices_would_train_otherwise_is_refused(what: str) -> None:
    build, shape, words = REFUSED[what]
    with pytest.raises(UnsupportedModule, match=words):
        neuron_graph(build(), torch.zeros(2, *shape))


def test_maps_whose_sum_is_broadcast_are_refused() -> None:
    class Crossed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(2, 4, 1), nn.Linear(4, 3)
            self.rows, self.columns = nn.AvgPool2d((4, 1)), nn.AvgPool2d((1, 4))

        def forward(self, x: Tensor) -> Tensor:
            h = torch.tanh(self.stem(x))
            return self.head((self.rows(h) + self.columns(h)).mean((2, 3)))

    with pytest.raises(UnsupportedModule, match="equal shape"):
        neuron_graph(Crossed(), torch.zeros(2, 2, 4, 4))


@pytest.mark.parametrize(
    "drop",
    [
        lambda h: F.dropout(h, 0.5, training=False),
        lambda h: F.dropout(h, 0.5, False),
        lambda h: F.dropout(h, 0.0),
    ],
)
def test_a_dropout_that_drops_nothing_is_none(drop: Callable[[Tensor], Tensor]) -> None:
    graph = neuron_graph(Three(lambda m, x: m.c(torch.tanh(drop(m.a(x))))), torch.zeros(2, 6))
    assert not any(op.kind == "dropout" for layer in graph.layers for op in layer.ops)


def test_a_model_in_evaluation_mode_is_traced_for_training() -> None:
    model = dense(nn.BatchNorm1d(5)).eval()
    assert neuron_graph(model, torch.zeros(2, 6)) == neuron_graph(model.train(), torch.zeros(2, 6))


def test_dropout_of_the_mean_of_every_map_is_one_of_neurons() -> None:
    model = nn.Sequential(
        *(nn.Conv2d(2, 6, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5)),
        *(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)),
    )
    graph = neuron_graph(model, torch.zeros(2, 2, 5, 5))
    program = export_slice(graph, [2, 3, 0, 0], Sgd(), max_batch=4)
    assert program.manifest.layers[1].dropout == 0.5
    (mask,) = [port for port in program.manifest.method("forward_1").inputs if port.role == "mask"]
    assert mask.shape == ("B", 3, 1, 1)


def test_a_norm_whose_mean_is_nothing_but_rounding_is_no_difference() -> None:
    """A convolution of what was normed, without a ReLU between, has a mean of zero."""
    neuron_graph(mobilenet(), torch.zeros(2, 3, 32, 32))
