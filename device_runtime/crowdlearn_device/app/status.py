"""The state of the device as its owner sees it, from the frames that it sends and receives."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from crowdlearn_device.protocol import wire_pb2 as pb

PURPOSES = {
    pb.PURPOSE_ACTIVATION: "sums",
    pb.PURPOSE_ERROR: "errors",
    pb.PURPOSE_SHUFFLE: "weights to other devices",
    pb.PURPOSE_RECOVERY: "weights to other devices",
    pb.PURPOSE_MODEL: "weights to other devices",
}
KINDS = {
    "shared": "weights to the host",
    "sum_step": "weights under masks",
    "snapshot": "sealed snapshots",
    "progress": "loss and accuracy",
}
OTHER = "messages without data of yours"


@dataclass
class Status:
    """The work under way. `sent` is bytes by what they are, in words; `loss` is of the last mini-batch that
    was reported, which only the dominator does; `boundary` counts mini-batches; `joules` are since the
    service began. `fingerprint` is that of the identity under which it takes part, for owners to compare.
    `programs` is where they run, in words.
    """

    host: str = ""
    run: str = ""
    state: str = "waiting for a host"
    role: str = ""
    boundary: int = 0
    loss: float | None = None
    received: int = 0
    sent: dict[str, int] = field(default_factory=dict)
    joules: float | None = None
    fingerprint: str = ""
    programs: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class Watch:
    """The status of a connection, from its frames; `changed` is called when something is worth showing."""

    def __init__(self, status: Status, changed: Callable[[], None], host: str, print_: str = "") -> None:
        """Begin; `print_` is the fingerprint of the identity that this connection shows."""
        self._status, self._changed, self._host, self._print = status, changed, host, print_
        status.fingerprint = status.fingerprint or print_
        self._sent: Counter[str] = Counter(status.sent)

    def received(self, frame: pb.Frame, size: int) -> None:
        """Take note of a frame of so many bytes from the host."""
        status = self._status
        status.received += size
        kind = frame.WhichOneof("body")
        if kind == "welcome":
            status.host, status.run, status.state = self._host, frame.welcome.run, "taking part"
            status.fingerprint = self._print
        elif kind == "assign":
            piece, boundary = frame.assign.piece, frame.assign.boundary
            status.boundary = boundary
            roles = {-1: "spare: holds no piece", 0: "dominator: feeds its own samples"}
            status.role = roles.get(piece, f"follower: holds piece {piece}")
        elif kind == "committed":
            status.boundary = max(status.boundary, frame.committed.boundary)
        elif kind == "finish":
            status.state, status.role = f"finished: {frame.finish.reason[:200]}", ""
        else:
            return
        self._changed()

    def sent(self, frame: pb.Frame, size: int) -> None:
        """Take note of a frame of so many bytes to the host."""
        kind = frame.WhichOneof("body")
        if kind == "envelope":
            name = PURPOSES.get(frame.envelope.purpose, OTHER)
        else:
            name = KINDS.get(kind or "", OTHER)
        self._sent[name] += size
        self._status.sent = dict(self._sent)
        if kind == "progress":
            self._status.boundary = frame.progress.boundary
            if frame.progress.HasField("metrics"):  # a mechanism may keep them here
                self._status.loss = frame.progress.metrics.loss
            self._changed()

    def resting(self, why: str) -> None:
        """Take note that the device takes no part, and why."""
        self._status.state, self._status.role = f"resting: {why}", ""
        self._changed()
