"""A training run from its description to its result, without a terminal.

First comes what is looked at in no time, then what takes seconds, then the exports, then the devices.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crowdlearn_host import emulator as phones
from crowdlearn_host.common import event_loop
from crowdlearn_host.errors import RunError
from crowdlearn_host.methods.round_schedule import doubt_of_sharing
from crowdlearn_host.runs.checks.preflight import check_ports, check_start, serials_of
from crowdlearn_host.runs.interrupt import Interrupt
from crowdlearn_host.runs.results.losses import EpochLoss
from crowdlearn_host.spec.run_spec import RunSpec

if TYPE_CHECKING:
    from crowdlearn_host.coordinator.hub.records import OnEvent
    from crowdlearn_host.coordinator.storage.run_folder import RunFolder
    from crowdlearn_host.runs.checks.checked import Checked
    from crowdlearn_host.runs.checks.survey import Wanted
    from crowdlearn_host.runs.prepare import Prepared
    from crowdlearn_host.runs.results.evaluation import Evaluation


@dataclass(frozen=True)
class Result:
    """The outcome of a run in the folder `run`, after `seconds`.

    `evaluation` is of the test set, None if there is none. `training_loss` is the mean of the last epoch.
    `traffic` has rows of device, direction, purpose, bytes and messages. `models` are the folders of the
    models that the run's own virtual phones kept.
    """

    run: Path
    seconds: float
    evaluation: Evaluation | None
    training_loss: float | None
    traffic: tuple[dict[str, str | int], ...]
    models: tuple[Path, ...]

    def bytes_by_purpose(self) -> dict[str, dict[str, int]]:
        """Return bytes by direction ("up" is from devices) and purpose."""
        totals: dict[str, dict[str, int]] = {"up": {}, "down": {}}
        for row in self.traffic:
            of, purpose = totals[str(row["direction"])], str(row["purpose"])
            of[purpose] = of.get(purpose, 0) + int(row["bytes"])
        return totals

    def to_json(self) -> dict[str, Any]:
        """Return the document that `crowdlearn train --json` prints."""
        tested = self.evaluation
        return {
            "run": str(self.run),
            "seconds": round(self.seconds, 2),
            "test_accuracy": tested.accuracy if tested else None,
            "test_loss": tested.loss if tested else None,
            "test_metrics": dict(tested.metrics) if tested else {},
            "training_loss": self.training_loss,
            "bytes": self.bytes_by_purpose(),
            "models": [str(path) for path in self.models],
        }


@dataclass(frozen=True)
class Session:
    """The surroundings of a run: a listener for its events, a request to stop, and the adb key."""

    on_event: OnEvent
    interrupt: Interrupt
    key: Path | None = None

    def begin(self, spec: RunSpec, text: str, config_folder: Path, run: Path) -> Result:
        """Train a new run in the folder `run`. `text` is the configuration as it is kept there.

        Raises CrowdlearnError if something does not fit or training stops before its end.
        """
        from crowdlearn_host.runs.folder import describe_run, starting

        check_start(spec)
        check_ports(spec)
        serials = serials_of(spec)
        with starting(run, text) as folder:
            prepared = self._prepared(spec, serials)
            describe_run(folder, text, prepared, config_folder)
            return self._trained(folder, prepared, serials)

    def look(self, spec: RunSpec, text: str, run: Path) -> int:
        """See whether a run would start: description, folder, model, data, and devices that answer. Return
        their number. Nothing is exported, and the folder is left as it was.
        """
        from crowdlearn_host.runs.folder import starting

        check_start(spec)
        check_ports(spec)
        serials = serials_of(spec)
        fresh = not run.exists()
        above = next(folder for folder in (run, *run.absolute().parents) if folder.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            raise RunError(f"{run} cannot be made: {above} is no folder to write to; give --run FOLDER")
        with contextlib.ExitStack() as stack:
            if not fresh:
                stack.enter_context(starting(run, text))
            self._checked(spec, serials)
        return (spec.fleet.virtual if serials is None else len(serials)) + spec.fleet.joining

    def go_on(self, run: Path) -> Result:
        """Train on in the folder `run`."""
        from crowdlearn_host.runs.folder import open_run, recompiled

        folder, spec = open_run(run)
        with folder:
            check_ports(spec)
            serials = serials_of(spec)
            from crowdlearn_host.runs.prepare import prepare  # takes seconds: what is wrong is told before

            prepared = prepare(spec, self._pass_on, run)
            self._tell_left(prepared, serials)
            if recompiled(run, prepared):
                folder.event("recompiled")
                self.on_event("recompiled", {})
            return self._trained(folder, prepared, serials)

    def _pass_on(self, event: str, fields: dict[str, Any]) -> None:
        """Pass an event of the preparation on, unless the run is to stop."""
        self.interrupt.check()
        self.on_event(event, fields)

    def _prepared(self, spec: RunSpec, serials: list[str] | None) -> Prepared:
        """Return a new run's programs, once its parts fit each other and its devices answer."""
        checked = self._checked(spec, serials)
        from crowdlearn_host.runs.prepare import export

        return export(checked, self._pass_on)

    def _checked(self, spec: RunSpec, serials: list[str] | None) -> Checked:
        """Return the parts of a run that fit each other, once its devices answer."""
        from crowdlearn_host.runs.checks.checked import check  # imports the exporter, which takes seconds
        from crowdlearn_host.runs.checks.survey import survey

        devices = (spec.fleet.virtual if serials is None else len(serials)) + spec.fleet.joining
        checked = check(spec, devices=devices)
        groups = len(checked.plan.groups) or spec.group.groups
        if groups > 1 and (doubt := doubt_of_sharing(spec.sharing.theta, spec.sharing.tau)):
            self.on_event("note", {"text": doubt})
        self._tell_left(checked, serials)
        for note in (checked.rounding, checked.clipping):
            if note:
                self.on_event("note", {"text": note})
        if serials:
            event_loop.run(survey(serials, _wanted(checked), self.key, spec.fleet.runtime))
        return checked

    def _tell_left(self, run: Checked, serials: list[str] | None) -> None:
        """Tell how many samples are left over, if any are."""
        from crowdlearn_host.runs.dealing import samples_left

        devices = run.config.fleet.virtual if serials is None else len(serials)
        if run.train is not None and (left := samples_left(run.plan, len(run.train), devices)):
            self.on_event("samples_left", {"left": left, "samples": len(run.train)})

    def _trained(self, folder: RunFolder, prepared: Prepared, serials: list[str] | None) -> Result:
        from crowdlearn_host.runs import train
        from crowdlearn_host.runs.folder import fetch_models, forget_phones

        spec, started = prepared.config, time.monotonic()
        samples = len(prepared.train) * spec.training.epochs if prepared.train is not None else 0
        self._pass_on("prepared", {"samples": samples})
        losses, epoch = EpochLoss(), [0]

        def on_event(event: str, fields: dict[str, Any]) -> None:
            losses.take(event, fields)
            epoch[0] = fields["epoch"] if event == "progress" else epoch[0]
            self.on_event(event, fields)

        with contextlib.ExitStack() as stack:
            if serials is None:  # they keep what they hold in the run's folder until the run is done
                fleet = spec.fleet
                own = stack.enter_context(
                    phones.kept(fleet.virtual, folder.path, profile=fleet.profile, machine=fleet.arch)
                )
                serials = [phone.serial for phone in own]
            training = train.train(prepared, serials, folder, on_event, self.key, self.interrupt)
            tested = event_loop.run(training, dialled=spec.fleet.listen is not None)
        models: list[Path] = []
        if spec.fleet.virtual:
            models = fetch_models(folder.path)
            forget_phones(folder.path)  # the run is done, its own phones with it
        return Result(
            folder.path,
            time.monotonic() - started,
            tested,
            losses.mean(epoch[0]),
            tuple(folder.load_traffic()),
            tuple(models),
        )


def _wanted(checked: Checked) -> Wanted | None:
    """Return the samples that every device must have, if they are on the devices already."""
    from crowdlearn_host.runs.checks.survey import Wanted
    from crowdlearn_host.spec.provenance import TEST_DATA

    if checked.config.device_data is None:
        return None
    return Wanted(
        checked.config.device_data,
        checked.sample,
        checked.graph.layers[-1].neurons,
        checked.loss.targets(*checked.graph.scores),
        checked.graph.least_rows,
        test.unit if (test := checked.given.get(TEST_DATA)) else None,
        frozenset(turn.devices[0] for group in checked.plan.groups for turn in group.turns),
    )
