"""The account of privacy that a run keeps: what its noise has spent, of a sample, of a group, of a label."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from crowdlearn_host.errors import RunError

DELTA = 1e-5
"""The delta of a run that names none."""


@dataclass(frozen=True)
class PrivacySpent:
    """The epsilon that a run has spent until its last round, at `delta`.

    `sample` is that of a sample, the largest of all devices, and `devices` by their number of samples;
    `group` is that of all that a group did. `label` is that of a label, without any delta. What is None is
    not protected by noise.
    """

    delta: float
    sample: float | None = None
    devices: Mapping[str, float] = field(default_factory=dict)
    group: float | None = None
    label: float | None = None

    @property
    def is_private(self) -> bool:
        """Return whether anything is protected by noise."""
        return any(each is not None for each in (self.sample, self.group, self.label))

    def to_json(self) -> dict[str, Any]:
        """Return the account as a JSON document has it."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the account in words, a line for each thing that is protected."""
        lines = []
        if self.sample is not None:
            lines.append(f"epsilon {self.sample:.2f} of a sample, the largest of all devices")
            if len(self.devices) > 1:
                lines += [f"    {self.devices[n]:.2f} on devices of {n} samples" for n in self.devices]
        if self.group is not None:
            lines.append(f"epsilon {self.group:.2f} of all that a group did")
        lines = [f"{line}, at delta {self.delta:g}" if line[0] == "e" else line for line in lines]
        if self.label is not None:
            lines.append(f"epsilon {self.label:.2f} of a label")
        return lines or ["no noise: nothing is hidden from those who get results"]


def spent_of(run: Path) -> PrivacySpent:
    """Return the account of the run in a folder. Raises RunError if it is damaged."""
    config, logs = run / "config.toml", (run / "metrics.jsonl", run / "events.jsonl")
    try:
        description = tomllib.loads(config.read_text()) if config.exists() else {}
        lines = [line for log in logs if log.exists() for line in log.read_text().splitlines()]
        return account_of(description, [json.loads(each) for each in lines if "epsilon" in each])
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{run} is damaged ({error}); its account of privacy cannot be read") from error


def account_of(config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> PrivacySpent:
    """Return the account of a run with this description and these lines of metrics and events, of all of its
    groups.
    """
    section = config.get("privacy", {})
    devices: dict[str, float] = {}
    for row in rows:
        for samples, epsilon in row.get("epsilons", {}).items():
            devices[str(samples)] = max(devices.get(str(samples), 0.0), float(epsilon))
    return PrivacySpent(
        float(section.get("delta", DELTA)),
        _largest(rows, "epsilon"),
        devices,
        _largest(rows, "group_epsilon"),
        _number(section.get("label_epsilon")),
    )


def _largest(rows: Sequence[Mapping[str, Any]], key: str) -> float | None:
    numbers = [float(str(row[key])) for row in rows if row.get(key) is not None]
    return max(numbers, default=None)


def _number(value: object) -> float | None:
    return None if value is None else float(str(value))
