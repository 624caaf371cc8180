"""What a run keeps and tells after every epoch."""

from __future__ import annotations

import copy
import time
from typing import Any

from crowdlearn_device.protocol.frames import Floats
from crowdlearn_export.graph.weights import state_of

from crowdlearn_host.coordinator.hub.server import OnEvent, Server
from crowdlearn_host.coordinator.hub.traffic import exchanged_bytes
from crowdlearn_host.coordinator.storage.run_folder import RunFolder

from .evaluation import evaluate
from .prepare import WIRE, Prepared


class Checkpoints:
    """Saves and evaluates the global model after every epoch of a group, with what the epoch cost."""

    def __init__(self, prepared: Prepared, folder: RunFolder, server: Server, on_event: OnEvent) -> None:
        self._prepared, self._folder, self._server, self._on_event = prepared, folder, server, on_event
        self._mark()
        plan = prepared.plan
        rows = prepared.config.training.micro_rows(plan.micro_batch, pieces=len(plan.pieces))
        layout = [piece.neurons for piece in prepared.plan.pieces]
        wire = WIRE[prepared.config.training.wire]
        self._planned = exchanged_bytes(prepared.graph, layout, rows, wire) / rows

    def _mark(self) -> None:
        """From here on the next epoch is measured."""
        server = self._server
        self._began, self._samples = time.monotonic(), server.throughput.samples
        self._exchanged = server.traffic.exchanged

    def __call__(self, group: int, epoch: int, arrays: dict[str, Floats]) -> None:
        prepared = self._prepared
        state = state_of(prepared.graph, arrays, prepared.model.state_dict(), prepared.plan.order)
        self._folder.save_checkpoint(epoch, state)
        fields: dict[str, Any] = {"epoch": epoch, "group": group}
        if prepared.test is not None:
            result = evaluate(copy.deepcopy(prepared.model), state, prepared.test)
            fields |= {"test_loss": result.loss, "test_accuracy": result.accuracy}
        samples = self._server.throughput.samples - self._samples
        fields |= {
            "samples_per_second": samples / (time.monotonic() - self._began),
            "bytes_per_sample": (self._server.traffic.exchanged - self._exchanged) / max(samples, 1),
            "planned_bytes_per_sample": self._planned,
            "bytes": self._server.traffic.by_purpose(),
        }
        self._mark()
        self._folder.event("evaluated", **fields)
        self._on_event("evaluated", fields)
