"""nn.Module -> NeuronGraph, by symbolic tracing.

Walking the traced program, every tensor belongs to one draft of a layer. A linear map opens a draft; local
operations join the draft that they follow; an addition merges maps that are still bare sums, and takes
anything else over an identity edge. A draft with several readers takes no more operations: what follows is a
new layer.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from crowdlearn_export.errors import UnsupportedModule
from crowdlearn_export.graph.freezing import freeze, resting_modules, to_training
from crowdlearn_export.graph.neuron_graph import Edge, EdgeKind, Layer, LocalOp, NeuronGraph, check_graph
from crowdlearn_export.ops.local_ops import FUNCTIONS, SUPPORTED, as_module, average, describe, local_op, pair
from crowdlearn_export.ops.signals import on_maps
from crowdlearn_export.quiet import quietly

from . import layout
from .copies import copied
from .evaluation import ONE_OUTPUT, check_evaluation
from .parity import check_traced
from .sizes import write_sizes
from .unchanging import check_unchanging

ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
RESHAPES = (torch.flatten, torch.reshape, torch.squeeze, "flatten", "view", "reshape", "squeeze")
MEANS = (torch.mean, "mean")
IN_PLACE = (operator.iadd, F.relu_, torch.relu_, "relu_", "add_")
MULTIPLICATIONS = (operator.mul, torch.mul, "mul")
PRODUCTS = (*MULTIPLICATIONS, operator.truediv, torch.div, "div")
EXPANSIONS = ("expand", "expand_as")
SHAPE_QUERIES = ("size", "dim", "numel")


@dataclass(eq=False)
class _Draft:
    """A layer being built. `edges` hold their source draft until the layers are numbered."""

    name: str
    neurons: int
    sum_shape: tuple[int, ...]
    shape: tuple[int, ...]
    edges: list[tuple[_Draft, Edge]] = field(default_factory=list)
    biases: list[LocalOp] = field(default_factory=list)
    ops: list[LocalOp] = field(default_factory=list)
    closed: bool = False

    @property
    def is_sum(self) -> bool:
        """Return True if further maps may still be added into it."""
        return not self.closed and not self.ops and bool(self.edges)


@quietly()
def neuron_graph(model: nn.Module, example_input: Tensor, name: str = "") -> NeuronGraph:
    """Return the model as layers of neurons joined by linear maps.

    `example_input` is a batch, [batch, features] or [batch, channels, H, W]; its values do not matter. A
    tensor that is flattened keeps its channels as neurons. The graph is compared with the model, in training
    and in evaluation. Raises UnsupportedModule if the model cannot be sliced.
    """
    graph = trace(model, example_input, name)
    check_evaluation(model, example_input.shape[1:])
    check_unchanging(model, example_input.shape[1:], sliced=True)
    check_traced(model, graph, example_input.shape[1:])
    return graph


def trace(model: nn.Module, example_input: Tensor, name: str = "") -> NeuronGraph:
    """Return the same of a part of a model, whose outputs need be no scores, as it is read and not compared.

    The sample is float32 [B, ...].
    """
    tracing = _Tracing(model, example_input)
    try:
        graph = tracing.graph(name or type(model).__name__)
    except UnsupportedModule:
        raise
    except Exception as error:  # calls have arguments of every kind
        first = str(error).partition("\n")[0]
        raise UnsupportedModule(f"{type(model).__name__} cannot be traced ({first})") from error
    return freeze(graph, model, tracing.resting)


class _Tracing:
    def __init__(self, model: nn.Module, example_input: Tensor) -> None:
        if example_input.dim() not in (2, 3, 4):
            shape = tuple(example_input.shape)
            raise UnsupportedModule(
                f"samples of shape {shape[1:]} cannot be sliced; give [features], [channels, length] or "
                "[channels, H, W], as [784], [6, 128] or [1, 28, 28]"
            )
        self.example = example_input
        # Traced in training mode so that dropout is seen; run in evaluation mode so that a batch of 1 will
        # do.
        built = copied(model)
        to_training(built, resting_modules(built))
        self.resting = resting_modules(built)
        self.program = _trace(built)
        interpreter = fx.Interpreter(self.program.eval(), garbage_collect_values=False)
        try:
            with torch.no_grad():
                interpreter.run(example_input)
        except Exception as error:
            shape = tuple(example_input.shape)
            first = str(error).partition("\n")[0]  # fx tells of its own code behind it
            raise UnsupportedModule(
                f"{type(model).__name__} does not run on shape {shape}: {first}"
                f"{layout.remedy(interpreter.run, shape[1:])}"
            ) from error
        self.values = interpreter.env
        write_sizes(self.program.graph, self.values)
        self.drafts: list[_Draft] = []
        self.of: dict[fx.Node, _Draft] = {}
        self.weighted: set[str] = set()

    def graph(self, name: str) -> NeuronGraph:
        output: _Draft | None = None
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self._input(node)
            elif node.op == "output":
                output = self._output(node)
            elif node.op == "call_module":
                self._module(node)
            elif node.op in ("call_function", "call_method"):
                self._function(node)
            elif node.op == "get_attr" and node.users:
                raise UnsupportedModule(
                    f"{node.target}: a tensor used outside a module; supported: {SUPPORTED}"
                )
            if node in self.of and _readers(node) > 1:
                self.of[node].closed = True
        if output is None or not output.edges:
            raise UnsupportedModule(
                "the model has no linear map between input and output; give it a layer that learns"
            )
        return _number(name, self.drafts, output)

    def _input(self, node: fx.Node) -> None:
        if self.of:
            raise UnsupportedModule(f"input {node.target}: one input is possible")
        self.of[node] = self._open("input", self.example.shape[1], _map_shape(self.example))

    def _output(self, node: fx.Node) -> _Draft:
        (result,) = node.args
        if not isinstance(result, fx.Node) or result not in self.of:
            raise UnsupportedModule(ONE_OUTPUT)
        return self.of[result]

    def _module(self, node: fx.Node) -> None:
        name = str(node.target)
        module = self.program.get_submodule(name)
        if parametrize.is_parametrized(module):
            computed: Any = module.parametrizations
            weight = next(iter(computed))
            raise UnsupportedModule(
                f"{describe(name, module)} computes its {weight}; call torch.nn.utils.parametrize."
                f"remove_parametrizations(module, {weight!r}) first"
            )
        draft = self._argument(node, describe(name, module))
        if getattr(module, "inplace", False):
            self._check_in_place(node, describe(name, module))
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.BatchNorm1d | nn.BatchNorm2d):
            if name in self.weighted:
                raise UnsupportedModule(
                    f"{describe(name, module)} is used twice; give each use its own weights"
                )
            self.weighted.add(name)
        if type(module) is nn.Linear:
            self.of[node] = self._linear(name, module, draft)
        elif isinstance(maps := on_maps(module), nn.Conv2d) and type(module) in (nn.Conv1d, nn.Conv2d):
            self.of[node] = self._conv(node, name, maps, draft)
        elif type(module) is nn.Flatten:
            self.of[node] = self._flatten(node, draft, name)
        elif type(module) is nn.Identity:
            self.of[node] = draft
        else:
            self.of[node] = self._local(node, draft, module, name)

    def _function(self, node: fx.Node) -> None:
        value = self.values[node]
        called = f"{node.name} ({getattr(node.target, '__name__', node.target)})"
        if not isinstance(value, Tensor):
            return
        target = "relu" if node.target is F.relu and node.kwargs.get("inplace") else node.target
        if target in IN_PLACE or node.kwargs.get("inplace"):
            self._check_in_place(node, called)
        if target in ADDITIONS:
            self.of[node] = self._add(node, called)
        elif self._expands(node) or self._adds_ones(node):
            self.of[node] = self._argument(node, called)
        elif target in MULTIPLICATIONS and all(isinstance(x, fx.Node) for x in node.args):
            self.of[node] = self._multiplied(node, called)
        elif target in PRODUCTS and (factor := _factor(node)) is not None:
            source = self.of.get(node.args[0]) or self.of.get(node.args[1])  # type: ignore[arg-type]
            if source is None:
                raise UnsupportedModule(f"{called}: its input is not an activation of the network")
            scaled = LocalOp("scale", attributes={"factor": factor})
            self.of[node] = self._append(source, scaled, source.shape, node.name)
        elif target in RESHAPES:
            self.of[node] = self._flatten(node, self._argument(node, called), "")
        elif target in MEANS:
            self.of[node] = self._mean(node, self._argument(node, called), called)
        elif target in FUNCTIONS:
            draft = self._argument(node, called)
            self.of[node] = self._local(node, draft, as_module(FUNCTIONS[target], node, called), "")
        elif target == "contiguous":
            self.of[node] = self._argument(node, called)
        else:
            raise UnsupportedModule(f"{called} cannot be sliced; supported: {SUPPORTED}")

    def _argument(self, node: fx.Node, called: str) -> _Draft:
        source = node.args[0] if node.args else node.kwargs.get("input")
        if not isinstance(source, fx.Node) or source not in self.of:
            raise UnsupportedModule(f"{called}: its input is not an activation of the network")
        return self.of[source]

    def _check_in_place(self, node: fx.Node, called: str) -> None:
        """Refuse to overwrite what is read elsewhere, also through a view of the same memory."""
        memory = _memory(self.values[node])
        before = itertools.takewhile(lambda other: other is not node, self.program.graph.nodes)
        if any(_readers(other) > 1 for other in before if _memory(self.values.get(other)) == memory):
            raise UnsupportedModule(
                f"{called} overwrites a value that is read elsewhere; do not work in place"
            )

    def _open(self, name: str, neurons: int, shape: tuple[int, ...]) -> _Draft:
        draft = _Draft(name, neurons, shape, shape)
        self.drafts.append(draft)
        return draft

    def _linear(self, name: str, module: nn.Linear, source: _Draft) -> _Draft:
        width = source.neurons * prod(source.shape)
        if len(source.shape) > 1 or width != module.in_features:
            raise UnsupportedModule(
                f"{describe(name, module)} reads neurons of shape {source.shape}; flatten first"
            )
        draft = self._open(name, module.out_features, ())
        weights = module.in_features * module.out_features
        draft.edges.append((source, _edge("dense", name, weights, weights)))
        return _with_bias(draft, name, module)

    def _conv(self, node: fx.Node, name: str, module: nn.Conv2d, source: _Draft) -> _Draft:
        called = describe(name, module)
        depthwise = module.groups > 1
        if depthwise and not module.groups == module.in_channels == module.out_channels:
            raise UnsupportedModule(
                f"{called}: groups={module.groups} of {module.in_channels} -> {module.out_channels} "
                "channels; groups must be 1, or equal to both (depthwise)"
            )
        if module.padding_mode != "zeros":
            raise UnsupportedModule(f"{called}: padding_mode={module.padding_mode!r}; 'zeros' is possible")
        height, width = _map_shape(self.values[node])
        draft = self._open(name, module.out_channels, (height, width))
        attributes = {
            "kernel": tuple(module.kernel_size),
            "stride": tuple(module.stride),
            "padding": _conv_padding(module, called),
            "dilation": tuple(module.dilation),
        }
        weights = module.weight.numel()
        kind: EdgeKind = "depthwise" if depthwise else "conv"
        draft.edges.append((source, _edge(kind, name, weights * height * width, weights, attributes)))
        return _with_bias(draft, name, module)

    def _add(self, node: fx.Node, called: str) -> _Draft:
        if len(node.args) != 2 or node.kwargs:
            raise UnsupportedModule(f"{called}: the sum of two activations is possible")
        terms: list[_Draft] = []
        for term in node.args:
            if not isinstance(term, fx.Node) or term not in self.of:
                raise UnsupportedModule(f"{called}: {term!r} is not an activation of the network")
            terms.append(self.of[term])
        first, second = terms
        shapes = {self.values[term].shape for term in (node, *node.args)}  # type: ignore[index]
        if first is second or len(shapes) > 1 or first.shape != second.shape:
            raise UnsupportedModule(f"{called}: two different activations of equal shape are possible")
        draft = self._open(node.name, first.neurons, first.shape)
        for source in terms:
            if source.is_sum:
                draft.edges.extend(source.edges)
                draft.biases.extend(source.biases)
            else:
                draft.edges.append((source, _edge("identity", "", 0, 0)))
        return draft

    def _adds_ones(self, node: fx.Node) -> bool:
        """Return whether a call only adds axes of size 1 behind [B, neurons]."""
        reshapes = node.target in (*RESHAPES, operator.getitem, torch.unsqueeze, "unsqueeze")
        source = node.args[0] if node.args else None
        if not reshapes or not isinstance(source, fx.Node) or source not in self.of:
            return False
        before, after = self.values[source].shape, self.values[node].shape
        return len(before) == 2 and after[:2] == before and prod(after[2:]) == 1

    def _expands(self, node: fx.Node) -> bool:
        """Return whether a call repeats each neuron's number for a product, which does so itself."""
        source = node.args[0] if node.args else None
        if node.target not in EXPANSIONS or not isinstance(source, fx.Node) or source not in self.of:
            return False
        before, after = self.values[source].shape, self.values[node].shape
        kept = before[:2] == after[:2] and prod(before[2:]) == 1
        return kept and all(user.target in MULTIPLICATIONS for user in node.users)

    def _multiplied(self, node: fx.Node, called: str) -> _Draft:
        """Return the layer of a product of two activations: their numbers lie side by side in its sums, and
        an operation of its own multiplies them. One may have a single number for each neuron.
        """
        factors: list[_Draft] = []
        for factor in node.args:
            if not isinstance(factor, fx.Node) or factor not in self.of:
                raise UnsupportedModule(f"{called}: {factor!r} is not an activation of the network")
            factors.append(self.of[factor])
        first, second = factors
        floats = [prod(first.shape), prod(second.shape)]
        if (
            first is second
            or first.neurons != second.neurons
            or (first.shape != second.shape and 1 not in floats)
        ):
            raise UnsupportedModule(
                f"{called}: the product of two different activations is possible, of equal shape or with one "
                "number for each neuron"
            )
        draft = self._open(node.name, first.neurons, (sum(floats),))
        places = (0, floats[1]), (floats[0], 0)
        for source, place in zip(factors, places, strict=True):
            draft.edges.append((source, _edge("identity", "", 0, 0, {"place": place})))
        draft.ops.append(LocalOp("product", attributes={"shapes": (first.shape, second.shape)}))
        draft.shape = max((first.shape, second.shape), key=lambda shape: (prod(shape), len(shape)))
        return draft

    def _flatten(self, node: fx.Node, draft: _Draft, name: str) -> _Draft:
        source = node.args[0]
        before, after = self.values[source].shape, self.values[node].shape  # type: ignore[index]
        if before == after:
            return draft
        flat = (before[0], prod(before[1:]))
        if after not in (flat, (*before[:2], prod(before[2:]))):
            # The same words whatever the batch is.
            had, gives = (", ".join(("batch", *map(str, shape[1:]))) for shape in (before, after))
            does = f"into [{gives}]" if after[:1] == before[:1] else "across samples"
            raise UnsupportedModule(
                f"{name or node.name} reshapes [{had}] {does}; [batch, everything] is possible"
            )
        if len(draft.shape) == 1:
            return draft
        return self._append(draft, LocalOp("flatten", name), (prod(draft.shape),), node.name)

    def _mean(self, node: fx.Node, draft: _Draft, called: str) -> _Draft:
        axes = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        axes = axes if isinstance(axes, list | tuple) else (axes,)
        before = self.values[node.args[0]].dim()  # type: ignore[index]
        positions = {axis % before for axis in axes if type(axis) is int}
        if len(draft.shape) != 2 or positions != {*range(2, before)}:
            raise UnsupportedModule(
                f"{called}: the mean over H and W of a map, or the length of a signal, is possible"
            )
        draft = self._append(draft, average(draft.shape), (1, 1), node.name)
        flat = self.values[node].dim() == 2
        return self._append(draft, LocalOp("flatten"), (1,), node.name) if flat else draft

    def _local(self, node: fx.Node, draft: _Draft, module: nn.Module, name: str) -> _Draft:
        """Return a local operation given by its module, which for a function is a stand-in without a name."""
        called = describe(name, module) if name else f"{node.name} ({type(module).__name__})"
        shape, module = draft.shape, on_maps(module)
        if isinstance(module, nn.Dropout | nn.Dropout2d) and (not module.p or name in self.resting):
            return draft
        if isinstance(module, nn.MaxPool2d | nn.AvgPool2d | nn.AdaptiveAvgPool2d):
            if len(shape) != 2:
                raise UnsupportedModule(f"{called} pools neurons of shape {shape}; a feature map is possible")
            shape = _map_shape(self.values[node])
        return self._append(
            draft, local_op(module, name, called, draft.neurons, draft.shape, shape), shape, node.name
        )

    def _append(self, draft: _Draft, op: LocalOp, shape: tuple[int, ...], name: str) -> _Draft:
        again = op.kind == "dropout" and any(other.kind == "dropout" for other in draft.ops)
        if draft.closed or again:  # a layer has one dropout
            source = draft
            draft = self._open(name, source.neurons, source.shape)
            draft.edges.append((source, _edge("identity", "", 0, 0)))
        draft.ops.append(op)
        draft.shape = shape
        return draft


def _map_shape(value: Tensor) -> tuple[int, ...]:
    """Return the shape of a neuron's numbers in [B, neurons, ...]: a signal's are a map of height 1."""
    shape = tuple(value.shape[2:])
    return (1, *shape) if len(shape) == 1 else shape


def _trace(model: nn.Module) -> fx.GraphModule:
    kind = type(model).__name__
    if fx.Tracer().is_leaf_module(model, "") and list(model.parameters()):
        raise UnsupportedModule(f"the model is a lone {kind}; wrap it, as in nn.Sequential({kind}(...))")
    try:
        return fx.symbolic_trace(model)
    except Exception as error:
        raise UnsupportedModule(
            f"{type(model).__name__} cannot be traced ({error}); its forward must not branch on tensors"
        ) from error


def _number(name: str, drafts: Iterable[_Draft], output: _Draft) -> NeuronGraph:
    """Keep what the output depends on; drafts are younger than their sources, so the order is topological."""
    needed: set[_Draft] = set()
    waiting = [output]
    while waiting:
        draft = waiting.pop()
        if draft not in needed:
            needed.add(draft)
            waiting.extend(source for source, _ in draft.edges)
    kept = [draft for draft in drafts if draft in needed]
    index = {draft: i for i, draft in enumerate(kept)}
    layers = tuple(
        Layer(i, draft.name, draft.neurons, draft.sum_shape, draft.shape, (*draft.biases, *draft.ops))
        for i, draft in enumerate(kept)
    )
    edges = tuple(
        Edge(index[source], index[draft], edge.kind, edge.module, edge.macs, edge.parameters, edge.attributes)
        for draft in kept
        for source, edge in draft.edges
    )
    graph = NeuronGraph(name, layers, edges)
    check_graph(graph)
    return graph


def _memory(value: object) -> int | None:
    """Return where the numbers of a tensor are."""
    return value.untyped_storage().data_ptr() if isinstance(value, Tensor) else None


def _factor(node: fx.Node) -> float | None:
    """Return the number that a product or quotient multiplies an activation by; None if it is no number."""
    if len(node.args) != 2 or node.kwargs:
        return None
    first, second = node.args
    divides = node.target in (operator.truediv, torch.div, "div")
    if isinstance(first, fx.Node) and isinstance(second, int | float) and not isinstance(second, bool):
        return (1 / second if second else None) if divides else float(second)
    if isinstance(second, fx.Node) and isinstance(first, int | float) and not divides:
        return float(first)
    return None


def _readers(node: fx.Node) -> int:
    """Return how many operations read the tensor itself, not just its shape."""
    return sum(
        not (
            user.target in SHAPE_QUERIES
            or (user.target is getattr and user.args[1] in ("shape", "dtype", "device"))
        )
        for user in node.users
    )


def _edge(
    kind: EdgeKind, module: str, macs: int, parameters: int, attributes: Mapping[str, object] | None = None
) -> Edge:
    return Edge(-1, -1, kind, module, macs, parameters, attributes or {})


def _with_bias(draft: _Draft, name: str, module: nn.Linear | nn.Conv2d) -> _Draft:
    if module.bias is not None:
        draft.biases.append(LocalOp("bias", name, parameters=draft.neurons))
    return draft


def _conv_padding(module: nn.Conv2d, called: str) -> tuple[int, int]:
    if module.padding == "valid":
        return (0, 0)
    if module.padding == "same":
        spans = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        if any(span % 2 for span in spans):
            raise UnsupportedModule(f"{called}: padding='same' of an even kernel is lopsided; pad by numbers")
        return (spans[0] // 2, spans[1] // 2)
    return pair(module.padding)  # type: ignore[arg-type]
