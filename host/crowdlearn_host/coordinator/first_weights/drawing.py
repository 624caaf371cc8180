"""The drawing of a seed by all devices of a run, as a state machine without I/O: answers in, messages out.

An attempt that loses a device begins anew without it. A device that has committed and keeps its secret for
longer than the patience is named, and out of the run: it has seen what the others showed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from crowdlearn_device.privacy.first_weights.commitment import (
    MOST_ATTEMPTS,
    SECRET_BYTES,
    commitment_of,
    hash_of,
    seed_of,
)
from crowdlearn_device.privacy.first_weights.distributions import Distribution
from crowdlearn_device.protocol import wire_pb2 as pb

Stage = Literal["waiting", "commitments", "secrets", "agreeing", "drawn", "failed"]
DUE: dict[str, Stage] = {"commitment": "commitments", "secret": "secrets", "agreed": "agreeing"}


class Drawing:
    """The attempts to draw a seed. `run` is NAME/ID, `patience` in seconds; `attempt` was the last one."""

    def __init__(
        self, run: str, distributions: Mapping[str, Distribution], patience: float, attempt: int = 0
    ) -> None:
        self.stage: Stage = "waiting"
        self.seed = b""
        self.out: list[tuple[int, pb.FirstWeights]] = []
        """Messages to devices, by number, in their order."""
        self.named: list[tuple[int, str]] = []
        """Devices that are to be let go, and the reason."""
        self._run, self._patience = run, patience
        self._distributions = [
            pb.Distribution(array=name, kind=each.kind, low=each.low, high=each.high)
            for name, each in distributions.items()
        ]
        self.attempt, self._begun = attempt, b""
        self._answers: dict[str, dict[int, bytes]] = {}
        self._members: set[int] = set()
        self._now = self._since = 0.0

    def begin(self, identities: Mapping[int, bytes]) -> None:
        """Begin an attempt by all of these devices, by number."""
        if self.stage == "drawn" or not identities:
            return
        self.attempt += 1
        if self.attempt > MOST_ATTEMPTS:
            self.stage = "failed"
            return
        self.stage, self._members, self._since = "commitments", {*identities}, self._now
        self._answers = {kind: {} for kind in DUE}
        begin = pb.FirstBegin(
            devices=[pb.Peer(device=device, identity=key) for device, key in sorted(identities.items())],
            distributions=self._distributions,
        )
        self._begun = hash_of(self._run, self.attempt, begin)
        self._tell(pb.FirstWeights(attempt=self.attempt, begin=begin))

    def left(self, device: int) -> None:
        """Give an attempt up if one of its devices is gone."""
        if self.stage not in ("waiting", "drawn", "failed") and device in self._members:
            self.stage = "waiting"

    def answer(self, device: int, message: pb.FirstWeights) -> None:
        """Take a device's answer; one that is not due is dropped, and one that is false names the device."""
        kind = message.WhichOneof("step") or ""
        known = self._answers.get(kind, {})
        if message.attempt != self.attempt or self.stage != DUE.get(kind) or device not in self._members:
            return
        if device in known:
            return
        value = message.commitment if kind == "commitment" else message.secret
        if kind != "agreed" and len(value) != SECRET_BYTES:
            self._name(device, f"{kind} of {len(value)} bytes to first weights")
            return
        if (
            kind == "secret"
            and commitment_of(self._begun, device, value) != self._answers["commitment"][device]
        ):
            self._name(device, "it committed to another secret of first weights than it shows")
            return
        known[device] = value
        if known.keys() == self._members:
            self._go_on()

    def _go_on(self) -> None:
        self._since = self._now
        answers = self._answers["commitment" if self.stage == "commitments" else "secret"]
        message = pb.OfDevices(of=[pb.OfDevice(device=d, value=v) for d, v in sorted(answers.items())])
        if self.stage == "commitments":
            self.stage = "secrets"
            self._tell(pb.FirstWeights(attempt=self.attempt, commitments=message))
        elif self.stage == "secrets":
            self.stage = "agreeing"
            self._tell(pb.FirstWeights(attempt=self.attempt, secrets=message))
        else:
            self.stage, self.seed = "drawn", seed_of(self._begun, answers)

    def tick(self, now: float) -> None:
        """Let time pass: a device that owes an answer for too long is named."""
        self._now = now
        kind = next((kind for kind, stage in DUE.items() if stage == self.stage), None)
        if kind is not None and now - self._since >= self._patience:
            for device in sorted(self._members - self._answers[kind].keys()):
                what = (
                    "commits to no secret"
                    if kind == "commitment"
                    else "committed, and does not show its secret"
                )
                self._name(device, f"it {what} of first weights")

    def _name(self, device: int, why: str) -> None:
        self.named.append((device, why))
        self.stage = "waiting"

    def _tell(self, message: pb.FirstWeights) -> None:
        self.out += [(device, message) for device in sorted(self._members)]
