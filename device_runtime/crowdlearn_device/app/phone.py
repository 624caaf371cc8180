"""The phone as the app's Java half shows it. What crosses is JSON: Java and Python share no other types."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Protocol


class Phone(Protocol):
    """The Java object PhoneFacts of the app, or what stands in for it."""

    def facts(self) -> str:
        """Return the fields of `Facts` as a JSON object; what is not known is left out."""
        ...

    def meters(self) -> str:
        """Return what the phone's meters read now, as energy/android.py tells it."""
        ...

    def show(self, status: str) -> None:
        """Show a status, the JSON of `Status`, in the notification and on the screen."""
        ...

    def program(self, descriptor: int) -> int:
        """Begin an isolated process for a program, with a copy of this descriptor as its line; its number, 0
        if the phone has no such processes, below 0 if it could not begin.
        """
        ...

    def endProgram(self, number: int) -> None:
        """End that process, whatever it does."""
        ...


@dataclass(frozen=True)
class Facts:
    """The phone as it is now.

    `thermal` is Android's thermal status: 0 none, 1 light, 2 moderate, 3 severe and more. `celsius` is the
    battery's temperature. None is what the phone does not tell.
    """

    percent: int | None = None
    charging: bool | None = None
    unmetered: bool | None = None
    idle: bool | None = None
    celsius: float | None = None
    thermal: int | None = None


def facts_of(phone: Phone) -> Facts:
    """Return the facts in the phone's JSON; what is damaged is left out."""
    try:
        content = json.loads(str(phone.facts()))
        known = {name: content[name] for name in Facts.__dataclass_fields__ if name in content}
        return Facts(**known)
    except (ValueError, TypeError):
        return Facts()
