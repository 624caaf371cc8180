"""The audit of slices on shares: a network trains with a sharer and three helpers, and helpers and heirs are
attacked.

A helper has the weights at every moment. Of a sample it holds both of its parts of each shared array; of a
mini-batch, the others' masked parts of the gradient, and the gradient that they open. With DP-SGD it gets the
gradient with noise alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from secrets import token_bytes
from typing import Any, Literal

import numpy as np
import torch
from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.privacy.shares.fixed_point import decode, encode
from crowdlearn_device.privacy.shares.replicated import (
    ACTIVATIONS,
    ERRORS,
    HELPERS,
    KEY_BYTES,
    Place,
    own_keys,
    pair_of,
    third_part,
)
from crowdlearn_device.protocol.frames import Array, Floats
from crowdlearn_device.protocol.schedule import mini_batches
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.tracing.trace import neuron_graph
from torch import Tensor, nn

from crowdlearn_host.planner.shares import shared_edges
from crowdlearn_host.privacy.dp.dp_sgd import DPStep
from crowdlearn_host.privacy.leaks.matching import matches
from crowdlearn_host.simulation.learners.on_shares import (
    Held,
    Opened,
    Triple,
    maps_of,
    put_on_shares,
    ranges_of,
)

from . import labels, membership
from .attacks import Attack, Decoder, Evidence, Linear, PriorOnly
from .audit import Finding, figures_of
from .case import Case
from .figures import auc

SPAN = np.float32(2.0**-31)
"""The factor that makes ring elements, taken with their sign, numbers from -1 to 1."""
QUICK_OWN = 3000
"""Samples of an attacker's own at most, where it is to be quick."""
TRIED = 8
"""Mini-batches whose opened gradients are attacked."""
FEATURES = 1200
"""Numbers of a sample that an attack takes at most: more random ones only drown it."""


class _Rehearsed(Opened):
    """A linear map of an attacker's own network: the same arithmetic, and helper 0's parts of what enters."""

    def __init__(
        self, edge: int, kind: str, fields: Mapping[str, Any], name: str, observer: Callable[[Held], None]
    ) -> None:
        super().__init__(kind, fields, name)
        self._edge, self._observer, self._step = edge, observer, 0
        keys = token_bytes(KEY_BYTES), token_bytes(KEY_BYTES), token_bytes(KEY_BYTES)
        self._keys, self._own = keys, (own_keys(keys, 0), own_keys(keys, 1))

    def forward(self, values: Floats, weights: Floats) -> Floats:
        """Return the sums of activations. They are float32 [B, targets, ...]."""
        self._step += 1
        sums = super().forward(values, weights)
        self._share("activations", values, self._bits[0])
        return sums

    def backward(self, errors: Floats, *, back: bool) -> tuple[Floats | None, Floats]:
        """Return the errors of what entered, if they go `back`; gradients are not wanted, hence 0.

        Errors are float32 [B, targets, ...].
        """
        bits = self._error_bits(errors)
        self._share("errors", errors, bits)
        return self._below(errors, bits) if back else None, np.zeros(self._weights.shape, np.float32)

    def _share(self, kind: Literal["activations", "errors"], values: Floats, bits: int) -> None:
        place = Place(self._step, self._edge, ACTIVATIONS if kind == "activations" else ERRORS)
        third = third_part(encode(values, bits), self._keys, place)
        for position, own in enumerate(self._own):
            pair = pair_of(position, own, third, place, values.shape)
            both = np.stack([pair.first, pair.second])
            self._observer(Held(position, self._edge, self._step, kind, both, bits))


@dataclass
class _Tape:
    """The views of the helpers, in order."""

    held: list[Held] = field(default_factory=list)

    def of(self, position: int, kind: str, edge: int) -> list[Array]:
        return [h.values for h in self.held if (h.position, h.kind, h.edge) == (position, kind, edge)]


@dataclass(frozen=True)
class _Epoch:
    """One epoch of the victims' samples: a tape, and the positions of the samples as they were fed."""

    tape: _Tape
    order: Array


def findings_on_shares(
    case: Case,
    model: nn.Module,
    *,
    batch: int,
    quick: bool,
    first_layer: bool,
    noise: Noise | None = None,
    opened_alone: bool = False,
    held: Mapping[str, Sequence[int]] | None = None,
) -> Iterator[Finding]:
    """Train `model` on shares with the case's samples, with `noise` if any, and attack one helper, two, and
    an heir of all opened; with `opened_alone` only by gradients and snapshots.

    All devices' samples are the victims': a helper of each triple sees those of every dominator. `held` are
    the neurons of each triple, of what enters a module, by its name; without it there is one triple. Of
    several, a helper of each is attacked together, too.
    """
    mode = "shares, first layer shared" if first_layer else "shares"
    triples = max(map(len, (held or {}).values()), default=1)
    if triples > 1:
        mode += f", {triples} triples"
    if noise is not None:
        mode += ", noise"
    graph = neuron_graph(model, torch.from_numpy(case.gallery.inputs[:2]), "audited")
    rate = case.recipe.training.learning_rate
    run = _Run(model, graph, shared_edges(graph, first_layer=first_layer), batch, rate, noise, held or {})
    epochs = [run.epoch(case.gallery, seed) for seed in range(2)]
    put_on_shares(model, run.names, run.rehearsed, run.held)
    known = case.own.subset(np.arange(min(len(case.own), QUICK_OWN))) if quick else case.own
    own, candidates = (run.epoch(data, 2, learning=False) for data in (known, case.gallery))
    attacker = _OnShares(case, mode, run.maps, epochs, known, own, candidates, batch, quick=quick)
    yield from (attacker.of_gradients(),) if opened_alone else attacker.findings()
    put_on_shares(model, run.names, held=run.held)  # the same numbers, and no shares that nobody looks at
    moves = [run.pass_over(case.victim, 3 + number) for number in range(len(epochs))]
    yield from attacker.of_snapshots(graph, moves)


@dataclass(frozen=True)
class Noise:
    """DP-SGD: gradients of samples are clipped to `clip`, noise is `times` that."""

    clip: float
    times: float


class _Run:
    """A model in training, with every shared map tapped."""

    def __init__(
        self,
        model: nn.Module,
        graph: NeuronGraph,
        edges: Sequence[int],
        batch: int,
        rate: float,
        noise: Noise | None,
        held: Mapping[str, Sequence[int]],
    ) -> None:
        self.model, self.held, self._batch = model, held, batch
        self._noise, self._generator = noise, torch.Generator().manual_seed(0)
        self._tape = _Tape()
        self.names = {graph.edges[edge].module: edge for edge in edges}
        self.maps = maps_of(self.names, held)
        put_on_shares(model, self.names, self._tapped, held)
        self._optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9)

    def _tapped(self, edge: int, kind: str, fields: Mapping[str, Any], name: str) -> Triple:
        return Triple(edge, kind, fields, name, self._observe)

    def rehearsed(self, edge: int, kind: str, fields: Mapping[str, Any], name: str) -> _Rehearsed:
        """Return a map whose shares are made, and whose products are taken in the clear."""
        return _Rehearsed(edge, kind, fields, name, self._observe)

    def _observe(self, held: Held) -> None:
        if self._noise is None or held.kind not in ("masked", "opened"):
            self._tape.held.append(held)

    def epoch(self, data: Dataset, seed: int, *, learning: bool = True) -> _Epoch:
        """Feed all samples once, in an order of `seed`; without `learning` weights stay as they are."""
        self._tape = _Tape()
        order = np.random.default_rng((seed, 5)).permutation(len(data))
        self.model.train()
        for part in mini_batches(len(data), self._batch, 2):
            rows = order[part.start : part.stop]
            x, y = torch.from_numpy(data.inputs[rows]), torch.from_numpy(data.labels[rows])
            self._optimizer.zero_grad()
            if learning and self._noise is not None:
                self._add_noisy(self._noise, x, y)
            else:
                loss = nn.functional.cross_entropy(self.model(x), y)
                loss.backward()  # type: ignore[no-untyped-call]
            if learning:
                self._optimizer.step()
        return _Epoch(self._tape, order)

    def _add_noisy(self, noise: Noise, inputs: Tensor, targets: Tensor) -> None:
        """Take the gradients of a step of DP-SGD; helpers see them."""
        step = DPStep(noise.clip, noise.times, float(len(inputs)))
        found = step.gradients(self.model, _loss, inputs, targets, self._generator)
        learning = [p for p in self.model.parameters() if p.requires_grad]
        for parameter, gradient in zip(learning, found, strict=True):
            parameter.grad = gradient
        for number, (name, triple) in self.maps.items():
            weight = self.model.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            assert weight.grad is not None
            opened = np.array(weight.grad.transpose(0, 1))
            own = ranges_of(self.held.get(name, (1,)), len(opened))[triple]
            for position in range(HELPERS):
                self._tape.held.append(Held(position, number, 0, "opened", opened[own]))

    def pass_over(self, data: Dataset, seed: int) -> Floats:
        """Learn from one device's samples; how the first layer moved, float32 [neurons, ...]."""
        first = next(p for name, p in self.model.named_parameters() if name.endswith("weight"))
        before = first.detach().numpy().copy()
        self.epoch(data, seed)
        return np.asarray(first.detach().numpy() - before, np.float32)


def _loss(scores: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(scores, targets, reduction="none")


class _OnShares:
    """The attacks of helpers and heirs."""

    def __init__(
        self,
        case: Case,
        mode: str,
        maps: Mapping[int, tuple[str, int]],
        epochs: Sequence[_Epoch],
        known: Dataset,
        own: _Epoch,
        candidates: _Epoch,
        batch: int,
        *,
        quick: bool,
    ) -> None:
        self._case, self._mode, self._maps = case, mode, maps
        self._triples = sorted({triple for _, triple in maps.values()})
        self._roles = "helper", "a helper of each triple"
        self._epochs, self._own, self._candidates = epochs, own, candidates
        self._batch, self._quick = batch, quick
        self._n = len(case.recipe.plan.pieces)
        self._inputs, self._known = known.inputs.reshape(len(known), -1), known.labels
        self._most = FEATURES // 2 if quick else FEATURES
        self._truth = case.gallery
        self._classes = case.recipe.graph.layers[-1].neurons
        flat = self._truth.inputs.reshape(len(self._truth), -1)
        guess = PriorOnly().guess(Evidence(self._inputs, self._inputs, self._known, flat))
        self._prior = figures_of(self._truth.inputs, guess)

    def findings(self) -> Iterator[Finding]:
        """Run every attack; each takes the weights of its moment."""
        yield self._finding("anybody", "prior only", self._prior)
        last = self._epochs[-1:]
        for attack in (Linear(), Decoder(epochs=2 if self._quick else 8)):
            yield self._reconstruction(attack, "activations", last)
            yield self._reconstruction(attack, "errors", last)
        yield self._reconstruction(
            Linear(), "activations", self._epochs, f", {len(self._epochs)} epochs linked"
        )
        yield from self._labels()
        if len(self._triples) > 1:
            for kind in ("activations", "errors"):
                yield self._reconstruction(Linear(), kind, last, together=True)
            yield from self._labels(together=True)
        for triple in self._triples:
            yield self._colluders(triple)
        yield self.of_gradients()

    def of_snapshots(self, graph: NeuronGraph, moves: Sequence[Floats]) -> Iterator[Finding]:
        """Tell the victim's samples by `moves` of the first layer, float32 [neurons, ...], in passes of the
        victim: snapshots hold all weights, on shares, too.
        """
        victim = self._case.victim.inputs
        flat, edge = victim.reshape(len(victim), -1), graph.edges[0]
        passes = f"weights before and after {len(moves)} passes of the victim"
        for role, source, seen in (
            ("heir", "weights of a pass", moves[-1:]),
            ("heir with host", passes, moves),
        ):
            figures: dict[str, object] = {}
            if edge.kind == "dense" and moves[0].shape[1] == flat.shape[1]:
                figures["auc"] = membership.auc_of_moves(list(seen), flat, self._inputs)
            yield self._finding(role, f"membership, {source}", figures)

    def _finding(self, role: str, attack: str, figures: dict[str, object]) -> Finding:
        return Finding(self._mode, role, attack, self._n, **figures)  # type: ignore[arg-type]

    def _features(self, epochs: Sequence[_Epoch], kind: str, edges: Sequence[int]) -> Floats:
        """Return what helper 0 holds of each sample, in the data's order: float32 [N, d], parts and sums."""
        found = []
        for epoch in epochs:
            place = np.argsort(epoch.order, kind="stable")
            for edge in edges:
                pairs = np.concatenate(epoch.tape.of(0, kind, edge), axis=1)[:, place]
                for values in (pairs[0], pairs[1], pairs[0] + pairs[1]):
                    flat = values.reshape(len(place), -1)[:, : self._most // (3 * len(edges) * len(epochs))]
                    found.append(flat.view(np.int32).astype(np.float32) * SPAN)
        return np.concatenate(found, axis=1)

    def _seen(self, kind: str, *, together: bool) -> Sequence[int]:
        """Return the maps whose shares are looked at: the first one, or the last one for errors; or all, of a
        helper of each triple `together`.
        """
        maps = tuple(self._maps)
        return maps if together else maps[:1] if kind == "activations" else maps[-1:]

    def _evidence(self, epochs: Sequence[_Epoch], kind: str, *, together: bool = False) -> Evidence:
        maps = self._seen(kind, together=together)
        known = self._features([self._own] * len(epochs), kind, maps)
        return Evidence(known, self._inputs, self._known, self._features(epochs, kind, maps))

    def _reconstruction(
        self, attack: Attack, kind: str, epochs: Sequence[_Epoch], text: str = "", *, together: bool = False
    ) -> Finding:
        evidence = self._evidence(epochs, kind, together=together)
        figures = figures_of(self._truth.inputs, attack.guess(evidence), self._prior)
        shares, gallery = evidence.standard[1], self._gallery(len(epochs), kind, together=together)
        figures["reid"] = float((matches(shares, gallery) == np.arange(len(shares))).mean())
        return self._finding(self._roles[together], f"{attack.name}, shares of {kind}{text}", figures)

    def _gallery(self, epochs: int, kind: str, *, together: bool) -> Floats:
        """Return shares of the candidates, scaled, as the attacker makes them: under keys of its own."""
        made = self._features([self._candidates] * epochs, kind, self._seen(kind, together=together))
        return Evidence(made, self._inputs, self._known, made).standard[1]

    def _labels(self, *, together: bool = False) -> Iterator[Finding]:
        """Read labels off shares of errors, and of the last activations."""
        for kind in ("errors", "activations"):
            evidence = self._evidence(self._epochs[-1:], kind, together=together)
            seen, truth = evidence.standard[1], self._truth.labels
            read = {
                "trained classifier": float((labels.trained(evidence) == truth).mean()),
                "k-means": labels.clustered(seen, truth, self._classes),
                "ten labels a class": labels.few_known(seen, truth, self._classes),
            }
            for name, accuracy in read.items():
                text = f"label reading, {name}, shares of {kind}"
                yield self._finding(self._roles[together], text, {"label_accuracy": accuracy})

    def _colluders(self, triple: int) -> Finding:
        """Return the finding of two helpers of one triple: they hold all three parts of what enters its maps,
        of the first of these.
        """
        epoch = self._epochs[-1]
        edge = next(number for number, (_, own) in self._maps.items() if own == triple)
        own, seen = (self._opened(each, edge) for each in (self._own, epoch))
        evidence = Evidence(own, self._inputs, self._known, seen, drifted=True)
        figures = figures_of(self._truth.inputs, Linear().guess(evidence), self._prior)
        figures["label_accuracy"] = float((labels.trained(evidence) == self._truth.labels).mean())
        text = "linear, PCA prior, all three parts" + (f", triple {triple + 1}" if triple else "")
        return self._finding("2 helpers of a triple", text, figures)

    def _opened(self, epoch: _Epoch, edge: int) -> Floats:
        """Return the activations that enter an edge, float32 [N, d] in the data's order.

        Helper 0 has their parts r and r + 1, helper 1 part r + 2.
        """
        place = np.argsort(epoch.order, kind="stable")
        both = (
            [h for h in epoch.tape.held if (h.position, h.kind, h.edge) == (p, "activations", edge)]
            for p in (0, 1)
        )
        parts = [decode(a.values[0] + a.values[1] + b.values[1], a.bits) for a, b in zip(*both, strict=True)]
        return np.concatenate(parts)[place].reshape(len(place), -1)

    def of_gradients(self) -> Finding:
        """Tell from a mini-batch's opened gradient whether a sample was in it.

        Rows of the first shared map's gradient lie in the span of the activations that enter it. The attacker
        computes those of its candidates with the weights that it knows, those after the last mini-batches:
        members and others by the same ones, or the weights' drift would tell them apart.
        """
        epoch, edge = self._epochs[-1], next(iter(self._maps))
        victims, own = (self._opened(each, edge) for each in (self._candidates, self._own))
        half, found = len(own) // 2, []
        gradients = epoch.tape.of(0, "opened", edge)
        for number in range(len(gradients))[-TRIED:]:
            gradient = gradients[number]
            rows = epoch.order[number * self._batch : (number + 1) * self._batch]
            moves = gradient.reshape(-1, gradient.shape[-1]).T
            if moves.shape[1] == victims.shape[1]:  # else it is a convolution's
                candidates = np.concatenate([victims[rows], own[:half]])
                scores = membership.scores(moves, candidates, own[half:])
                found.append(auc(scores[: len(rows)], scores[len(rows) :]))
        name = f"membership in a mini-batch of {self._batch}, opened gradient"
        return self._finding("helper", name, {"auc": float(np.mean(found))} if found else {})
