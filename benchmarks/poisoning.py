"""Groups that share wrong weights: what they do to the global model, and who notices.

Some groups of a simulated crowd upload weights that were changed after training. Each row tells the accuracy
with one combination of uploads, and whether the audit of runs names the right groups: by the norm of a
group's move, and by the share of the host's test samples that its upload gets wrong. The
combination "clipped sum" is a secure sum of moves that the devices' own runtime clips: what it changes is
training gone wrong, by data or by its owner. The host sees no upload then, and can name nobody. In "norm
bound" the runtime of wrong groups lies: it clips nothing, and the host finds what is too large by random
projections.

python -m benchmarks.poisoning [--quick] [--data FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from crowdlearn.privacy import UploadAudit
from crowdlearn.simulation import (
    COMBINATIONS,
    EvaluationTask,
    GroupResult,
    GroupTask,
    InProcess,
    Setting,
    SimulationConfig,
    Task,
    global_weights,
    load_split,
    prepare,
    run,
)
from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_host.methods.secure_sharing import SecureSum, clipped

from .report import machine, write_rows

GROUPS, SAMPLES = 12, 100
CLIPPED = "clipped sum"
NORM = 1.0
"""The norm of a group's move in the first round, or so: later ones are smaller."""
SUMMED = {"secure": True, "clip": NORM, "noise": 1e-9}
"""Secure sums of clipped moves, with noise that no number shows."""
BOUNDED = "norm bound"
CHECKED = {"secure": True, "norm_bound": NORM}
HARDLY = {"noise": 1e-9, "clip": 1000.0}
"""Steps of DP-SGD, as bounds take no others, that clip and add next to nothing."""

SUMS: dict[str, dict[str, Any]] = {CLIPPED: SUMMED, BOUNDED: CHECKED}

Attack = Callable[[Floats, Floats, np.random.Generator], Floats]
"""A function from weights before and after training to those that are uploaded, all float32 [weights]."""

ATTACKS: dict[str, Attack] = {
    "none": lambda before, after, rng: after,
    "scaled": lambda before, after, rng: before + 20 * (after - before),
    "turned": lambda before, after, rng: before - 4 * (after - before),
    "noise": lambda before, after, rng: after + rng.normal(0, 0.5, len(after)).astype(np.float32),
    "free rider": lambda before, after, rng: before,
}
"""Wrong uploads by name."""


@dataclass(frozen=True)
class Row:
    """One run. `by_norm` and `by_loss` are shares of wrong uploads that an audit names, and `false_alarms`
    those of right ones that either does; None where the host gets no upload. With the norm bound they are
    shares of what it refuses.
    """

    attack: str
    wrong_groups: int
    combine: str
    accuracy: float
    by_norm: float | None
    by_loss: float | None
    false_alarms: float | None


class Poisoned(InProcess):
    """Workers of which the first groups' results are changed, and audited as the host could."""

    def __init__(self, setting: Setting, attack: Attack, wrong: int) -> None:
        super().__init__(setting.workload)
        self._attack, self._wrong, self._rng = attack, wrong, np.random.default_rng(0)
        self._tested = len(setting.workload.test)
        self._bound = setting.config.sharing.norm_bound
        self._audit = UploadAudit(self._loss_of)
        self.named: list[tuple[bool, bool, bool]] = []
        """Of each upload: whether it was wrong, its norm is suspicious, its loss is."""

    def each(self, tasks: Sequence[Task[Any]]) -> Iterator[Any]:
        """Yield results as they are uploaded."""
        if not all(isinstance(task, GroupTask) for task in tasks):
            yield from super().each(tasks)
            return
        uploads: list[GroupResult] = []
        before = [task.weights.copy() for task in tasks if isinstance(task, GroupTask)]
        for group, result in enumerate(super().each(tasks)):
            weights = result.weights
            if group < self._wrong:
                weights = self._attack(before[group], weights, self._rng)
            uploads.append(replace(result, weights=weights))
            if not self._bound:
                self._audit.take(group, before[group], weights)
        if self._bound:
            for group, (upload, start) in enumerate(zip(uploads, before, strict=True)):
                self.named.append((group < self._wrong, self._is_large(group, upload.weights - start), False))
            yield from uploads
            return
        named = {(found.group, found.by) for found in self._audit.suspicions(range(len(uploads)))}
        for group in range(len(uploads)):
            self.named.append((group < self._wrong, (group, "norm") in named, (group, "loss") in named))
        yield from uploads

    def _loss_of(self, weights: Floats) -> float:
        """Return the share of the host's samples that these weights get wrong."""
        (right,) = super().each([EvaluationTask(weights, 0, self._tested)])
        return 1 - float(right) / self._tested

    def _is_large(self, group: int, move: Floats) -> bool:
        """Return whether the host refuses what a group adds: a right one's is clipped."""
        assert self._bound is not None
        sum_ = SecureSum(len(move), GROUPS, seed=(len(self.named),), bound=self._bound)
        sum_.add(move if group < self._wrong else clipped(move, self._bound))
        return bool(sum_.refused)


def measure(data: Dataset, test: Dataset, attack: str, wrong: int, combine: str, epochs: int) -> Row:
    """Train a crowd of which `wrong` groups upload wrong weights."""
    width = int(np.prod(data.inputs.shape[1:]))
    config = SimulationConfig.model_validate(
        {
            "model": f"crowdlearn_host.privacy.audit.host.networks:pixels_{width}",
            "devices": GROUPS,
            "group": 1,
            "training": {"epochs": epochs, "batch": 20, "learning_rate": 0.5},
            "sharing": {"theta": 1.0, "tau": 0.0, **SUMS.get(combine, {"combine": combine})},
            "privacy": HARDLY if combine == BOUNDED else {},
        }
    )
    order = np.random.default_rng(0).permutation(len(data))[: GROUPS * SAMPLES]
    setting = prepare(config, data, test, np.array_split(order, GROUPS))
    if combine == BOUNDED:
        setting = replace(setting, unclipped=frozenset(range(wrong if attack != "none" else 0)))
    workers = Poisoned(setting, ATTACKS[attack], wrong)
    with np.errstate(invalid="ignore"):  # wrong weights have negative variances
        state = run(setting, workers)
    (right,) = workers.each([EvaluationTask(global_weights(setting, state), 0, len(test))])
    if combine == CLIPPED:
        wrong_ones = wrong if attack != "none" else 0
        return Row(attack, wrong_ones, combine, right / len(test), None, None, None)
    named = workers.named
    bad = [each for each in named if each[0]]
    good = [each for each in named if not each[0]]
    share = (lambda found: sum(found) / len(found)) if bad and attack != "none" else (lambda found: 0.0)
    return Row(
        attack,
        wrong if attack != "none" else 0,
        combine,
        right / len(test),
        share([norm for _, norm, _ in bad]),
        share([loss for _, _, loss in bad]),
        sum(norm or loss for _, norm, loss in good) / len(good),
    )


def _told(share: float | None) -> str:
    return "-" if share is None else f"{share:.2f}"


def main(arguments: list[str] | None = None) -> None:
    """Print a row for every attack and combination."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits", help="folder with a training and a test set (digits)")
    parser.add_argument("--quick", action="store_true", help="two wrong groups of twelve, 3 epochs")
    parser.add_argument("--json", type=Path, help="write the rows here")
    wanted = parser.parse_args(arguments)
    data, test = (load_split(wanted.data, split) for split in ("train", "test"))
    print(machine())
    print("attack      wrong  combine      accuracy  by norm  by loss  false alarms")
    rows = []
    for attack in ATTACKS:
        for wrong in (2,) if wanted.quick else (2, 4):
            for combine in (*COMBINATIONS, *SUMS):
                row = measure(data, test, attack, wrong, combine, 3 if wanted.quick else 10)
                rows.append(asdict(row))
                print(
                    f"{row.attack:11s} {row.wrong_groups:5d}  {row.combine:11s} {100 * row.accuracy:7.1f} %"
                    f" {_told(row.by_norm):>8s} {_told(row.by_loss):>8s} {_told(row.false_alarms):>13s}",
                    flush=True,
                )
    write_rows(wanted.json, rows)


if __name__ == "__main__":
    main()
