"""Every activation: the tracer knows all its spellings, and a piece trains with it."""

from __future__ import annotations

import pytest
import torch
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_export.graph.activations import ACTIVATIONS, Activation
from crowdlearn_export.program.slice_program import export_slice
from crowdlearn_export.tracing.trace import neuron_graph
from torch import Tensor, nn

OPTIONS = {"leaky_relu": {"negative_slope": 0.3}, "elu": {"alpha": 0.5}, "softplus": {"beta": 2.0}}


class Spelled(nn.Module):
    """Two dense layers with something between."""

    def __init__(self, spelling: object) -> None:
        super().__init__()
        self.first, self.second, self.spelling = nn.Linear(5, 4), nn.Linear(4, 3), spelling

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.second(
            getattr(x, self.spelling)() if isinstance(self.spelling, str) else self.spelling(x)  # type: ignore[operator]
        )


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda each: each.kind)
def test_every_spelling_gives_the_module_s_operation(activation: Activation) -> None:
    options = OPTIONS.get(activation.kind, {})
    (op,) = neuron_graph(Spelled(activation.module(**options)), torch.zeros(2, 5)).layers[1].ops[1:]
    assert op.kind == activation.kind
    assert {name: op.attributes[name] for name in options} == options
    x = torch.linspace(-3, 3, 13)
    assert torch.equal(activation.run(x, op.attributes), activation.module(**options)(x))
    for spelling in activation.functions:
        found = neuron_graph(Spelled(spelling), torch.zeros(2, 5)).layers[1].ops[1]
        assert found.kind == activation.kind


def test_a_piece_learns_with_those_that_have_rules_of_their_own() -> None:
    """Exporting compares with float64 autograd, forward and backward, in stages and as one program."""
    model = nn.Sequential(
        nn.Linear(5, 6),
        nn.ELU(0.5),
        nn.Linear(6, 6),
        nn.SELU(),
        nn.Linear(6, 6),
        nn.Mish(),
        nn.Linear(6, 6),
        nn.Softplus(2.0),
        nn.Linear(6, 3),
    )
    export_slice(neuron_graph(model, torch.zeros(2, 5)), [5, 3, 3, 3, 3, 3], Sgd(momentum=0.9), max_batch=8)
