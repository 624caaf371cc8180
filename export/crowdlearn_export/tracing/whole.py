"""nn.Module -> a graph of one device, for models that cannot be sliced but compile.

Its arrays are layers of one neuron a row, in the order of the model's state, and nothing is between them but
the order: everything that moves, shares and keeps weights works as with sliced networks.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from crowdlearn_export.errors import UnsupportedModule
from crowdlearn_export.graph.dropping import Call, Drop, drop_of
from crowdlearn_export.graph.freezing import resting_modules, to_training
from crowdlearn_export.graph.key_biases import KeyBiases
from crowdlearn_export.graph.neuron_graph import Edge, Layer, LocalOp, NeuronGraph, check_graph
from crowdlearn_export.graph.weights import ties
from crowdlearn_export.graph.whole import Array, Dropping, Whole, rows_first

from . import layout
from .copies import copied
from .evaluation import Watch, check_evaluation
from .unchanging import check_unchanging

ROWS, OTHER_ROWS = 5, 7
"""The size of the batch that is traced, unlike most other sizes, and another one."""
WHOLE_NUMBERS = (torch.tensor(0), torch.tensor(1))
"""Numbers that samples may consist of: every embedding has 0, and not all padding is 1."""
NO_PLACE = torch.tensor(-1.5)
"""A number at which no embedding has a row."""


def whole_graph(model: nn.Module, sample: Sequence[int], name: str = "") -> NeuronGraph:
    """Return the graph of a model that one device trains as a whole. `sample` is the shape of one sample.

    Raises UnsupportedModule naming what cannot be trained.
    """
    trained = copied(model)
    to_training(trained, resting_modules(trained))
    dtype = sample_dtype(trained, sample)
    check_evaluation(trained, sample, dtype)
    x = as_samples(torch.randn(ROWS, *sample, generator=torch.Generator().manual_seed(0)), dtype)
    scores, drops, still = _tried(trained, x)
    check_unchanging(trained, sample, dtype)
    if scores.dim() == 1:
        raise UnsupportedModule(
            "the model gives a number for a sample, of no axis; leave its last squeeze out, so that it gives "
            "[batch, 1]"
        )
    if scores.dim() not in (2, 3):
        raise UnsupportedModule(
            f"the model gives shape {tuple(scores.shape[1:])} for a sample; it must give one score for each "
            "output, or [positions, classes]"
        )
    arrays = _arrays(trained, x)
    if not any(each.role == "parameter" for each in arrays):
        raise UnsupportedModule("nothing in it learns, all is frozen (requires_grad=False)")
    integers = dtype is torch.int64
    draft = Whole(trained, arrays, drops, still, integers=integers, key="")
    whole = Whole(trained, arrays, drops, still, integers=integers, key=_key(draft, x))
    graph = _graph(name or type(model).__name__, whole, tuple(sample), tuple(scores.shape[1:]))
    check_graph(graph)
    return graph


def sample_dtype(model: nn.Module, sample: Sequence[int]) -> torch.dtype:
    """Return float32, or int64 for a model that takes whole numbers alone, as embeddings do, or makes them of
    its samples, as `x.long()` does.

    Raises UnsupportedModule if it takes neither, or takes numbers of both kinds side by side.
    """
    tried = copied(model).eval()
    with torch.no_grad():
        try:
            tried(torch.zeros(2, *sample))
        except Exception as error:  # whatever a user's model raises
            if _takes_whole_numbers(tried, sample):
                return torch.int64
            first = str(error).partition("\n")[0]
            raise UnsupportedModule(
                f"{type(model).__name__} does not run on shape {(2, *sample)}: {first}"
                f"{layout.remedy(tried, sample)}"
            ) from error
        if _runs(tried, NO_PLACE.expand(2, *sample)) or not _takes_whole_numbers(tried, sample):
            return torch.float32
        if not torch.equal(tried(torch.zeros(2, *sample)), tried(torch.full((2, *sample), 0.5))):
            raise UnsupportedModule(
                f"{type(model).__name__} looks some numbers of a sample up in an embedding and computes with "
                "others; a sample has numbers of one kind: give codes as one-hot numbers, and a Linear "
                "without bias in place of the embedding"
            )
    return torch.int64


def _takes_whole_numbers(model: nn.Module, sample: Sequence[int]) -> bool:
    return any(_runs(model, value.expand(2, *sample)) for value in WHOLE_NUMBERS)


def _runs(model: nn.Module, x: Tensor) -> bool:
    try:
        model(x)
    except Exception:  # whatever a user's model raises
        return False
    return True


def as_samples(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Draw random numbers as samples of this dtype: whole ones are 0 or 1, which every embedding has.

    They are of the shape [...] of the sample.
    """
    return numbers if dtype.is_floating_point else (numbers > 0).to(dtype)


def _tried(model: nn.Module, x: Tensor) -> tuple[Tensor, list[Drop], dict[str, tuple[int, ...]]]:
    """Return scores of a batch in training, what is dropped, and the rows of biases that stay."""
    tried = copy.deepcopy(model)
    keys = KeyBiases(dict(tried.named_parameters()))
    with torch.no_grad(), Dropping(learns=len(x)) as dropping, Watch(tried) as watch, keys:
        scores: Tensor = tried(x)
    if watch.drawn:
        raise UnsupportedModule(
            f"{watch.drawn} draws random numbers while it trains, and a program holds none but those of "
            "dropout and of bernoulli_ for each sample; give noise as a part of the samples, or leave it out"
        )
    return scores, _drops(model, x, dropping.calls), keys.still(scores)


def _drops(model: nn.Module, x: Tensor, calls: Sequence[Call]) -> list[Drop]:
    """Return what is dropped in `calls` of a model by samples `x`: another batch shows along which axes
    samples lie.
    """
    if not calls:
        return []
    with torch.no_grad(), Dropping(learns=OTHER_ROWS) as dropping:
        try:
            copy.deepcopy(model)(x.new_zeros(OTHER_ROWS, *x.shape[1:]))
        except Exception:  # models fail in as many ways as there are; this one fixes the batch
            return [drop_of(call, None) for call in calls]
    if len(dropping.calls) != len(calls):
        raise UnsupportedModule(
            f"dropouts are {len(calls)} for {len(x)} samples and {len(dropping.calls)} for {OTHER_ROWS}; a "
            "forward must do the same for every batch"
        )
    return [drop_of(*pair) for pair in zip(calls, dropping.calls, strict=True)]


def _arrays(model: nn.Module, x: Tensor) -> list[Array]:
    """Return the floats of the model's state; those buffers are frozen that training leaves as they are."""
    parameters = dict(model.named_parameters())
    shared = ties(model.state_dict())
    moved = copy.deepcopy(model)
    with torch.no_grad(), Dropping():
        moved(torch.ones_like(x))
    after = moved.state_dict()
    arrays = []
    for name, value in model.state_dict().items():
        if name in shared:
            continue
        if not value.is_floating_point():
            if not name.endswith("num_batches_tracked") and not torch.equal(value, after[name]):
                raise UnsupportedModule(
                    f"{name} changes at every call, and a program keeps no whole numbers; leave it out"
                )
            continue
        if name in parameters:
            role = "parameter" if parameters[name].requires_grad else "frozen"
        else:
            role = "frozen" if torch.equal(value, after[name]) else "buffer"
        arrays.append(Array(name, tuple(value.shape), role))
    return arrays


def _key(whole: Whole, x: Tensor) -> str:
    """Return what the model computes, in training and in evaluation, as a hash."""
    state = [whole.model.state_dict()[each.name].detach() for each in whole.arrays]
    ones = [torch.ones(len(x), *drop.shape) for drop in whole.drops]
    text = hashlib.sha256(repr((whole.arrays, whole.drops, whole.integers)).encode())
    for training in (True, False):

        def run(x: Tensor, *given: Tensor, training: bool = training) -> tuple[Tensor, ...]:
            arrays = {each.name: value for each, value in zip(whole.arrays, given, strict=False)}
            scores, moved = whole.run(x, arrays, given[len(state) :], training=training)
            return (scores, *moved)

        with torch.compiler._compile_session_context():  # libraries branch on no values then
            traced = make_fx(run, tracing_mode="real")(x, *state, *ones)
        text.update(traced.code.encode())
        for name, constant in sorted(traced.named_buffers()):
            text.update(name.encode() + constant.detach().numpy().tobytes())
    return text.hexdigest()


def _graph(name: str, whole: Whole, sample: tuple[int, ...], scores: tuple[int, ...]) -> NeuronGraph:
    layers = [Layer(0, "input", sample[0], sample[1:], sample[1:])]
    for each in whole.arrays:
        rows, *rest = rows_first(each.shape)
        learns = rows * torch.Size(rest).numel()
        op = LocalOp(
            "array",
            each.name,
            {"role": each.role, "shape": tuple(rest)},
            parameters=learns if each.role == "parameter" else 0,
            buffers=0 if each.role == "parameter" else learns,
        )
        layers.append(Layer(len(layers), each.name, rows, ops=(op,)))
    for number, drop in enumerate(whole.drops):
        rows, *rest = drop.shape
        op = LocalOp("dropout", f"dropout {number}", {"p": drop.probability, "shape": tuple(rest)})
        layers.append(Layer(len(layers), op.module, rows, ops=(op,)))
    layers.append(Layer(len(layers), "scores", scores[0], scores[1:], scores[1:]))
    edges = tuple(Edge(at, at + 1, "whole") for at in range(len(layers) - 1))
    frozen = tuple(sorted(each.name for each in whole.arrays if each.role == "frozen"))
    return NeuronGraph(name, tuple(layers), edges, frozen, whole)
