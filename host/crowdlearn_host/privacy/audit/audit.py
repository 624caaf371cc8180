"""The audit of one case: every role's best attacks, beside what needs no message at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from crowdlearn_device.protocol.frames import Floats

from crowdlearn_host.privacy.leaks.matching import matches

from . import labels, membership
from .attacks import Attack, Decoder, Evidence, Linear, PriorOnly
from .case import Case, first_parts, hidden_parts, last_errors
from .figures import psnr, ssim
from .first_layer import first_sums
from .rehearsal import Moment
from .views import Part, Views

SHOWN = 400
"""Samples by which SSIM is measured."""
PICTURES = 12
"""Victim's samples that a report shows."""
SEGMENTS, SEGMENTS_QUICK = 8, 4
"""Parts of a pass, in each of which an attacker takes the weights as constant."""
DRIFT_SAMPLES = 500
KNOWN_WEIGHTS = ("stale", "fresh", "interpolated")
"""The kinds of knowledge, from the weakest to the strongest."""
Chosen = Callable[[Part], bool]


@dataclass(frozen=True)
class Finding:
    """A role's success with one attack; what an attack does not guess is None.

    PSNR is in dB; re-identification is among all devices' samples; `pictures` are some guesses, float32.
    """

    mode: str
    role: str
    attack: str
    n: int
    psnr: float | None = None
    prior_psnr: float | None = None
    ssim: float | None = None
    prior_ssim: float | None = None
    reid: float | None = None
    label_accuracy: float | None = None
    auc: float | None = None
    pictures: Floats | None = field(default=None, repr=False, compare=False)

    def row(self) -> dict[str, object]:
        """Return the figures, for JSON."""
        return {name: value for name, value in self.__dict__.items() if name != "pictures"}


class Auditor:
    """The attacks on one case. `mode` names its protection in findings."""

    def __init__(self, case: Case, mode: str = "plain", *, quick: bool = False) -> None:
        self.case, self.mode = case, mode
        self.n = len(case.recipe.plan.pieces)
        self._quick = quick
        self._segments = SEGMENTS_QUICK if quick else SEGMENTS
        self._truth = case.victim.inputs
        self._labels = case.victim.labels
        self._own = case.own.inputs.reshape(len(case.own), -1)
        self._classes = case.recipe.graph.layers[-1].neurons
        guess = PriorOnly().guess(Evidence(self._own, self._own, case.own.labels, self._flat))
        self._prior = figures_of(self._truth, guess)

    @property
    def _flat(self) -> Floats:
        return self._flattened(self._truth)

    def findings(self) -> Iterator[Finding]:
        """Run every attack of every role; the weakest knowledge comes first."""
        yield self._finding("anybody", "prior only", **self._prior)
        follower = (1,)
        yield self._label_reading(follower)
        yield from self._grouped_labels(follower)
        if self.case.seen(follower).features(first_parts(self.case.recipe)).size:
            yield from self._of_first_sums()
        yield from self._of_rehearsals(follower)
        yield from self.of_snapshots()

    def of_snapshots(self) -> Iterator[Finding]:
        """Attack weights, as heirs read them in snapshots and the host gets them shared.

        An heir has those of the generations in which it is one: of one pass here. The host keeps all sealed
        snapshots. Together they open those of every pass.
        """
        tapes, all_inputs = self.case.tapes, self._flattened(self.case.gallery.inputs)
        last = [(self.case.last.before, self.case.last.after)]
        yield self._membership("heir", "weights of a pass", last, self._flat)
        whole = [(tapes[0].before, self.case.last.after)]
        yield self._membership("host", "weights of all passes", whole, all_inputs)
        every = [(tapes[number].before, tapes[number].after) for number in self.case.watched]
        text = f"weights before and after {len(every)} passes of the victim"
        yield self._membership("heir with host", text, every, self._flat)

    def of_hidden_layers(self) -> Finding:
        """Attack sums of hidden layers, which is all that masks protect."""
        return self._rehearsed(
            "follower", (1,), hidden_parts(self.case.recipe), Linear(), "hidden layers only"
        )

    def _of_first_sums(self) -> Iterator[Finding]:
        for weights in KNOWN_WEIGHTS:
            yield self._first("follower", (1,), weights)
        if len(self.case.watched) > 1 and self.case.public_order:
            yield self._first("follower", (1,), "interpolated", len(self.case.watched))
        for count in sorted({2, 3, self.n - 1} & set(range(2, self.n))):
            name = "all followers" if count == self.n - 1 else f"{count} followers"
            yield self._first(name, tuple(range(1, count + 1)), "interpolated")

    def _of_rehearsals(self, pieces: tuple[int, ...]) -> Iterator[Finding]:
        decoder = Decoder(epochs=4) if self._quick else Decoder()
        yield self.of_hidden_layers()
        yield self._rehearsed("follower", pieces, _sums, decoder, "interpolated weights")
        if not self._quick:
            yield self._rehearsed("follower", pieces, _sums, decoder, "stale weights", stale=True)

    def _finding(self, role: str, attack: str, **figures: object) -> Finding:
        return Finding(self.mode, role, attack, self.n, **figures)  # type: ignore[arg-type]

    def _figures(self, guess: Floats) -> dict[str, object]:
        return figures_of(self._truth, guess, self._prior)

    def _first(self, role: str, pieces: tuple[int, ...], weights: str, epochs: int = 1) -> Finding:
        """Attack first sums, which are linear, by the best linear estimate; `epochs` passes are linked.

        The pass is taken in segments, each under the weights that the attacker reckons with at its time.
        """
        count = len(self.case.watched)
        numbers = range(count - epochs, count)
        segments = self._segments if weights == "interpolated" else 1
        guess = np.empty((len(self._flat), self._own.shape[1]), np.float32)
        found = np.empty(len(guess), np.int64)
        orders = [self.case.seen(pieces, number) for number in numbers]
        place = [np.argsort(views.positions, kind="stable") for views in orders]
        seen_of = [views.features(first_parts(self.case.recipe)) for views in orders]
        for rows in np.array_split(np.arange(len(guess)), segments):
            samples = orders[-1].positions[rows]
            known, gallery, seen, noise = [], [], [], []
            for number, order, views in zip(numbers, place, seen_of, strict=True):
                fed = order[samples]  # when each sample was fed in that pass
                at = float(fed.mean()) / len(guess)
                values = self.case.weights(weights, number, at)
                noise.append(self._drift(pieces, number, segments if number == numbers[-1] else 1, weights))
                known.append(first_sums(self.case.recipe, values, self.case.own.inputs, pieces))
                gallery.append(first_sums(self.case.recipe, values, self.case.gallery.inputs, pieces))
                seen.append(views[fed])
            evidence = Evidence(
                np.concatenate(known, axis=1),
                self._own,
                self.case.own.labels,
                np.concatenate(seen, axis=1),
                drifted=weights == "stale",
                noise=np.concatenate(noise),
            )
            guess[samples] = Linear().guess(evidence)
            found[samples] = matches(
                evidence.standard[1], self._beside(evidence, np.concatenate(gallery, axis=1))
            )
        linked = f", {epochs} epochs linked" if epochs > 1 else ""
        reid = float((found == np.arange(len(found))).mean())
        return self._finding(
            role, f"linear, PCA prior, {weights} weights{linked}", reid=reid, **self._figures(guess)
        )

    def _drift(self, pieces: tuple[int, ...], number: int, segments: int, weights: str) -> Floats:
        """Return how far first sums are off, float32 [d]: by rounding, and by half of what a segment
        moves.
        """
        some = self.case.own.inputs[:DRIFT_SAMPLES]
        begin, end = (
            first_sums(self.case.recipe, self.case.weights("interpolated", number, time), some, pieces)
            for time in (0.0, 1.0)
        )
        moved = (end - begin).std(0) / (2 * segments if weights == "interpolated" else 2)
        rounding = np.abs(begin).max() / 127 / 2
        return np.asarray(np.sqrt(moved**2 + rounding**2), np.float32)

    def _beside(self, evidence: Evidence, gallery: Floats) -> Floats:
        """Return the gallery's views, scaled as the seen ones are."""
        whole = Evidence(evidence.features, evidence.inputs, evidence.labels, gallery, noise=evidence.noise)
        return whole.standard[1]

    def _rehearsed(
        self,
        role: str,
        pieces: tuple[int, ...],
        chosen: Chosen,
        attack: Attack,
        text: str,
        *,
        stale: bool = False,
    ) -> Finding:
        """Attack any views by what the attacker's own samples give under the weights that it knows."""
        views = self.case.seen(pieces)
        if not views.features(chosen).size:
            return self._finding(role, f"{attack.name}, {text}: it sees none")
        known = self.case.known(pieces, stale=stale).features(chosen)
        gallery = self.case.candidates(pieces, stale=stale).features(chosen)
        evidence = Evidence(known, self._own, self.case.own.labels, views.features(chosen), drifted=True)
        guess = np.empty((len(self._flat), self._own.shape[1]), np.float32)
        guess[views.positions] = attack.guess(evidence)
        figures = self._figures(guess)
        beside = Evidence(gallery, self._own, self.case.own.labels, evidence.seen, drifted=True)
        gallery_standard, seen = beside.standard
        figures["reid"] = float((matches(seen, gallery_standard) == views.positions).mean())
        figures["label_accuracy"] = self._accuracy(labels.trained(evidence), views)
        return self._finding(role, f"{attack.name}, {text}", **figures)

    def _accuracy(self, read: labels.Labels, views: Views) -> float:
        return float((read == self._labels[views.positions]).mean())

    def _label_reading(self, pieces: tuple[int, ...]) -> Finding:
        """Read labels off the last errors, of all epochs if samples can be linked."""
        name, wanted = "label reading, least error", last_errors(self.case.recipe)
        numbers = range(len(self.case.watched)) if self.case.public_order else (-1,)
        total = np.zeros((len(self._labels), self._classes), np.float32)
        for number in numbers:
            views = self.case.seen(pieces, number)
            for part, errors in views.parts.items():
                if wanted(part) and errors.shape[1:] == (self._classes,):
                    total[views.positions] += errors / max(float(np.abs(errors).max()), 1e-12)
        if not total.any():
            return self._finding("follower", f"{name}: it sees none")
        views = self.case.seen(pieces)
        read = labels.self_taught(total[views.positions], self._standard_seen(views))
        return self._finding("follower", name, label_accuracy=self._accuracy(read, views))

    def _standard_seen(self, views: Views) -> Floats:
        seen = views.features(_sums)
        return Evidence(seen, self._own, self._labels, seen).standard[1]

    def _grouped_labels(self, pieces: tuple[int, ...]) -> Iterator[Finding]:
        """Read labels off all sums, by clusters and by ten known labels a class."""
        views = self.case.seen(pieces)
        seen, truth = self._standard_seen(views), self._labels[views.positions]
        if not seen.size:
            return
        for name, read in (("k-means", labels.clustered), ("ten labels a class", labels.few_known)):
            accuracy = read(seen, truth, self._classes)
            yield self._finding("follower", f"label reading, {name}", label_accuracy=accuracy)

    def _membership(
        self, role: str, text: str, spans: Sequence[tuple[Moment, Moment]], inputs: Floats
    ) -> Finding:
        """Score the samples that were learned from against the attacker's by the first layer's moves in some
        spans of training; scores of several spans are added.
        """
        edge = self.case.recipe.graph.incoming(self.case.recipe.graph.edges[0].target)[0]
        name = f"{edge.module}.weight"
        moved = [after.values[name] - before.values[name] for before, after in spans]
        moves = [each.reshape(-1, each.shape[-1]) for each in moved]
        if edge.kind != "dense" or moves[0].shape[0] != inputs.shape[1]:
            return self._finding(role, f"membership, {text}: not of a dense first layer")
        value = membership.auc_of_moves([each.T for each in moves], inputs, self._own)
        return self._finding(role, f"membership, {text}", auc=value)

    @staticmethod
    def _flattened(inputs: Floats) -> Floats:
        return inputs.reshape(len(inputs), -1)


def figures_of(truth: Floats, guess: Floats, prior: dict[str, object] | None = None) -> dict[str, object]:
    """Return PSNR and, of images, SSIM of a guess [N, p] at samples [N, ...]; beside them those of the guess
    `prior`, and some of the guess as pictures.
    """
    shaped = guess.reshape(truth.shape)
    found: dict[str, object] = {"psnr": psnr(truth, shaped)}
    if (shape := image_shape(truth.shape[1:])) is not None:
        found["ssim"] = ssim(*(x[:SHOWN].reshape(-1, *shape) for x in (truth, shaped)))
    beside = prior or found
    found |= {"prior_psnr": beside["psnr"], "prior_ssim": beside.get("ssim")}
    return {**found, "pictures": shaped[:PICTURES]}


def _sums(part: Part) -> bool:
    return part.kind == "sums"


def image_shape(sample: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return [H, W] or [C, H, W] if a sample of this shape is an image, flattened square ones included."""
    if len(sample) == 2 or (len(sample) == 3 and sample[0] in (1, 3)):
        return sample
    side = round(sample[0] ** 0.5) if len(sample) == 1 else 0
    return (side, side) if side >= 8 and side * side == sample[0] else None
