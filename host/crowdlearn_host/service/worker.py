"""The process of one run of a service: `python -m crowdlearn_host.service.worker`.

It trains the run, or goes on with it, and tells of it in lines of JSON on standard output. It ends when the
service does.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

from crowdlearn_device.errors import CrowdlearnError
from crowdlearn_device.platform.files import OF_THE_DISK

from crowdlearn_host.emulator.processes.parent import die_with_parent
from crowdlearn_host.errors import DiskError, Interrupted, InUse
from crowdlearn_host.runs.interrupt import Interrupt
from crowdlearn_host.runs.session import Session
from crowdlearn_host.spec.run_spec import RunSpec

from .description import fleet_of

REPORTED = frozenset(
    {"listening", "left", "let_go", "evaluated", "paused", "note", "resliced", "compiled"}
    | {"relay_ended", "relay_failed"}
)
"""Events that the service is told of as they are."""
PROGRESS_SECONDS = 0.5
"""The seconds between two lines about mini-batches."""
PLANNING_SECONDS = 60.0
FAILED, STOPPED, HELD_UP = 1, 3, 4
"""Exit codes: the run cannot go on as it is; it was asked to stop and can; it can once its disk has room, or
a process that ends has left its folder.
"""


class Teller:
    """Lines of JSON about a run."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._lock = out, threading.Lock()
        self._last = 0.0
        self._samples = self._mini_batches = 0

    def event(self, name: str, fields: dict[str, Any]) -> None:
        """Report an event, mini-batches together."""
        if name == "progress":
            self._samples += int(fields["rows"])
            self._mini_batches += 1
            if time.monotonic() - self._last < PROGRESS_SECONDS:
                return
            self._tell_progress(int(fields["epoch"]))
        elif name in REPORTED:
            self.say(name, fields)

    def _tell_progress(self, epoch: int) -> None:
        self._last = time.monotonic()
        self.say("progress", {"epoch": epoch, "samples": self._samples, "mini_batches": self._mini_batches})

    def say(self, name: str, fields: dict[str, Any]) -> None:
        """Write a line."""
        line = json.dumps({"event": name, **fields}, default=str)
        with self._lock:
            print(line, file=self._out, flush=True)


def main() -> None:
    """Train the run that is described in a file, in a folder: DESCRIPTION RUN PARENT."""
    description, run, parent = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    die_with_parent(parent)
    teller = Teller(sys.stdout)
    sys.stdout = sys.stderr  # what libraries print is none of ours
    interrupt = Interrupt()
    signal.signal(signal.SIGTERM, lambda *_: interrupt.ask())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; the service asks by SIGTERM
    session = Session(teller.event, interrupt)
    try:
        if (run / "environment.json").exists():
            result = session.go_on(run)
        else:
            spec = planned_for(RunSpec.load(description), description)
            result = session.begin(spec, spec.to_toml(), description.parent, run)
    except Interrupted:
        sys.exit(STOPPED)
    except (CrowdlearnError, OSError) as error:
        teller.say("failed", {"reason": " ".join(str(error).split())})
        later = isinstance(error, DiskError | InUse)
        later = later or (isinstance(error, OSError) and error.errno in OF_THE_DISK)
        sys.exit(HELD_UP if later else FAILED)
    tested = result.evaluation
    teller.say(
        "ended", {"accuracy": tested.accuracy if tested else None, "loss": tested.loss if tested else None}
    )


def planned_for(spec: RunSpec, description: Path) -> RunSpec:
    """Return the description with a plan for the devices that it was given, if their classes are known.
    Raises PlanError if no plan meets their budgets.
    """
    if spec.crowd.fleet is None:
        return spec
    from crowdlearn_host.planner.plan import save_plan
    from crowdlearn_host.runs.planned import PlanRequest, plan_network

    devices = frozenset(json.loads(description.with_suffix(".devices").read_text()))
    fleet = fleet_of(spec.crowd.fleet, devices)
    path = description.with_suffix(".plan.json")
    save_plan(plan_network(PlanRequest.of(spec), fleet, seconds=PLANNING_SECONDS).plan, path)
    return spec.model_copy(update={"group": spec.group.model_copy(update={"plan": path})})


if __name__ == "__main__":
    main()
