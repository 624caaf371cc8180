"""What a run keeps and tells after every epoch."""

from __future__ import annotations

import asyncio
import copy
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_export.graph.weights import arrays_of, state_of
from safetensors.torch import load_file

from crowdlearn_host.common.files import read_lines
from crowdlearn_host.coordinator.hub.server import Server
from crowdlearn_host.coordinator.hub.traffic_ledger import exchanged_bytes
from crowdlearn_host.coordinator.storage.run_folder import RunFolder, load_model_state
from crowdlearn_host.runs.groups import WIRE
from crowdlearn_host.runs.prepare import Prepared
from crowdlearn_host.runs.results.choice import Choice, figure
from crowdlearn_host.runs.results.evaluation import Evaluation, evaluate
from crowdlearn_host.runs.results.losses import EpochLoss


@dataclass(frozen=True)
class _Due:
    """The global model after an epoch, and what is known of the epoch, while it waits to be evaluated."""

    epoch: int
    state: Mapping[str, torch.Tensor]
    fields: dict[str, Any]


class Checkpoints:
    """The checkpoints of a run: the global model after every epoch, evaluated, with what the epoch cost.

    Called in the store's thread. The evaluation has a thread of its own, for which nothing waits: of the
    models that come while one is evaluated the newest is next, and of the others it is told that they were
    not. If there is a validation split, every model is evaluated in its turn, and the best one becomes the
    run's at the end. The newest checkpoints stay, as many as the configuration says, and the best.
    """

    def __init__(self, prepared: Prepared, folder: RunFolder, server: Server, losses: EpochLoss) -> None:
        self._prepared, self._folder, self._server, self._losses = prepared, folder, server, losses
        self._config = prepared.config.checkpoints
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(1, "crowdlearn-evaluation")
        self._lock = Lock()
        self._dues: deque[_Due] = deque()
        self._under_way = -1
        self._last: tuple[int, Evaluation] | None = None
        self._rank = _ranks(folder)
        self._newest = max(folder.checkpoints(), default=-1)
        self._choice = None
        if prepared.config.validation is not None:
            self._choice = Choice(prepared.config.validation, folder)
            for epoch, path in sorted(folder.checkpoints().items()):
                if epoch not in self._choice.values:  # the run ended before it was evaluated
                    self._submit(_Due(epoch, load_file(path), {"epoch": epoch}))
            self._end_early()
        self._mark()
        rows = prepared.micro_batch
        layout = tuple(piece.neurons for piece in prepared.plan.pieces)
        wire = WIRE[prepared.config.training.wire]
        self._planned = exchanged_bytes(prepared.graph, layout, rows, wire) / rows

    def catch_up(self) -> None:
        """Take the checkpoint of an epoch that is over on disk and has none: a host died in between."""
        server = self._server
        ended = min(group.schedule.epoch for group in server.groups) - 1
        later = server.synchronous or self._config.evaluate == "group"  # the model is not that of all groups
        if ended > self._newest and not later:
            self(0, ended, server.shared.model())

    def _mark(self) -> None:
        """Measure the next epoch from here on."""
        server = self._server
        self._began, self._samples = time.monotonic(), server.throughput.samples
        self._exchanged = server.traffic.exchanged

    def __call__(self, group: int, epoch: int, arrays: dict[str, Floats]) -> None:
        prepared, server = self._prepared, self._server
        state = state_of(prepared.graph, arrays, prepared.model.state_dict(), prepared.plan.order)
        self._folder.save_checkpoint(epoch, state)
        self._newest = epoch
        samples = server.throughput.samples - self._samples
        fields: dict[str, Any] = {
            "epoch": epoch,
            **({"group": group} if self._config.evaluate == "group" else {}),
            "training_loss": self._losses.mean(epoch, group if self._config.evaluate == "group" else None),
            "samples_per_second": samples / max(time.monotonic() - self._began, 1e-9),
            "bytes_per_sample": (server.traffic.exchanged - self._exchanged) / max(samples, 1),
            "planned_bytes_per_sample": self._planned,
            "bytes": server.traffic.by_purpose(),
        }
        self._mark()
        if prepared.test is None or self._config.evaluate == "never":
            self._tell("evaluated", fields)
        else:
            self._submit(_Due(epoch, state, fields))
        self._prune()

    def _submit(self, due: _Due) -> None:
        """Have a model evaluated: in its turn if one is chosen, or else before all that wait."""
        with self._lock:
            before = None
            if self._dues and self._choice is None:
                before = self._dues.pop()
            self._dues.append(due)
        if before is None:
            self._pool.submit(self._evaluate)
        else:
            self._tell("not_evaluated", before.fields)

    def _prune(self) -> None:
        kept = sorted(self._folder.checkpoints())
        with self._lock:
            best = max(self._rank, key=lambda epoch: (self._rank[epoch], epoch), default=-1)
            if self._choice is not None:
                best = self._choice.best
            waiting = {due.epoch for due in self._dues}
            waiting |= {self._under_way} if self._choice is not None else set()
        self._folder.forget_checkpoints(set(kept) - {*kept[-self._config.keep :], best, *waiting})

    def _evaluate(self) -> None:
        """Evaluate, in a thread of its own, the model whose turn it is."""
        with self._lock:
            due = self._dues.popleft() if self._dues else None
            self._under_way = due.epoch if due is not None else -1
        test, validation = self._prepared.test, self._prepared.validation
        if due is None or test is None:
            return
        try:
            model = copy.deepcopy(self._prepared.model)
            told_by = self._prepared.loss, self._prepared.config.metrics.own
            result = evaluate(model, due.state, test, *told_by)
            chosen = evaluate(model, due.state, validation, *told_by) if validation is not None else None
        except Exception as error:
            self._loop.call_soon_threadsafe(self._server.fail, error)
            return
        with self._lock:
            self._rank[due.epoch] = result.rank
            self._last = due.epoch, result
        classes = [[each.samples, each.correct] for each in result.classes]
        found: dict[str, Any] = {
            "test_loss": result.loss,
            "classes": classes,
            "metrics": dict(result.metrics),
        }
        found |= {name: value for name in ("confusion", "pairs") if (value := getattr(result, name))}
        if result.accuracy is not None:
            found["test_accuracy"] = result.accuracy
        if chosen is not None and self._choice is not None:
            found |= {"validation_loss": chosen.loss, "validation_metrics": dict(chosen.metrics)}
            with self._lock:
                self._choice.values[due.epoch] = figure(chosen, self._choice.wanted)
            self._loop.call_soon_threadsafe(self._end_early)
        self._tell("evaluated", {**due.fields, **found})

    def _end_early(self) -> None:
        """Have groups end with the epoch that is under way, once validation gets no better."""
        assert self._choice is not None
        with self._lock:
            ended = self._choice.ended
        if not ended or all(group.enough for group in self._server.groups):
            return
        for group in self._server.groups:
            group.enough = True
        self._server.tell("enough", self._choice.fields)

    def choose(self) -> None:
        """Have devices keep the model that validation chooses, once all that wait are evaluated."""
        self._pool.submit(self._choose)

    def _choose(self) -> None:
        """Read the chosen model, in the thread that evaluates: what came before is evaluated then."""
        prepared = self._prepared
        try:
            assert self._choice is not None
            state = load_file(self._folder.checkpoint(self._choice.best))
            model = arrays_of(prepared.graph, state, prepared.plan.order)
        except Exception as error:
            self._loop.call_soon_threadsafe(self._server.fail, error)
        else:
            self._loop.call_soon_threadsafe(self._server.chosen, model)

    def _tell(self, event: str, fields: dict[str, Any]) -> None:
        self._loop.call_soon_threadsafe(self._server.tell, event, fields)

    async def finish(self) -> Evaluation | None:
        """Return the evaluation of the run's model, where there is a test set, once all are done: of the
        newest checkpoint, or the one that validation chooses.
        """
        await asyncio.to_thread(self._pool.shutdown)
        await asyncio.sleep(0)  # what the thread told last is heard first
        self._prune()
        test = self._prepared.test
        if self._choice is not None and self._choice.values:
            self._folder.choose_checkpoint(self._choice.best)
            self._server.tell("chosen", self._choice.fields)
            self._newest = self._choice.best
        if self._last is not None and self._last[0] == self._newest:
            return self._last[1]
        if test is None:
            return None
        model, state = copy.deepcopy(self._prepared.model), load_model_state(self._folder.path)
        own = self._prepared.config.metrics.own
        return await asyncio.to_thread(evaluate, model, state, test, self._prepared.loss, own)


def _ranks(folder: RunFolder) -> dict[int, float]:
    """Return the rank of each epoch's model, the higher the better, as a run that goes on has logged it: test
    accuracy, or loss negated.
    """
    lines = (event for event in read_lines(folder.path / "events.jsonl") if event.get("event") == "evaluated")
    return {
        int(event["epoch"]): float(event.get("test_accuracy", -event["test_loss"]))
        for event in lines
        if isinstance(event.get("epoch"), int) and isinstance(event.get("test_loss"), float)
    }
