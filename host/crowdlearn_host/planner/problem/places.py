"""The places of a group for followers' pieces, under any dominator.

A device without samples is a place whose piece never moves. Of devices that dominate, one less than there
are hold followers' pieces at any turn: join them by a tree, and every edge is a place, whose piece is at the
end that is farther from the dominator. It must fit both ends, and moves twice in an epoch if the turns follow
the tree. Any pieces that fit at every turn fit such a tree (Lovász 1970, on hypergraphs that contain a
forest). Edges within a class are best; those between classes are a tree of classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from math import inf

from .fleet import DeviceClass, Fleet, deal

Tree = tuple[tuple[str, str], ...]
"""Pairs of classes that dominate, by name, that join them all; () for all in the order of what they
afford.
"""
MOST_CLASSES = 4
"""Classes that dominate up to which every tree is tried (16 of four classes)."""


@dataclass(frozen=True, order=True)
class Caps:
    """Hard limits: MACs per sample, bytes of memory, bytes sent per sample."""

    macs: float = inf
    memory: float = inf
    uplink: float = inf

    def meet(self, other: Caps) -> Caps:
        """Return what fits both."""
        return Caps(
            min(self.macs, other.macs), min(self.memory, other.memory), min(self.uplink, other.uplink)
        )


def caps_of(kind: DeviceClass, sample_bytes: float = 0.0) -> Caps:
    """Return the hard limits of a class of devices; its own samples are in its memory, too."""
    memory = None if kind.max_memory is None else kind.max_memory - kind.samples * sample_bytes
    return Caps(*(inf if cap is None else float(cap) for cap in (kind.macs_limit, memory, kind.max_uplink)))


def meet(kinds: Iterable[DeviceClass], sample_bytes: float = 0.0) -> Caps:
    """Return what fits every one of these classes."""
    caps = Caps()
    for kind in kinds:
        caps = caps.meet(caps_of(kind, sample_bytes))
    return caps


@dataclass(frozen=True)
class Composition:
    """The devices of a group: how many of each class, and of these how many dominate."""

    classes: tuple[tuple[str, int], ...]
    dominators: int

    @property
    def size(self) -> int:
        """Return devices."""
        return sum(count for _, count in self.classes)

    @property
    def turns(self) -> int:
        """Return turns of an epoch at which the dominator changes."""
        return self.dominators if self.dominators > 1 else 0


def composition(fleet: Fleet, devices: Iterable[str]) -> Composition:
    """Return what these devices of the fleet are."""
    kinds = {name: kind for kind in fleet.classes for name in kind.names}
    counts = Counter(kinds[name].name for name in devices)
    dominators = sum(counts[kind.name] for kind in fleet.classes if kind.samples)
    return Composition(tuple((k.name, counts[k.name]) for k in fleet.classes if counts[k.name]), dominators)


def compositions(fleet: Fleet, groups: int) -> Counter[Composition]:
    """Return how often each composition is among the groups that the fleet is dealt out to."""
    return Counter(composition(fleet, devices) for devices in deal(fleet, groups))


@dataclass(frozen=True)
class Place:
    """A place for a piece: what it must meet, the classes whose devices hold it, and whether it moves."""

    caps: Caps
    kinds: tuple[str, ...]
    moves: bool


def places(fleet: Fleet, group: Composition, tree: Tree = (), sample_bytes: float = 0.0) -> list[Place]:
    """Return the followers' places of a group."""
    kinds = {kind.name: kind for kind in fleet.classes}
    found = []
    for name, count in group.classes:
        dominates = bool(kinds[name].samples)
        caps = caps_of(kinds[name], sample_bytes)
        found += [Place(caps, (name,), dominates)] * (count - dominates)
    for ends in joined(fleet, group, tree, sample_bytes):
        found.append(Place(meet((kinds[name] for name in ends), sample_bytes), ends, moves=True))
    return found


def joined(fleet: Fleet, group: Composition, tree: Tree, sample_bytes: float = 0.0) -> Tree:
    """Return the pairs of classes that join a group's dominating ones: the tree's, if the group has all of
    them.
    """
    here = {name for name, _ in group.classes}
    dominating = [kind for kind in fleet.classes if kind.samples and kind.name in here]
    if tree and len(tree) == len(dominating) - 1 and {name for ends in tree for name in ends} <= here:
        return tree
    ordered = sorted(dominating, key=lambda kind: caps_of(kind, sample_bytes), reverse=True)
    return tuple((first.name, second.name) for first, second in pairwise(ordered))


def trees(fleet: Fleet, sample_bytes: float = 0.0) -> list[Tree]:
    """Return the trees worth trying: one, if what classes afford can be put in order, else all of them."""
    dominating = [kind for kind in fleet.classes if kind.samples]
    ordered = sorted(dominating, key=lambda kind: caps_of(kind, sample_bytes), reverse=True)
    caps = [caps_of(kind, sample_bytes) for kind in ordered]
    is_chain = all(first.meet(second) == second for first, second in pairwise(caps))
    if is_chain or not 2 < len(ordered) <= MOST_CLASSES:
        return [()]
    names = [kind.name for kind in ordered]
    return [_tree(names, code) for code in product(range(len(names)), repeat=len(names) - 2)]


def _tree(names: Sequence[str], code: Sequence[int]) -> Tree:
    """Return the tree with this Prüfer code."""
    degree = [1 + list(code).count(k) for k in range(len(names))]
    edges = []
    for end in code:
        leaf = degree.index(1)
        edges.append((names[leaf], names[end]))
        degree[leaf] = 0
        degree[end] -= 1
    first, second = (k for k, left in enumerate(degree) if left == 1)
    return (*edges, (names[first], names[second]))
