from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from crowdlearn_export.doctor.doctor import diagnose
from crowdlearn_export.errors import ExportError, GraphError, UnsupportedModule
from crowdlearn_export.graph.neuron_graph import NeuronGraph, check_graph
from crowdlearn_export.tracing.trace import neuron_graph
from torch import Tensor, nn


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(784, 400),
        nn.BatchNorm1d(400),
        nn.ReLU(),
        nn.Linear(400, 200),
        nn.Tanh(),
        nn.Dropout(0.1),
        nn.Linear(200, 10),
    )


class Residual(nn.Module):
    """In the style of ResNet: a projection without batch norm, a stream with it, pooling, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(8)
        self.wide = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.project = nn.Conv2d(8, 16, 1, stride=2)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        y = self.bn2(self.conv2(F.relu(self.conv1(x))))
        x = F.relu(y + x)
        x = torch.relu(self.wide(x) + self.project(x))
        return self.fc(x.mean((2, 3)))


def kinds(graph: NeuronGraph) -> list[list[str]]:
    return [[op.kind for op in layer.ops] for layer in graph.layers]


def ends(graph: NeuronGraph) -> list[tuple[int, int, str]]:
    return [(edge.source, edge.target, edge.kind) for edge in graph.edges]


def test_a_dense_network_is_a_chain_of_layers() -> None:
    graph = neuron_graph(mlp(), torch.zeros(2, 784))
    assert [layer.neurons for layer in graph.layers] == [784, 400, 200, 10]
    assert kinds(graph) == [[], ["bias", "batch_norm", "relu"], ["bias", "tanh", "dropout"], ["bias"]]
    assert [edge.macs for edge in graph.edges] == [784 * 400, 400 * 200, 200 * 10]
    assert graph.layers[1].message_bytes == 1600
    assert graph.edges[1].module == "3"


@pytest.mark.parametrize(
    ("model", "shape"), [(mlp(), (2, 784)), (Residual(), (2, 3, 8, 8))], ids=["mlp", "residual"]
)
def test_parameters_are_exact(model: nn.Module, shape: tuple[int, ...]) -> None:
    assert neuron_graph(model, torch.zeros(shape)).parameters == sum(p.numel() for p in model.parameters())


def test_additions_merge_bare_sums_and_take_activations_over_identity_edges() -> None:
    graph = neuron_graph(Residual(), torch.zeros(1, 3, 8, 8))
    assert [layer.name for layer in graph.layers] == ["input", "stem", "conv1", "conv2", "add", "add_1", "fc"]
    assert ends(graph) == [
        (0, 1, "conv"),
        (1, 2, "conv"),
        (2, 3, "conv"),
        (3, 4, "identity"),
        (1, 4, "identity"),
        (4, 5, "conv"),
        (4, 5, "conv"),
        (5, 6, "dense"),
    ]
    assert kinds(graph)[5] == ["bias", "bias", "relu", "avg_pool", "flatten"]
    assert graph.layers[5].output_shape == (1,)
    assert graph.edges[0].macs == 3 * 8 * 9 * 64


def test_flatten_turns_a_channel_into_many_inputs() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 5, padding="same"), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(144, 7)
    )
    graph = neuron_graph(model, torch.zeros(1, 1, 12, 12))
    assert graph.layers[1].sum_shape == (12, 12)
    assert graph.layers[1].output_shape == (36,)
    assert graph.edges[0].attributes["padding"] == (2, 2)
    assert graph.edges[1].parameters == 4 * 36 * 7


def test_depthwise_edges_join_equal_channels() -> None:
    model = nn.Sequential(
        *(nn.Conv2d(3, 6, 1), nn.ReLU6(), nn.Conv2d(6, 6, 3, groups=6, bias=False), nn.Hardswish()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )
    graph = neuron_graph(model, torch.zeros(1, 3, 8, 8))
    assert ends(graph) == [(0, 1, "conv"), (1, 2, "depthwise")]
    assert graph.edges[1].macs == 6 * 9 * 36


def test_a_signal_is_a_map_of_height_1() -> None:
    model = nn.Sequential(
        *(nn.Conv1d(3, 6, 5, padding=2), nn.BatchNorm1d(6), nn.ReLU(), nn.MaxPool1d(2)),
        *(nn.Conv1d(6, 6, 3, groups=6), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 4)),
    )
    graph = neuron_graph(model, torch.zeros(1, 3, 16))
    assert ends(graph) == [(0, 1, "conv"), (1, 2, "depthwise"), (2, 3, "dense")]
    assert kinds(graph)[1:3] == [["bias", "batch_norm", "relu", "max_pool"], ["bias", "avg_pool", "flatten"]]
    assert (graph.layers[0].sum_shape, graph.layers[1].sum_shape) == ((1, 16), (1, 16))
    assert graph.layers[1].output_shape == (1, 8)
    assert graph.edges[0].macs == 3 * 6 * 5 * 16
    assert graph.parameters == sum(p.numel() for p in model.parameters())


def test_a_branch_times_a_number_slices() -> None:
    class LowRank(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.whole = nn.Linear(4, 6).requires_grad_(False)
            self.down, self.up, self.head = nn.Linear(4, 2), nn.Linear(2, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.whole(x) + self.up(self.down(x)) * 2.0) / 3)

    graph = neuron_graph(LowRank(), torch.zeros(1, 4))
    assert kinds(graph)[-3:] == [["bias", "scale"], ["bias", "relu", "scale"], ["bias"]]


def test_products_of_activations_are_layers_whose_sums_hold_both_factors() -> None:
    class Excited(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.down, self.up = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 1), nn.Conv2d(2, 6, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.stem(x))
            x = torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True))))) * x
            return x.mean((2, 3))

    graph = neuron_graph(Excited(), torch.zeros(1, 3, 6, 6))
    at = next(layer for layer in graph.layers if layer.ops and layer.ops[0].kind == "product")
    assert at.sum_shape == (17,)
    assert [edge.attributes["place"] for edge in graph.incoming(at.index)] == [(0, 16), (1, 0)]
    assert [edge.kind for edge in graph.incoming(at.index)] == ["identity", "identity"]


def test_an_activation_after_a_shared_value_is_a_layer_of_its_own() -> None:
    class PreActivation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.c(x + self.b(torch.relu(x)))

    graph = neuron_graph(PreActivation(), torch.zeros(1, 4))
    assert ends(graph) == [
        (0, 1, "dense"),
        (1, 2, "identity"),
        (1, 3, "identity"),
        (2, 3, "dense"),
        (3, 4, "dense"),
    ]
    assert kinds(graph) == [[], ["bias"], ["relu"], ["bias"], ["bias"]]


def test_shapes_read_in_forward_and_functions_are_understood() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 2, 3), nn.Linear(18, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = F.max_pool2d(F.gelu(self.conv(x), approximate="tanh"), 2, stride=2)
            x = F.dropout(x, 0.3, training=self.training)
            return self.fc(x.view(x.shape[0], -1))

    model = Functional().eval()
    graph = neuron_graph(model, torch.zeros(3, 1, 8, 8))
    assert kinds(graph)[1] == ["bias", "gelu", "max_pool", "dropout", "flatten"]
    assert graph.layers[1].ops[2].attributes["kernel"] == (2, 2)
    assert not model.training


@pytest.mark.parametrize("pool", [F.max_pool2d, torch.max_pool2d])
def test_a_function_s_arguments_by_place_are_those_of_the_function(pool: Callable[..., Tensor]) -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 2, 3), nn.Linear(18, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(torch.flatten(pool(self.conv(x), 2, 2, 0, 1, True), 1))

    graph = neuron_graph(Functional(), torch.randn(3, 1, 7, 7))
    assert graph.layers[1].ops[1].attributes["ceil_mode"] is True


def test_tracing_leaves_the_model_as_it_was() -> None:
    model = mlp()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    neuron_graph(model, torch.randn(8, 784))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("model", "shape", "words"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.Softmax(dim=1)), (1, 4), "1 (Softmax)"),
        (
            nn.Sequential(nn.Linear(4, 6), nn.Flatten(0), nn.Unflatten(0, (-1, 6))),
            (3, 4),
            "1 reshapes [batch, 6] across samples",
        ),
        (nn.Sequential(nn.Linear(4, 6), nn.Flatten(0)), (1, 4), "1 reshapes [batch, 6] across samples"),
        (nn.Sequential(nn.Conv2d(4, 8, 3, groups=2)), (1, 4, 8, 8), "groups=2"),
        (nn.Sequential(nn.Conv2d(4, 8, 3), nn.Linear(6, 2)), (1, 4, 8, 8), "1 (Linear)"),
        (nn.Sequential(nn.Conv2d(2, 2, 3, padding_mode="reflect", padding=1)), (1, 2, 8, 8), "padding_mode"),
        (
            nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.BatchNorm1d(108)),
            (1, 2, 8, 8),
            "before Flatten",
        ),
        (nn.Sequential(nn.ReLU()), (1, 4), "no linear map"),
        (nn.Sequential(nn.Linear(4, 4)), (1, 5), "does not run"),
        (nn.Sequential(nn.LSTM(4, 4)), (1, 4), "LSTM"),
    ],
)
def test_what_cannot_be_sliced_is_named(model: nn.Module, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(UnsupportedModule) as error:
        neuron_graph(model, torch.zeros(shape))
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("shape", "axes"), [((4, 5, 3), "0, 3, 1, 2"), ((4, 3, 3), "0, 3, 1, 2"), ((4, 3, 5), "0, 2, 3, 1")]
)
def test_samples_that_would_run_transposed_are_told_how(shape: tuple[int, ...], axes: str) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    for judge in (neuron_graph, diagnose):
        with pytest.raises(ExportError) as refused:
            judge(model, torch.randn(8, *shape))
        assert f"inputs.transpose({axes})" in str(refused.value)
    with pytest.raises(UnsupportedModule) as refused:
        neuron_graph(model, torch.randn(2, 7, 8, 9))
    assert "transpose" not in str(refused.value)


def test_shared_weights_are_refused() -> None:
    layer = nn.Linear(4, 4)
    with pytest.raises(UnsupportedModule, match="used twice"):
        neuron_graph(nn.Sequential(layer, nn.ReLU(), layer), torch.zeros(1, 4))


def test_a_damaged_graph_is_refused() -> None:
    graph = neuron_graph(mlp(), torch.zeros(1, 784))
    first, second, *rest = graph.layers
    edge, *others = graph.edges
    for damaged, words in (
        (replace(graph, layers=(first, replace(second, neurons=0), *rest)), "0 neurons"),
        (replace(graph, layers=(first, replace(second, index=3), *rest)), "index 3"),
        (replace(graph, edges=(replace(edge, target=0), *others)), "go forward"),
        (replace(graph, edges=()), "it leads nowhere"),
    ):
        with pytest.raises(GraphError, match=words):
            check_graph(damaged)


class Sizes(nn.Module):
    """A network that looks sizes up and computes with them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 6, 3, padding=1)
        self.hidden, self.head = nn.Linear(24, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        x = F.avg_pool2d(self.second(x), x.shape[-1] // 2)
        x = x.view(-1, x.size(1) * x.size()[2] * x.size(-1))
        return self.head(F.relu(self.hidden(x)))


def test_sizes_that_a_forward_looks_up_are_numbers() -> None:
    graph = neuron_graph(Sizes(), torch.randn(2, 2, 6, 6))
    assert [layer.neurons for layer in graph.layers] == [2, 4, 6, 8, 3]
