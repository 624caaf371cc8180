"""A case: a group whose training was tapped, a victim among its dominators, and an attacker's own data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_export.graph.shape import array_specs
from crowdlearn_export.graph.weights import arrays_of

from crowdlearn_host.errors import ConfigError
from crowdlearn_host.planner.helpers import convolution_messages
from crowdlearn_host.runs.groups import WIRE
from crowdlearn_host.runs.prepare import Prepared

from .rehearsal import Arrays, Moment, PassTape, Recipe, rehearse
from .views import Part, Views, in_order, views_of

SAMPLES = 1040
"""The samples of each device, if the data suffices."""
OWN = 10_000
"""The attacker's own samples at most."""
FEWEST = 8
"""Samples of a device at least."""
LEAST = 64
"""The fewest samples of an attacker from which it learns anything."""
OnProgress = Callable[[str], None]


@dataclass(frozen=True)
class Case:
    """A tapped group. `gallery` holds all devices' samples, `each` a device, the victim's first.

    `own` are the attacker's samples. `tapes` are of all passes, of which the `watched` are the victim's.
    `public_order` is True if the order in which a dominator feeds its samples is public to devices.
    """

    recipe: Recipe
    gallery: Dataset
    own: Dataset
    each: int
    tapes: tuple[PassTape, ...]
    watched: tuple[int, ...]
    public_order: bool
    model: str = ""
    _rehearsed: dict[tuple[str, str], PassTape] = field(default_factory=dict, repr=False, compare=False)

    @property
    def victim(self) -> Dataset:
        """Return the victim's samples."""
        return self.gallery.subset(np.arange(self.each))

    @property
    def last(self) -> PassTape:
        """Return the victim's last pass."""
        return self.tapes[self.watched[-1]]

    def known(self, pieces: tuple[int, ...], *, stale: bool = False) -> Views:
        """Return the views of the attacker's own samples, under weights of the pass's middle, or stale."""
        return in_order(views_of(self._rehearsal("own", stale).records, pieces))

    def candidates(self, pieces: tuple[int, ...], *, stale: bool = False) -> Views:
        """Return the views of the gallery under the same weights."""
        return in_order(views_of(self._rehearsal("gallery", stale).records, pieces))

    def _rehearsal(self, name: str, stale: bool) -> PassTape:
        key = name, str(stale)
        if key not in self._rehearsed:
            data = self.gallery if name == "gallery" else self.own
            weights = self.weights("stale" if stale else "interpolated", -1, 0.5)
            at = Moment(weights, self.last.before.slots)
            self._rehearsed[key] = rehearse(self.recipe, at, data, epoch=1 << 20, device=0, learning=False)
        return self._rehearsed[key]

    def seen(self, pieces: tuple[int, ...], number: int = -1) -> Views:
        """Return what the holders of `pieces` saw in a pass of the victim, by its place in `watched`; samples
        are in the order in which they were fed.
        """
        return views_of(self.tapes[self.watched[number]].records, pieces)

    def weights(self, name: str, number: int, time: float) -> dict[str, Floats]:
        """Return the network as an attacker knows it at a `time` (0 to 1) of a pass of the victim.

        `fresh` weights are the pass's first, `stale` ones those of nearly an epoch before, and `interpolated`
        ones lie between the first and the last. They are float32 [neurons, ...] by name.
        """
        place = self.watched[number]
        before, after = self.tapes[place].before.values, self.tapes[place].after.values
        if name == "fresh":
            return dict(before)
        if name == "interpolated":
            return {key: x + np.float32(time) * (after[key] - x) for key, x in before.items()}
        return dict(self.tapes[max(place - len(self.recipe.plan.pieces) + 1, 0)].before.values)


def first_parts(recipe: Recipe) -> Callable[[Part], bool]:
    """Return whether a part holds sums of the first layer: linear in the sample."""
    return lambda part: part.kind == "sums" and recipe.graph.edges[part.edge].source == 0


def hidden_parts(recipe: Recipe) -> Callable[[Part], bool]:
    """Return whether a part holds sums of other layers."""
    first = first_parts(recipe)
    return lambda part: part.kind == "sums" and not first(part)


def last_errors(recipe: Recipe) -> Callable[[Part], bool]:
    """Return whether a part holds the errors of the last sums."""
    last = len(recipe.graph.layers) - 1
    return lambda part: part.kind == "errors" and recipe.graph.edges[part.edge].target == last


def recipe_of(prepared: Prepared) -> Recipe:
    """Return the recipe of a prepared run."""
    training, plan = prepared.config.training, prepared.plan
    message = pb.Training(
        learning_rate=training.learning_rate,
        batch=training.batch,
        micro_batch=prepared.micro_batch,
        in_flight=training.in_flight,
        seed=training.seed,
        snapshot_every=training.snapshot_every,
        wire=WIRE[training.wire],
        staleness=training.staleness,
        warmup=training.warmup,
        least_rows=prepared.graph.least_rows,
        secret_order=prepared.config.secret_order,
        shares=prepared.config.privacy.sums == "shares",
        masked=prepared.config.privacy.masked_fraction,
        maps=convolution_messages(prepared.graph),
    )
    return Recipe(prepared.graph, plan, prepared.programs, message)


def dealt_samples(prepared: Prepared, samples: int, own: int) -> tuple[Dataset, Dataset, int]:
    """Return the samples of all devices, those of an attacker, and how many each device has.

    Raises ConfigError if there are too few, or nothing is sent.
    """
    if len(prepared.plan.pieces) < 2:
        raise ConfigError("one device holds the whole network: nothing is sent, so there is nothing to audit")
    data, devices = prepared.train, len(prepared.plan.pieces)
    if data is None:
        raise ConfigError("the audit needs the training data on this computer; give --data FOLDER")
    each = min(samples, (len(data) - LEAST) // (devices + 1))
    if each < FEWEST:
        raise ConfigError(
            f"{len(data)} samples are too few for {devices} devices and an attacker's own; "
            f"give {LEAST + FEWEST * (devices + 1)} or more"
        )
    order = np.random.default_rng((prepared.config.training.seed, 77)).permutation(len(data))
    gallery = data.subset(order[: devices * each])
    rest = data.subset(order[devices * each : devices * each + own])
    return gallery, rest, each


def rehearsed_case(
    prepared: Prepared,
    *,
    samples: int = SAMPLES,
    own: int = OWN,
    epochs: int = 2,
    state: Moment | None = None,
    on_progress: OnProgress = lambda event: None,
) -> Case:
    """Rehearse `epochs` of a prepared run, from its first weights or from `state`, with every device tapped.

    The victim is the device that is dominator first in every epoch. Raises ConfigError if the data does not
    suffice for the devices and an attacker.
    """
    gallery, rest, each = dealt_samples(prepared, samples, own)
    devices = len(prepared.plan.pieces)
    recipe = recipe_of(prepared)
    moment = state or first_moment(prepared)
    tapes = []
    for epoch in range(epochs):
        for device in range(devices):
            on_progress(f"training: epoch {epoch + 1} of {epochs}, device {device + 1} of {devices}")
            part = gallery.subset(np.arange(device * each, (device + 1) * each))
            tape = rehearse(recipe, moment, part, epoch=epoch, device=device)
            # Nobody attacks other passes than the victim's, and their records are many.
            tapes.append(replace(tape, records=()) if device else tape)
            moment = tape.after
    watched = tuple(epoch * devices for epoch in range(epochs))
    public, named = not prepared.config.secret_order, prepared.config.model
    return Case(
        recipe,
        gallery,
        rest,
        each,
        tuple(tapes),
        watched,
        public_order=public,
        model=named,
    )


def untapped_case(prepared: Prepared, *, samples: int = SAMPLES, own: int = OWN) -> Case:
    """Return a case that holds samples alone: helpers on shares are attacked in a training of its own.

    Raises ConfigError if the data does not suffice.
    """
    gallery, rest, each = dealt_samples(prepared, samples, own)
    named = prepared.config.model
    return Case(recipe_of(prepared), gallery, rest, each, (), (), public_order=False, model=named)


def first_moment(prepared: Prepared) -> Moment:
    """Return the group before its first mini-batch."""
    return moment_of(prepared, arrays_of(prepared.graph, prepared.model.state_dict(), prepared.plan.order))


def moment_of(prepared: Prepared, values: Arrays) -> Moment:
    """Return the group with these weights, before its optimizer has kept anything."""
    trained = {spec.name for spec in array_specs(prepared.graph) if spec.trained}
    slots = prepared.config.training.rule.slots
    zeros = {slot: {n: np.zeros_like(x) for n, x in values.items() if n in trained} for slot in slots}
    return Moment(values, zeros)
