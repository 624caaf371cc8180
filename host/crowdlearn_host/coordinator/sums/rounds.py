"""The secure sums of a run, as a state machine without I/O or clock: groups and devices in, effects out.

A round is summed when every group that is not resting has come to the end of one of its own; groups that take
much longer than the others are not waited for, and are in a later sum. An attempt that loses a device before
its survivors are named begins anew with other keys; from then on the survivors are those on disk, and the
round ends with their sum or without any. A round that was ended is never entered again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from crowdlearn_device.errors import AggregationError
from crowdlearn_device.member.secure_sharing import ATTEMPT_BYTES, PROJECTIONS, round_id
from crowdlearn_device.privacy.aggregation.fixed_point import FixedPoint, Words
from crowdlearn_device.privacy.aggregation.masks import length
from crowdlearn_device.privacy.aggregation.messages import SumRound
from crowdlearn_device.protocol import wire_pb2 as pb

from crowdlearn_host.coordinator.group.effects import Contribute
from crowdlearn_host.coordinator.group.group import Group
from crowdlearn_host.coordinator.group.places import TRAINED
from crowdlearn_host.coordinator.group.restore_points import Place
from crowdlearn_host.errors import RunError
from crowdlearn_host.methods.secure_sharing import least_contributors
from crowdlearn_host.privacy.aggregation.aggregator import Aggregator
from crowdlearn_host.privacy.dp.accountant import Schedule, own_epsilon

from .attempt import Attempt
from .effects import Keep, Over, Release, SendReference, SendStep, Stop, SumEffect, Tell
from .lot import Lot
from .norms import Norms


@dataclass(frozen=True)
class Terms:
    """The terms of a run's sums: `theta` of the weights are drawn for a round, and the first layer can move
    in `rank` directions. `lot` makes the lot of a round.
    """

    run: str
    theta: float
    rank: int
    lot: Callable[[int], Lot]
    noise: float = 0.0
    """The noise of a sum of as few groups as are released, times the clip; 0: weights are summed as such."""
    clip: float = 1.0
    """The norm to which a group's move is clipped if there is noise."""
    delta: float = 1e-5
    bound: float = 0.0
    """The norm of a group's move to which it is clipped, and which the host checks; 0: it does not."""
    wait: float | None = None
    """The time for which others are waited for, once enough groups have come, as a multiple of what those
    took; None: until they come.
    """

    @property
    def moves(self) -> float:
        """Return the norm to which moves are clipped; 0: weights are summed as such."""
        return self.bound or (self.clip if self.noise else 0.0)

    def epsilon(self, sums: int) -> float:
        """Return the epsilon of all that a group did, after so many sums with noise."""
        return own_epsilon(Schedule(self.noise, 1.0, sums), self.delta)


class SecureRounds:
    """The rounds of all groups; `number` sums are over, and `done` is where each group's last round in them
    began.
    """

    def __init__(self, terms: Terms, groups: Sequence[Group], patience: float) -> None:
        """Begin without a sum. `patience` are the seconds for which an absent device, or a group that is
        paused, is waited for; and a slow group at least.
        """
        self.effects: list[SumEffect] = []
        self.number = 0
        self.done: dict[int, Place] = {}
        self._terms, self._groups, self._patience = terms, groups, patience
        self._ready: dict[int, Contribute] = {}
        self._attempt: Attempt | None = None
        self._resting: set[int] = set()
        self._refused: set[int] = set()
        """Groups whose moves were too large: they add to no sum any more."""
        self._tries = 0
        """Attempts at this round in which devices may have shown projections."""
        self._paused: dict[int, float] = {}
        self._absent: dict[int, float] = {}
        self._now = 0.0
        self._since: float | None = None
        """The time at which the last sum was over."""
        self._enough_at: float | None = None
        """The time at which enough groups for the next had come."""

    def to_json(self, attempt: Attempt | None = None) -> dict[str, Any]:
        """Return what a restarted host needs, but for an attempt's total."""
        fields: dict[str, Any] = {
            "number": self.number,
            "done": dict(self.done),
            "refused": sorted(self._refused),
            "attempt": None,
        }
        if attempt is not None:
            fields["attempt"] = {
                "norms": None if attempt.norms is None else attempt.norms.to_json(),
                "places": dict(attempt.places),
                "groups": dict(attempt.group_of),
                "aggregator": attempt.aggregator.to_json(),
            }
        return fields

    def restore(self, fields: Mapping[str, Any], total: Words | None) -> None:
        """Go on from what was kept; `total` is the attempt's, uint32 [n]. Raises RunError if damaged."""
        try:
            self.number = int(fields["number"])
            self.done = _places(fields["done"])
            self._refused = {int(group) for group in fields["refused"]}
            if (kept := fields["attempt"]) is not None and total is not None:
                aggregator = Aggregator.from_json(kept["aggregator"], total)
                group_of = {int(member): int(group) for member, group in kept["groups"].items()}
                self._attempt = Attempt(aggregator, _places(kept["places"]), group_of, "agreeing")
                if kept["norms"] is not None:
                    self._attempt.norms = Norms.from_json(kept["norms"])
        except (ValueError, KeyError, TypeError, AttributeError, AggregationError) as error:
            raise RunError(f"the run's secure sum is damaged ({error}); start a new run") from error

    @property
    def owing(self) -> set[int]:
        """Return the devices that owe an answer."""
        return set() if self._attempt is None else self._attempt.owing

    def ready(self, group: int, contribution: Contribute) -> None:
        """Take in a group that has come to the end of a round, or that comes again after a recovery."""
        self._ready[group] = contribution
        self._resting.discard(group)
        if self._is_over(group):
            self.effects.append(Over(group, self._ready.pop(group).place))
            return
        attempt = self._attempt
        if attempt is not None and not attempt.is_named and group in attempt.group_of.values():
            self._begin_anew("a group recovered")
        self._look()

    def joined(self, device: int) -> None:
        """Take in a connected device: one whose values are in the sum is asked to confirm that."""
        self._absent.pop(device, None)
        attempt = self._attempt
        if attempt is None or device not in attempt.aggregator.survivors:
            return
        if attempt.is_named:
            self.effects.append(SendStep(device, attempt.survivors()))
        elif attempt.stage == "norms" and device in attempt.owing:
            self.effects.append(SendStep(device, attempt.seed()))

    def left(self, device: int) -> None:
        """Note that a device's connection ended."""
        self._absent[device] = self._now
        if self._attempt is not None:
            self._attempt.parts.pop(device, None)
        self._look()

    def answer(self, device: int, step: pb.SumStep) -> None:
        """Take a device's answer to a step."""
        attempt = self._attempt
        if attempt is None or step.attempt != attempt.id:
            return
        try:
            due = attempt.take(device, step)
        except AggregationError as error:
            self.effects.append(Tell("refused", {"device": self._name(device), "reason": str(error)}))
            return
        if due and step.HasField("tags") and attempt.stage == "revealing" and device not in attempt.revealed:
            self.effects.append(SendStep(device, attempt.tags_for(device)))
        self._look()

    def tick(self, now: float) -> None:
        """Let time pass."""
        self._now = now
        if self._since is None:
            self._since = now
        if self._attempt is not None and self._attempt.is_named:
            for member in self._attempt.aggregator.survivors:
                if not self._is_here(member):
                    self._absent.setdefault(member, now)
        paused = {index for index, group in enumerate(self._groups) if group.phase == "paused"}
        self._paused = {index: self._paused.get(index, now) for index in paused}
        long = {index for index, since in self._paused.items() if now - since >= self._patience}
        self._resting = long | {index for index, group in enumerate(self._groups) if group.phase in TRAINED}
        self._look()

    def released(self) -> None:
        """End the sum, which is in the global model, on disk."""
        assert self._attempt is not None
        self._end(self._attempt.places)
        if self._terms.noise:
            epsilon = self._terms.epsilon(self.number)
            self.effects.append(Tell("noisy_sum", {"sums": self.number, "group_epsilon": epsilon}))

    def contradicted(self) -> None:
        """End the round of a sum that has other projections than its devices showed."""
        assert self._attempt is not None
        self.effects.append(Tell("sum_contradicted", {"groups": self._attempt.aggregator.round.terms}))
        self._end(self._attempt.places, keep=True)

    def _look(self) -> None:
        """Go on as far as the answers allow."""
        while self._advance():
            pass

    def _advance(self) -> bool:
        """Take the next step; whether one was due."""
        attempt = self._attempt
        if attempt is None:
            return self._begin()
        if attempt.stage == "unmasking":
            return False
        owing = attempt.owing
        if attempt.stage == "agreeing":
            return not {d for d in owing if not self._is_gone(d)} and self._agree(attempt)
        if attempt.stage == "revealing":
            return not any(map(self._is_here, owing)) and self._reveal(attempt, owing)
        if {attempt.group_of[device] for device in owing} & self._resting and attempt.stage != "masked":
            self._begin_anew("a group is missing")
            return True
        if attempt.stage == "keys" and not owing:
            attempt.stage = "shares"
            self.effects += [SendStep(*each) for each in attempt.keys().items()]
            return True
        if attempt.stage == "shares" and not owing:
            attempt.stage = "masked"
            self.effects += [SendStep(*each) for each in attempt.sealed().items()]
            return True
        if attempt.stage == "masked" and {attempt.group_of[device] for device in owing} <= self._resting:
            return self._ask_norms(attempt) if self._terms.bound else self._name_survivors(attempt)
        if attempt.stage == "norms" and not owing:
            return self._check_norms(attempt)
        return False

    def _begin(self) -> bool:
        """Begin an attempt if every group that is waited for is at the end of a round; whether a round began,
        or is over.
        """
        under_way = {index for index, group in enumerate(self._groups) if group.phase not in TRAINED}
        under_way -= self._refused
        if not under_way and self._ready:  # of groups that were refused, which nobody is ahead of
            self._end({group: each.place for group, each in self._ready.items()}, keep=True)
            return True
        waited = under_way - self._resting
        sharing = {index: self._ready[index] for index in sorted(waited & self._ready.keys())}
        if not sharing:
            return False
        fewest = min(self._samples(index) for index in sharing)
        least = least_contributors(self._terms.rank, fewest)
        late = waited - sharing.keys()
        if late and not self._is_waited_long(len(sharing) >= least):
            return False
        finished = any(group.phase in ("choosing", "done") for group in self._groups)
        if len(under_way) < least and not finished:
            self.effects.append(
                Stop(
                    f"sharing.secure: sums of {len(under_way)} groups of {fewest} samples tell too much; "
                    f"{least} groups, or more samples a device, are needed"
                )
            )
            self._ready.clear()
            return False
        if len(sharing) < least:
            if under_way & self._resting:
                return False
            self.effects.append(Tell("not_summed", {"groups": len(sharing), "least": least}))
            self._end({index: each.place for index, each in sharing.items()}, keep=True)
            return True
        if late:
            self.effects.append(Tell("not_waited_for", {"groups": sorted(late)}))
        lot = self._terms.lot(self.number)
        layout = {
            device: (index, ranges)
            for index, contribution in sharing.items()
            for device, neurons in contribution.pieces.items()
            if (ranges := lot.of(neurons))
        }
        round_ = SumRound(
            round_id(self._terms.run, self.number),
            {device: ranges for device, (_, ranges) in layout.items()},
            least,
            len(sharing),
            secrets.token_bytes(ATTEMPT_BYTES),
        )
        group_of = {device: index for device, (index, _) in layout.items()}
        places = {index: each.place for index, each in sharing.items()}
        self._attempt = Attempt(Aggregator(round_, len(lot.positions)), places, group_of)
        owners = [
            pb.SumOwner(
                peer=pb.Peer(device=device, identity=self._groups[index].devices[device].identity),
                stretches=[pb.Range(start=start, stop=stop) for start, stop in ranges],
            )
            for device, (index, ranges) in layout.items()
        ]
        for device, index in group_of.items():
            begin = pb.SumBegin(
                generation=sharing[index].generation,
                round=self.number,
                least=least,
                terms=len(sharing),
                theta=self._terms.theta,
                owners=owners,
                clip=self._terms.moves,
                noise=self._terms.noise,
                bounded=self._terms.bound > 0,
            )
            self.effects.append(SendStep(device, pb.SumStep(attempt=round_.attempt, begin=begin)))
        for device, (index, ranges) in layout.items() if self._terms.moves else ():
            positions = np.concatenate([lot.positions[start:stop] for start, stop in ranges])
            generation = sharing[index].generation
            self.effects.append(SendReference(device, generation, round_.attempt, positions))
        return True

    def _is_waited_long(self, enough: bool) -> bool:
        """Return whether late groups had their time: as long as the terms say after `enough` others came."""
        if self._terms.wait is None or self._since is None or not enough:
            return False
        if self._enough_at is None:
            self._enough_at = self._now
        wait = max(self._patience, self._terms.wait * (self._enough_at - self._since))
        return self._now - self._enough_at >= wait

    def _begin_anew(self, why: str) -> None:
        """Give an attempt up whose survivors were named to no device, or confirmed by none."""
        self.effects.append(Tell("sum_begun_anew", {"why": why}))
        self._attempt = None

    def _ask_norms(self, attempt: Attempt) -> bool:
        """Draw the seed of projections, now that all masked values are here, and ask for them."""
        if self._tries == PROJECTIONS:  # as often as devices answer
            self.effects.append(Tell("not_summed", {"groups": attempt.aggregator.round.terms, "least": 0}))
            self._end(attempt.places, keep=True)
            return True
        self._tries += 1
        attempt.stage, attempt.norms = "norms", Norms()
        self.effects += [SendStep(device, attempt.seed()) for device in attempt.aggregator.survivors]
        return True

    def _check_norms(self, attempt: Attempt) -> bool:
        """Name the survivors if no group moved too far; else leave such groups out, and begin anew."""
        assert attempt.norms is not None
        if attempt.forgotten:
            self._begin_anew("a device lost what it had added")
            return True
        round_, bound = attempt.aggregator.round, self._terms.bound
        words = {device: length(ranges) for device, ranges in round_.stretches.items()}
        large = attempt.norms.too_large(bound, FixedPoint(round_.terms), attempt.group_of, words)
        if not large:
            return self._name_survivors(attempt)
        for group, norm in large.items():
            self.effects.append(Tell("norm_refused", {"group": group, "norm": norm, "bound": bound}))
        self._refused |= large.keys()
        self.effects.append(Keep(self.to_json()))
        self._begin_anew("a group moved too far")
        return True

    def _name_survivors(self, attempt: Attempt) -> bool:
        """Have the survivors on disk, and then name them to all that are here."""
        aggregator = attempt.aggregator
        if aggregator.counts().min(initial=aggregator.round.terms) < aggregator.round.least:
            self._begin_anew("too few contributors are left")
            return True
        attempt.stage = "agreeing"
        self.effects.append(Keep(self.to_json(attempt), aggregator))
        self.effects += [SendStep(device, attempt.survivors()) for device in aggregator.survivors]
        return True

    def _agree(self, attempt: Attempt) -> bool:
        """Pass the tags on if enough devices confirm the survivors."""
        if attempt.aggregator.can_agree(attempt.tags):
            attempt.stage = "revealing"
            self.effects += [SendStep(device, attempt.tags_for(device)) for device in attempt.tags]
        elif attempt.tags:
            self._lose(attempt)
        else:
            self._begin_anew("no device confirms its survivors")
            self.effects.append(Keep(self.to_json()))
        return True

    def _reveal(self, attempt: Attempt, owing: set[int]) -> bool:
        """Unmask the sum if enough shares are here."""
        if attempt.aggregator.can_unmask(attempt.revealed):
            attempt.stage = "unmasking"
            state = {**self.to_json(), "number": self.number + 1, "done": {**self.done, **attempt.places}}
            revealed, positions = tuple(attempt.revealed.values()), self._terms.lot(self.number).positions
            self.effects.append(
                Release(
                    state,
                    attempt.aggregator,
                    revealed,
                    positions,
                    max(attempt.places.values()),
                    self._terms.moves > 0,
                    attempt.norms,
                )
            )
            return False
        if any(not self._is_gone(device) for device in owing):
            return False
        self._lose(attempt)
        return True

    def _lose(self, attempt: Attempt) -> None:
        """End a round whose sum too few devices can unmask: those that confirmed it never enter it again."""
        survivors = len(attempt.aggregator.survivors)
        fields = {"confirmed": len(attempt.tags), "survivors": survivors}
        self.effects.append(Tell("sum_lost", fields))
        self._end(attempt.places, keep=True)

    def _end(self, places: Mapping[int, Place], *, keep: bool = False) -> None:
        """End the rounds of groups that began at these places, and those in which refused ones wait; tell
        them.
        """
        refused = {group: each.place for group, each in self._ready.items() if group in self._refused}
        self.number, self._attempt, self._tries = self.number + 1, None, 0
        self._since, self._enough_at = self._now, None
        self.done.update({**places, **refused})
        if keep:
            self.effects.append(Keep(self.to_json()))
        for group in sorted(filter(self._is_over, self._ready)):
            self.effects.append(Over(group, self._ready.pop(group).place))

    def _is_over(self, group: int) -> bool:
        """Return whether the round at whose end a group is was summed, or can be no more."""
        return group in self.done and self._ready[group].place <= self.done[group]

    def _samples(self, index: int) -> int:
        """Return the samples that a group trains on."""
        return sum(device.samples for device in self._groups[index].devices.values())

    def _is_here(self, device: int) -> bool:
        return any(device in group.live for group in self._groups)

    def _is_gone(self, device: int) -> bool:
        """Return whether a device is not waited for any more."""
        since = self._absent.get(device, self._now)
        return not self._is_here(device) and self._now - since >= self._patience

    def _name(self, device: int) -> str:
        found = (group.devices[device].name for group in self._groups if device in group.devices)
        return next(found, f"device {device}")


def _places(numbers: Mapping[str, Sequence[int]]) -> dict[int, Place]:
    """Return places by group, as JSON has them."""
    return {int(group): (int(epoch), int(shared)) for group, (epoch, shared) in numbers.items()}
