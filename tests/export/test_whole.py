"""Models that cannot be sliced train whole, as PyTorch trains them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from crowdlearn_device.optimizers.adam import AdamW
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_device.piece.piece import Piece
from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_device.protocol.schedule import Pass
from crowdlearn_device.protocol.targets import IGNORED
from crowdlearn_device.state.piece_state import PieceState
from crowdlearn_export.doctor.doctor import diagnose
from crowdlearn_export.doctor.verdict import trainable_graph
from crowdlearn_export.errors import UnsupportedModule
from crowdlearn_export.graph.dropping import LEAST
from crowdlearn_export.graph.shape import array_specs
from crowdlearn_export.graph.unmoved import UnmovedBiases
from crowdlearn_export.graph.weights import arrays_of, state_of
from crowdlearn_export.graph.whole import Dropping
from crowdlearn_export.program.inference import export_inference
from crowdlearn_export.program.slice_program import export_slice
from crowdlearn_export.stages.optimizers import torch_optimizer
from crowdlearn_export.tracing.whole import sample_dtype, whole_graph
from torch import Tensor, nn

SGD, RATE, STEPS, BATCH = Sgd(momentum=0.9, weight_decay=1e-3), 0.05, 20, 8


class Tokens(nn.Module):
    """A transformer of tokens, which is told from the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(20, 8), nn.Parameter(torch.randn(5, 8) * 0.1)
        self.block = nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.embedding(x) + self.places)[:, -1])


class Recurrent(nn.Module):
    def __init__(self, kind: Callable[..., nn.Module], **given: object) -> None:
        super().__init__()
        self.cells = kind(3, 6, batch_first=True, **given)
        self.head = nn.Linear(12 if given.get("bidirectional") else 6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0][:, -1])


class Padded(nn.Module):
    """Attention between the tokens that are there, and the mean of those."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(20, 8, padding_idx=0), nn.Linear(8, 4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([torch.ones_like(x[:, :1]), x], 1)
        y, padded = self.embedding(x), x == 0
        y = y + self.attention(y, y, y, key_padding_mask=padded)[0]
        there = (~padded).unsqueeze(2).to(y.dtype)
        return self.head((y * there).sum(1) / there.sum(1))


class Lengths(nn.Module):
    """A GRU of padded sequences (codes below 8 pad), which is told from the last place of each."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(20, 6), nn.Linear(6, 4)
        self.cells = nn.GRU(6, 6, batch_first=True)

    def lengths(self, x: Tensor) -> Tensor:
        return (x >= 8).sum(1).clamp(min=1)

    def forward(self, x: Tensor) -> Tensor:
        last = (self.lengths(x) - 1).reshape(-1, 1, 1).expand(-1, 1, 6)
        return self.head(self.cells(self.embedding(x))[0].gather(1, last).squeeze(1))


class Packed(Lengths):
    """The same as PyTorch packs it."""

    def forward(self, x: Tensor) -> Tensor:
        given = self.embedding(x), self.lengths(x)
        packed = nn.utils.rnn.pack_padded_sequence(*given, batch_first=True, enforce_sorted=False)
        return self.head(self.cells(packed)[1][0])


def layer_norms() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 4))


def signals() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv1d(3, 6, 3, padding=1, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.MaxPool1d(2)),
        *(nn.Conv1d(6, 8, 3, stride=2), nn.GELU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 4)),
    )


class LanguageModel(nn.Module):
    """Scores of the next token at each position, by the weights of the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(20, 8), nn.Linear(8, 20, bias=False)
        self.head.weight = self.embedding.weight
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True, norm_first=True, bias=False)
        self.block = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.head(self.block(self.embedding(x), mask.to(self.head.weight.dtype), is_causal=True))


class Skipping(nn.Module):
    """A small U-Net: down, up in two ways, and across."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.inner = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.up, self.grow = nn.ConvTranspose2d(6, 4, 2, 2), nn.Upsample(scale_factor=2)
        self.out = nn.Conv2d(14, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        across = torch.tanh(self.down(x))
        inner = torch.tanh(self.inner(nn.functional.avg_pool2d(across, 2)))
        return self.out(torch.cat([self.up(inner), self.grow(inner), across], 1)).flatten(1)[:, :4]


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "layer norms": (layer_norms, (6,)),
    "signals": (signals, (3, 16)),
    "tokens": (Tokens, (5,)),
    "padded tokens": (Padded, (5,)),
    "language model": (LanguageModel, (5,)),
    "gru": (lambda: Recurrent(nn.GRU), (4, 3)),
    "maps down and up": (Skipping, (1, 4, 4)),
    "lstm, two ways": (lambda: Recurrent(nn.LSTM, bidirectional=True), (3, 3)),
    "sequences of several lengths": (Lengths, (6,)),
}
EXACTLY = {"sequences of several lengths": Packed}
"""Models that PyTorch trains in another way."""


@pytest.mark.parametrize("what", MODELS)
def test_twenty_steps_are_pytorchs(what: str, programs: Path) -> None:
    torch.manual_seed(1)
    build, sample = MODELS[what]
    model = build()
    graph = trainable_graph(model, torch.zeros(2, *sample), what, pieces=1)
    owned = [layer.neurons for layer in graph.layers]
    optimizer = AdamW(weight_decay=0.1) if len(graph.scores) > 1 else SGD
    program = export_slice(graph, owned, optimizer, max_batch=BATCH, cache=programs)
    arrays = arrays_of(graph, model.state_dict())
    layers: dict[int, dict[str, np.ndarray]] = {}
    for spec in array_specs(graph):
        kept = layers.setdefault(spec.layer, {})
        kept[f"value/{spec.name}"] = arrays[spec.name].copy()
        if spec.trained:
            kept |= {f"{slot}/{spec.name}": np.zeros_like(arrays[spec.name]) for slot in optimizer.slots}
    layout = (tuple((0, count) for count in owned),)
    state = PieceState(layout[0], layers)
    executor = ExecuTorchExecutor(program.pte)
    piece = Piece(program.manifest, executor, layout, 0, state, 0, Pass(0, STEPS), RATE, seed=0)
    exact = EXACTLY.get(what, build)().double()
    exact.load_state_dict(model.state_dict())
    own = torch_optimizer(optimizer, list(exact.parameters()), RATE)
    draw = np.random.default_rng(0)
    for step in range(STEPS):
        whole_numbers = graph.whole is not None and graph.whole.integers
        x = draw.integers(0, 20, (BATCH, *sample)) if whole_numbers else draw.normal(size=(BATCH, *sample))
        y = draw.integers(0, graph.scores[-1], (BATCH, *graph.scores[:-1]))
        if len(graph.scores) > 1:
            y[draw.random(y.shape) < 0.3] = IGNORED
        piece.feed(step, 0, 1, BATCH, x.astype(np.float32), y, piece.targets.weight(y))
        while piece.ready:
            assert not piece.run()
        own.zero_grad()
        scores = exact(torch.from_numpy(x)).reshape(-1, graph.scores[-1])
        nn.functional.cross_entropy(scores, torch.from_numpy(y).reshape(-1)).backward()
        own.step()
    ends = [item for held in piece.state().layers.values() for item in held.items()]
    found = {key[6:]: value for key, value in ends if key.startswith("value/")}
    trained = state_of(graph, found, model.state_dict())
    for name, value in exact.state_dict().items():
        if value.is_floating_point():
            scale = max(float(value.abs().max()), 1e-2)
            assert float((trained[name] - value).abs().max()) <= 1e-4 * scale, name


def test_it_predicts_in_evaluation_mode(programs: Path) -> None:
    model = signals()
    model(torch.randn(16, 3, 16))
    graph = whole_graph(model, (3, 16))
    program = export_inference(graph, programs)
    arrays = arrays_of(graph, model.state_dict())
    x = torch.randn(7, 3, 16)
    given = [x.numpy(), *(arrays[port.name] for port in program.manifest.method("predict").inputs[1:])]
    (scores,) = ExecuTorchExecutor(program.pte).run("predict", given)
    torch.testing.assert_close(
        torch.from_numpy(scores.copy()), model.eval()(x).detach(), rtol=1e-4, atol=1e-5
    )


def test_dropout_multiplies_by_factors_call_by_call() -> None:
    drop = nn.Dropout(0.5)
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), drop, nn.Tanh(), drop, nn.Linear(8, 3))
    graph = whole_graph(model, (6,))
    assert [op.attributes["p"] for layer in graph.layers for op in layer.ops if op.kind == "dropout"] == [
        0.5
    ] * 2


def test_a_model_has_one_key_whatever_its_weights_and_another_for_another_function() -> None:
    keys = [whole_graph(layer_norms(), (6,)).whole for _ in range(2)]
    assert keys[0] == keys[1]
    other = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8, eps=1e-3), nn.GELU(), nn.Linear(8, 4))
    assert whole_graph(other, (6,)).whole != keys[0]


def test_tied_weights_are_one_array_and_come_back_under_both_names() -> None:
    model = LanguageModel()
    graph, state = whole_graph(model, (5,)), model.state_dict()
    names = [spec.name for spec in array_specs(graph)]
    assert "head.weight" in state
    assert "head.weight" not in names
    found = state_of(graph, {name: 2 * x for name, x in arrays_of(graph, state).items()}, state)
    assert torch.equal(found["head.weight"], found["embedding.weight"])
    assert torch.equal(found["head.weight"], 2 * state["head.weight"])


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
@pytest.mark.parametrize(
    "given", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False, "batch_first": True}]
)
def test_recurrences_written_out_are_pytorchs(kind: type[nn.Module], given: dict[str, bool]) -> None:
    torch.manual_seed(0)
    cells, x = kind(3, 5, **given).double(), torch.randn(4, 6, 3, dtype=torch.float64, requires_grad=True)
    found = []
    for mode in (Dropping(), nullcontext()):
        with mode:
            out, last = cells(x)
        kept = last if isinstance(last, tuple) else (last,)
        loss = (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(0))).sum()
        loss = loss + sum((state**2).sum() for state in kept)
        found.append([out, *kept, *torch.autograd.grad(loss, [x, *cells.parameters()])])
    for own, due in zip(*found, strict=True):
        torch.testing.assert_close(own, due)


class Dropped(nn.Module):
    """Attention and a recurrence that drop inside."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(6, 2, 8, 0.1, batch_first=True)
        self.cells = nn.LSTM(6, 4, num_layers=2, dropout=0.3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        mixed = nn.functional.scaled_dot_product_attention(x, x, x, dropout_p=0.2 * self.training)
        return self.cells(self.block(x + mixed))[0][:, -1]


def test_what_drops_inside_of_functions_multiplies_by_factors() -> None:
    model = Dropped()
    graph = whole_graph(model, (5, 6))
    drops = [
        (op.attributes["p"], layer.neurons)
        for layer in graph.layers
        for op in layer.ops
        if op.kind == "dropout"
    ]
    assert drops == [(0.2, 5), (0.1, 2), (0.1, 5), (0.1, 5), (0.1, 5), (0.3, 5)]
    assert graph.whole is not None
    x, state = torch.randn(3, 5, 6), model.state_dict()
    arrays = {each.name: state[each.name] for each in graph.whole.arrays}
    ones = [torch.ones(3, *drop.shape) for drop in graph.whole.drops]
    trained, _ = graph.whole.run(x, arrays, ones, training=True)
    torch.testing.assert_close(trained, model.eval()(x))
    other, _ = graph.whole.run(x, arrays, [2 * ones[0], *ones[1:]], training=True)
    assert not torch.allclose(other, trained)


class PositionsFirst(nn.Module):
    """Layers as PyTorch has them by default, positions first, and rows of all samples one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(6, 2, 8, 0.1)
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.block(x.transpose(0, 1)).transpose(0, 1).reshape(-1, 6)
        return self.head(self.drop(rows)).reshape(-1, *x.shape[1:2], 3).mean(1)


@pytest.mark.parametrize("length", [4, 5, 7])
def test_what_drops_has_samples_along_any_axis(length: int) -> None:
    torch.manual_seed(0)
    model = PositionsFirst()
    graph = whole_graph(model, (length, 6))
    assert graph.whole is not None
    wanted = [((2, length, length), 0, 1), ((length, 6), 1, 1), ((length, 8), 1, 1), ((length, 6), 1, 1)]
    found = [(drop.around, drop.axis, drop.times) for drop in graph.whole.drops]
    assert found == [*wanted, ((6,), 0, length)]
    x, state = torch.randn(3, length, 6), model.state_dict()
    arrays = {each.name: state[each.name] for each in graph.whole.arrays}
    factors = [torch.rand(3, *drop.shape) for drop in graph.whole.drops]
    together, _ = graph.whole.run(x, arrays, factors, training=True)
    for at in range(3):  # each sample is dropped by its own factors
        alone, _ = graph.whole.run(x[at : at + 1], arrays, [f[at : at + 1] for f in factors], training=True)
        torch.testing.assert_close(alone[0], together[at])
    ones = [torch.ones_like(each) for each in factors]
    kept, _ = graph.whole.run(x, arrays, ones, training=True)
    torch.testing.assert_close(kept, model.eval()(x))


def test_a_transformer_with_positions_first_and_dropout_compiles_to_pytorchs_gradients() -> None:
    torch.manual_seed(0)
    found = diagnose(PositionsFirst(), torch.randn(4, 5, 6))
    assert found.gradient_error is not None, found.compiles
    assert found.gradient_error < 1e-5


class Looked(nn.Module):
    """An embedding of what comes as float32, and, if there are `numbers`, those beside it."""

    def __init__(self, numbers: int = 0) -> None:
        super().__init__()
        self.numbers, self.embedding, self.head = numbers, nn.Embedding(9, 4), nn.Linear(4 + numbers, 3)

    def forward(self, x: Tensor) -> Tensor:
        codes = x[:, self.numbers :].long()
        return self.head(torch.cat([self.embedding(codes).mean(1), x[:, : self.numbers]], 1))


def test_a_model_that_makes_whole_numbers_of_its_samples_takes_whole_numbers() -> None:
    codes = torch.randint(0, 9, (4, 6), generator=torch.Generator().manual_seed(0))
    assert sample_dtype(Looked(), (6,)) is torch.int64
    for given in (codes, codes.float()):
        found = diagnose(Looked(), given)
        assert found.gradient_error is not None, found.compiles
        assert found.gradient_error < 1e-5


def test_codes_and_numbers_in_one_sample_are_refused_in_words() -> None:
    with pytest.raises(UnsupportedModule, match=r"Looked looks some numbers .* up .* one-hot"):
        sample_dtype(Looked(numbers=2), (6,))


class Cells(nn.Module):
    """A recurrence that its forward writes out, from a state that it makes itself."""

    def __init__(self, kind: type[nn.RNNCellBase]) -> None:
        super().__init__()
        self.cell, self.head = kind(3, 5), nn.Linear(5, 2)  # type: ignore[call-arg]

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.size(0), 5)
        state = (h, torch.zeros(x.size(0), 5)) if isinstance(self.cell, nn.LSTMCell) else h
        for step in range(x.size(1)):
            state = self.cell(x[:, step], state)
        return self.head(state[0] if isinstance(state, tuple) else state)


class Functions(nn.Module):
    """Convolutions as functions, of computed kernels, and the largest of some numbers, with their places."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels, self.bias = nn.Parameter(torch.randn(4, 2, 3, 3)), nn.Parameter(torch.randn(4))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        kernels = self.kernels - self.kernels.mean((1, 2, 3), keepdim=True)
        maps = nn.functional.conv2d(x, kernels, self.bias)  # as wide as it has channels
        largest, places = maps.flatten(2).max(-1)
        return self.head(largest + 0.1 * maps.min(3)[0].min(dim=2).values) + places.float().mean(1, True)


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: Cells(nn.GRUCell), (4, 3)),
        (lambda: Cells(nn.LSTMCell), (4, 3)),
        (lambda: Cells(nn.RNNCell), (4, 3)),
        (Functions, (2, 6, 6)),
    ],
)
def test_cells_and_functions_compile_to_pytorchs_gradients(
    build: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    model, x = build(), torch.randn(4, *shape)
    with torch.no_grad():
        expected = model(x)
        with Dropping():
            torch.testing.assert_close(model(x), expected)
    found = diagnose(model, x)
    assert found.gradient_error is not None, found.compiles
    assert found.gradient_error < 1e-5


def test_what_pytorch_cannot_trace_is_told_in_words() -> None:
    class Warped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.where, self.head = nn.Linear(16, 6), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            grid = nn.functional.affine_grid(self.where(x.flatten(1)).view(-1, 2, 3), [*x.shape], False)
            return self.head(nn.functional.grid_sample(x, grid, align_corners=False).flatten(1))

    compiles = diagnose(Warped(), torch.randn(4, 1, 4, 4)).compiles
    assert compiles == "PyTorch cannot trace it for batches of any size, or it draws random numbers"


class Flattened(nn.Module):
    """Maps that are flattened by their sizes, one by one, as older tutorials do it."""

    def __init__(self) -> None:
        super().__init__()
        self.maps, self.head = nn.Conv2d(2, 4, 3), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x, features = nn.functional.max_pool2d(torch.relu(self.maps(x)), 2), 1
        for size in x.size()[1:]:
            features *= size
        return self.head(x.view(-1, features))


class Masked(nn.Module):
    """PyTorch's own transformer, positions first, with the mask that it makes itself."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(6, 2, 8, 0.1)
        self.encoder, self.head = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.size(1))
        return self.head(self.encoder(x.transpose(0, 1), mask)).transpose(0, 1)


@pytest.mark.parametrize(("model", "shape"), [(Flattened, (2, 6, 6)), (Masked, (5, 6))])
def test_what_tutorials_write_compiles_to_pytorchs_gradients(
    model: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    found = diagnose(model(), torch.randn(4, *shape))
    assert found.gradient_error is not None, found.compiles
    assert found.gradient_error < 1e-5


class DroppedWeights(nn.Linear):
    """DropConnect: the weights are dropped, for all samples alike."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, nn.functional.dropout(self.weight, 0.3, self.training), self.bias)


def test_dropout_of_weights_is_refused_by_name() -> None:
    with pytest.raises(
        UnsupportedModule, match=r"shape \(3, 6\) for 5 samples is not of samples, as that of we"
    ):
        whole_graph(DroppedWeights(6, 3), (6,))


@pytest.mark.parametrize("drop", [nn.AlphaDropout, nn.FeatureAlphaDropout])
def test_alpha_dropout_is_pytorchs(drop: Callable[[float], nn.Module]) -> None:
    model, x = nn.Sequential(nn.Conv1d(3, 40, 1), drop(0.3), nn.Flatten()), torch.randn(8, 3, 5)
    assert isinstance(model[0], nn.Conv1d)
    torch.manual_seed(3)
    expected, plain = model(x), model[0](x).flatten(1)
    a = float(((1 - 0.3) * (1 + 0.3 * LEAST**2)) ** -0.5)
    kept = torch.isclose(expected, a * plain - a * LEAST * 0.3, atol=1e-5).float()
    graph = whole_graph(model, (3, 5))
    assert graph.whole is not None
    (told,) = graph.whole.drops
    factors = kept.reshape(8, 40, 5)[:, :, : told.shape[-1]] / (1 - 0.3)
    scores, _ = graph.whole.run(x, model.state_dict(), [factors], training=True)
    assert 0.5 < float(kept.mean()) < 0.9
    torch.testing.assert_close(scores, expected)


@pytest.mark.parametrize("heads_too", [False, True])
@pytest.mark.parametrize("in_numbers", [False, True])
def test_masks_of_attention_may_be_per_sample(heads_too: bool, in_numbers: bool) -> None:
    torch.manual_seed(0)
    attention, x = nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(3, 5, 8)
    lengths = torch.tensor([5, 3, 1])
    padded = torch.arange(5) >= lengths.reshape(-1, 1)
    hidden = torch.rand(3 * 2, 5, 5) > 0.7
    hidden[:, :, 0] = False
    masks = {"key_padding_mask": padded, "attn_mask": hidden if heads_too else hidden[0]}
    if in_numbers:
        masks = {name: torch.zeros(mask.shape).masked_fill(mask, -torch.inf) for name, mask in masks.items()}
    expected = attention(x, x, x, **masks)
    with Dropping():
        found = attention(x, x, x, **masks)
    torch.testing.assert_close(found, expected)


class Depth(nn.Module):
    """A block that is left out at random for each sample."""

    def __init__(self, draw: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.draw = nn.Linear(6, 6), nn.Linear(6, 4), draw

    def forward(self, x: Tensor) -> Tensor:
        block = torch.tanh(self.first(x))
        if self.training:
            block = block * self.draw(block)
        return self.second(x + block)


def test_blocks_are_left_out_by_factors_as_stochastic_depth_draws_them() -> None:
    model = Depth(lambda x: x.new_empty((x.shape[0], 1)).bernoulli_(0.8).div_(0.8))
    graph = whole_graph(model, (6,))
    assert graph.whole is not None
    assert [drop.shape for drop in graph.whole.drops] == [(1,)]
    assert graph.whole.drops[0].probability == pytest.approx(0.2)
    x, state = torch.randn(3, 6), model.state_dict()
    factors = torch.tensor([[0.0], [1 / 0.8], [1 / 0.8]])
    scores, _ = graph.whole.run(x, state, [factors], training=True)
    block = torch.tanh(model.first(x))
    torch.testing.assert_close(scores, model.second(x + block * factors))


def test_biases_that_are_taken_out_again_get_no_gradient() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6)
            self.attention, self.head = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.tanh(self.norm(self.conv(x))).transpose(1, 2)
            return self.head(self.attention(x, x, x)[0].mean(1))

    torch.manual_seed(0)
    model, x = Net(), torch.randn(8, 3, 7)
    assert model.conv.bias is not None
    nn.init.normal_(model.conv.bias)
    nn.init.normal_(model.attention.in_proj_bias)
    other = copy.deepcopy(model).double()
    for net, mode, samples in ((model, UnmovedBiases(), x), (other, nullcontext(), x.double())):
        with mode:
            scores = net(samples)
        torch.autograd.backward(scores.square().sum())
    keys = slice(6, 12)
    assert model.conv.bias.grad is None
    assert not model.attention.in_proj_bias.grad[keys].any()
    assert float(other.conv.bias.grad.abs().max()) < 1e-12
    torch.testing.assert_close(
        model.norm.running_mean.double(), other.norm.running_mean, rtol=1e-5, atol=1e-6
    )
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            due = other.get_parameter(name).grad
            torch.testing.assert_close(parameter.grad.double(), due, rtol=1e-4, atol=1e-5)


class Careful(nn.Module):
    """A model that looks at values where nothing traces it, as those of transformers look at masks."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(20, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            assert bool((torch.arange(x.shape[1]) >= 0).all())
        y = self.embedding(x).unsqueeze(1)
        mixed = nn.functional.scaled_dot_product_attention(
            y, y, y, attn_mask=None, dropout_p=0.0, is_causal=True, scale=None
        )
        return self.head(mixed[:, 0, -1])


def test_what_looks_at_values_only_where_it_is_not_compiled_trains() -> None:
    graph = whole_graph(Careful(), (5,))
    program = export_slice(graph, [layer.neurons for layer in graph.layers], SGD, max_batch=4)
    assert program.manifest.targets.are_classes


@pytest.mark.parametrize(
    ("model", "sample", "words"),
    [
        (Recurrent(nn.GRU), (300, 3), "a recurrence of 300 steps is too long, 256 are possible; shorten"),
        (Packed(), (5,), "packed sequences cannot be trained; give the recurrence padded ones"),
        (nn.Sequential(nn.LayerNorm(6), nn.Unflatten(1, (1, 2, 3))), (6,), "one score for each output"),
        (Depth(lambda x: x.new_empty((1, 1)).bernoulli_(0.8)), (6,), "draw for each"),
        (Depth(torch.randn_like), (6,), "Depth: randn_like draws random numbers while it trains"),
        (nn.Sequential(nn.Linear(6, 4), nn.RReLU()), (6,), "1 \\(RReLU\\): rrelu_? draws random numbers"),
        (nn.Sequential(nn.Linear(6, 4), nn.AlphaDropout(1.0), nn.Linear(4, 3)), (6,), "use p below 1"),
    ],
)
def test_what_would_be_wrong_is_refused(model: nn.Module, sample: tuple[int, ...], words: str) -> None:
    with pytest.raises(UnsupportedModule, match=words):
        whole_graph(model, sample)
