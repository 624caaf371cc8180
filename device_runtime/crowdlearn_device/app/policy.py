"""The device's own policy: the conditions on which it takes part, and for whom. Its owner alone sets it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from crowdlearn_device.platform.battery import LOWEST_PERCENT, DeviceState
from crowdlearn_device.platform.files import write_atomically

from .phone import Facts, Phone, facts_of


@dataclass(frozen=True)
class Policy:
    """Conditions, all of which must hold, and permissions.

    A condition on something that the phone does not tell holds only if it asks for nothing. `unmetered` is
    about hosts that are dialled: what comes through adb uses no network of the phone's own choice.
    """

    charging: bool = True
    unmetered: bool = True
    idle: bool = False
    lowest_percent: int = LOWEST_PERCENT
    highest_celsius: float = 40.0
    highest_thermal: int = 1
    adb: bool = True
    """A computer that this phone trusts for debugging may train on it."""
    samples: bool = True
    """The phone's samples may be trained on; without, it helps others only."""
    isolated: bool = True
    """Programs run in processes that Android isolates, if it can; without, in the app's own."""
    listed_only: bool = False
    """No device takes part beside this one but those of the signed list that its owner took."""
    joules_a_day: int = 0
    """The joules that the phone spends at most in a day, by its own meter (0: any number)."""

    def refusal(self, facts: Facts, *, dialled: bool) -> str:
        """Return why the phone does not take part now; nothing if it does."""
        if self.charging and facts.charging is not True:
            return "the phone is not charging"
        if facts.percent is not None and facts.percent <= self.lowest_percent and not facts.charging:
            return f"battery at {facts.percent} %"
        if dialled and self.unmetered and facts.unmetered is not True:
            return "the network may cost money"
        if self.idle and facts.idle is not True:
            return "the phone is in use"
        if facts.celsius is not None and facts.celsius > self.highest_celsius:
            return f"the battery has {facts.celsius:.0f} degrees Celsius"
        if facts.thermal is not None and facts.thermal > self.highest_thermal:
            return f"the phone is hot (thermal status {facts.thermal})"
        return ""


@dataclass(frozen=True)
class Conditions:
    """A phone under its policy, in the form in which the runtime reads batteries.

    `lowest` is a percentage of charge that a host requires: the stricter of the two counts.
    """

    phone: Phone
    policy: Policy
    dialled: bool
    lowest: int = -1

    def low(self) -> str:
        """Return why this phone should not take part now; nothing if it should."""
        lowest = max(self.policy.lowest_percent, self.lowest)
        return replace(self.policy, lowest_percent=lowest).refusal(facts_of(self.phone), dialled=self.dialled)

    def state(self) -> DeviceState:
        """Return heat, charge, network and use as Android reports them; full, charged, free and unused if it
        reports none.
        """
        facts, unknown = facts_of(self.phone), DeviceState()
        return DeviceState(
            unknown.thermal if facts.thermal is None else facts.thermal,
            unknown.percent if facts.percent is None else facts.percent,
            unknown.charging if facts.charging is None else facts.charging,
            facts.unmetered is False,
            facts.idle is False,
        )


def load_policy(path: Path) -> Policy:
    """Return the policy in a file; the default if there is none, or a damaged one."""
    try:
        return policy_of(path.read_text())
    except (OSError, ValueError):
        return Policy()


def save_policy(path: Path, policy: Policy) -> None:
    write_atomically(path, json.dumps(asdict(policy), indent=1).encode(), private=True)


def policy_of(text: str) -> Policy:
    """Return the policy of a JSON object; what it leaves out is as by default. Raises ValueError."""
    content = json.loads(text)
    fields = Policy.__dataclass_fields__
    if not isinstance(content, dict) or set(content) - set(fields):
        raise ValueError(f"a policy has the fields {', '.join(fields)}")
    values = {}
    for name, value in content.items():
        kind = type(getattr(Policy(), name))
        if isinstance(value, bool) != (kind is bool) or not isinstance(value, bool | int | float):
            raise ValueError(f"{name} of a policy is {value!r}, which is no {kind.__name__}")
        values[name] = kind(value)
    if values.get("joules_a_day", 0) < 0:
        raise ValueError("joules_a_day of a policy is less than 0; 0 allows any number")
    return Policy(**values)
