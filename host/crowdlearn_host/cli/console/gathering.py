"""The devices that a run waits for before it begins."""

from __future__ import annotations

from typing import Any


class Gathering:
    """The devices that a run waits for before it begins: those named, and so many that dial in."""

    def __init__(self) -> None:
        self.named: tuple[str, ...] = ()
        self.joining = 0
        self.address = ""
        self._names: dict[str, str] = {}
        self._here: set[str] = set()

    def take(self, event: str, fields: dict[str, Any]) -> None:
        match event:
            case "gathering":
                self.named, self.joining = tuple(fields["named"]), fields["joining"]
            case "listening":
                self.address = fields["address"]
            case "deployed":
                self._names[fields["serial"]] = fields["device"]
            case "joined":
                self._here.add(fields["device"])
            case "left":
                self._here.discard(fields["device"])

    @property
    def wanted(self) -> int:
        return len(self.named) + self.joining

    def summary(self) -> str:
        """Return how many are here, and what is missing."""
        expected = {self._names.get(name, name): name for name in self.named}
        missing = [name for device, name in expected.items() if device not in self._here]
        dialled = len(self._here - set(expected))
        if (absent := self.joining - dialled) > 0:
            missing.append(f"{absent} to dial in at {self.address}")
        here = f"{min(len(self._here), self.wanted)} of {self.wanted} devices are here"
        return f"{here}; missing: {', '.join(missing)}" if missing else here
