"""A case from a real run: virtual phones train over adb, and each device's own process taps itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.privacy.tap import Record, read_records
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_export.graph.weights import arrays_of

from crowdlearn_host import emulator
from crowdlearn_host.common import event_loop
from crowdlearn_host.coordinator.storage.run_folder import load_model_state
from crowdlearn_host.errors import TrainingError
from crowdlearn_host.runs.data import deal, shares_of
from crowdlearn_host.runs.folder import new_run
from crowdlearn_host.runs.prepare import Prepared
from crowdlearn_host.runs.train import train

from .case import OWN, SAMPLES, Case, OnProgress, dealt_samples, moment_of, recipe_of
from .rehearsal import PassTape

TAP = "tap.records"
"""The file of a tap, in the runtime's home on a phone."""


def phones_case(
    prepared: Prepared,
    folder: Path,
    *,
    samples: int = SAMPLES,
    own: int = OWN,
    epochs: int = 2,
    on_progress: OnProgress = lambda event: None,
) -> Case:
    """Train a prepared run on new virtual phones, in `folder`, and return what their taps recorded.

    The victim is the first dominator. Raises ConfigError if the data does not suffice, and TrainingError if
    the run fails.
    """
    gallery, rest, each = dealt_samples(prepared, samples, own)
    devices = len(prepared.plan.pieces)
    training = prepared.config.training.model_copy(update={"epochs": epochs})
    config = prepared.config.model_copy(update={"training": training})
    run = replace(prepared, config=config, train=gallery, plan=replace(prepared.plan, groups=()))
    with (
        emulator.running(devices, folder / "home") as started,
        new_run(folder / "run", "", run, folder) as opened,
    ):
        serials = [phone.serial for phone in started]
        tapped = ("--tap", TAP)
        event_loop.run(train(run, serials, opened, lambda event, fields: on_progress(event), extra=tapped))
        homes = [folder / "home" / "phones" / phone.name for phone in started]
        records = [_records(home) for home in homes]
    last = arrays_of(prepared.graph, load_model_state(folder / "run"), prepared.plan.order)
    tapes, dominators = _passes(prepared, records, last)
    parts = deal(gallery, shares_of(len(gallery), [1] * devices), prepared.config.training.seed)
    victim = dominators[0]
    order = [victim, *(device for device in range(devices) if device != victim)]
    inputs, labels = (
        np.concatenate([getattr(parts[device], name) for device in order]) for name in ("inputs", "labels")
    )
    watched = tuple(number for number, device in enumerate(dominators) if device == victim)
    named = prepared.config.model
    public = not prepared.config.secret_order
    return Case(
        recipe_of(prepared),
        Dataset(inputs, labels),
        rest,
        each,
        tapes,
        watched,
        public_order=public,
        model=named,
    )


def _records(home: Path) -> list[Record]:
    found = sorted(home.rglob(TAP))
    if not found:
        raise TrainingError(
            f"{home} holds no records: the phone's runtime did not tap itself; look at its log"
        )
    return list(read_records(found[0]))


def _passes(
    prepared: Prepared, records: Sequence[Sequence[Record]], last: Mapping[str, Floats]
) -> tuple[tuple[PassTape, ...], list[int]]:
    """Put together the passes, by generation, and their dominators; `last` are the weights after all."""
    generations = sorted({r.generation for own in records for r in own})
    held, dominators, views = [], [], []
    for generation in generations:
        by_piece: dict[int, list[Record]] = {}
        dominator = -1
        for device, own in enumerate(records):
            for record in own:
                if record.generation == generation:
                    by_piece.setdefault(record.piece, []).append(record)
                    dominator = device if record.kind == "fed" else dominator
        if dominator < 0:
            continue  # a generation in which nothing was fed
        pieces = tuple(tuple(by_piece[piece]) for piece in sorted(by_piece))
        dominators.append(dominator)
        views.append(pieces)
        held.append(_whole(pieces))
    after = [*held[1:], last]
    tapes = [
        PassTape(moment_of(prepared, before), moment_of(prepared, then), pieces)
        for before, then, pieces in zip(held, after, views, strict=True)
    ]
    return tuple(tapes), dominators


def _whole(pieces: Sequence[Sequence[Record]]) -> dict[str, Floats]:
    """Return the network's arrays when a generation began, from what each piece held."""
    parts: dict[str, list[Floats]] = {}
    for records in pieces:
        for record in records:
            if record.kind == "weights":
                parts.setdefault(record.name, []).append(record.values)
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}
