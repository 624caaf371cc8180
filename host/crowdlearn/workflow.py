"""The steps from a model to a trained one: diagnose, plan, export, train or simulate, evaluate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crowdlearn_host.spec.run_spec import RunSpec

from .run import Run, load_run
from .training import Listener, Training

if TYPE_CHECKING:
    from crowdlearn_export.doctor.doctor import Diagnosis
    from crowdlearn_host.coordinator.hub.server import OnEvent
    from crowdlearn_host.planner.plan import Plan
    from crowdlearn_host.planner.problem.fleet import Fleet
    from crowdlearn_host.runs.interrupt import Interrupt
    from crowdlearn_host.runs.results.evaluation import Evaluation
    from torch import nn

Shape = Sequence[int]


def diagnose(model: nn.Module | str, shape: Shape | None = None, *, batch: int = 32) -> Diagnosis:
    """Tell what of a model can be sliced and trained, before anything is exported.

    `model` is a network, or its name as a run has it (`mlp:784-100-10`, `file.py:function`). `shape` is that
    of one float32 sample; names of dense networks tell it. Raises ExportError if the model does not give one
    tensor of scores, ConfigError if there is no such model or shape.
    """
    from crowdlearn_host.runs.networks import diagnosed

    return diagnosed(model, shape, batch)


def plan(
    spec: RunSpec,
    fleet: Fleet,
    *,
    group_size: int | None = None,
    seconds: float = 60.0,
) -> Plan:
    """Divide the model of `spec` among the devices of `fleet` so that least is relayed, and tell how good
    that provably is (`Plan.certificate`). Searches for at most `seconds`.

    Raises InfeasiblePlan if no plan meets every budget, with the smallest relaxation that would.
    """
    from crowdlearn_host.runs.networks import planned

    return planned(spec, fleet, group_size, seconds)


def export(spec: RunSpec, folder: str | Path) -> list[Path]:
    """Export the slice programs that devices need for `spec` into `folder`, each with its manifest.

    Returns the paths of the .pte files. Raises ExportError if a piece cannot be exported.
    """
    from crowdlearn_host.runs.networks import exported

    return exported(spec, Path(folder))


def start(
    spec: RunSpec,
    run: str | Path | None = None,
    *,
    listeners: Sequence[Listener] = (),
    key: str | Path | None = None,
) -> Training:
    """Start to train on the fleet of `spec`, in a thread of its own, and return at once.

    `run` is the folder of the new run, runs/NAME if it is None; `key` is the private adb key, if not
    ~/.android/adbkey. Mistakes and failures are raised by `Training.result`.
    """
    from crowdlearn_host.runs.session import Session

    path = Path(run) if run is not None else Path("runs") / spec.name
    where = None if key is None else Path(key)

    return Training(
        lambda on_event, interrupt: Run(
            Session(on_event, interrupt, where).begin(spec, spec.to_toml(), Path.cwd(), path).run
        ),
        listeners,
    )


def resume(
    run: Run | str | Path, *, listeners: Sequence[Listener] = (), key: str | Path | None = None
) -> Training:
    """Go on with a run that was interrupted, in a thread of its own, and return at once."""
    from crowdlearn_host.runs.session import Session

    path = run.path if isinstance(run, Run) else Path(run)
    where = None if key is None else Path(key)
    return Training(
        lambda on_event, interrupt: Run(Session(on_event, interrupt, where).go_on(path).run), listeners
    )


def train(
    spec: RunSpec,
    run: str | Path | None = None,
    *,
    listeners: Sequence[Listener] = (),
    key: str | Path | None = None,
) -> Run:
    """Train on the fleet of `spec` and return the finished run. Arguments are those of `start`.

    Raises ConfigError, PlanError or ExportError before a device is touched if something does not fit,
    FleetError if devices cannot be reached, TrainingError if training stops before its end. KeyboardInterrupt
    stops the run where it can go on.
    """
    training = start(spec, run, listeners=listeners, key=key)
    try:
        return training.result()
    except KeyboardInterrupt:
        with training:
            raise


def simulate(
    spec: RunSpec,
    run: str | Path | None = None,
    *,
    listeners: Sequence[Listener] = (),
    processes: int = 1,
) -> Run:
    """Train as `spec` says without devices or sockets, and return the finished run; it goes on with what the
    folder `run` holds (runs/NAME-simulated if it is None).

    With float32 on the wire the weights are those of devices, to 1e-4. `listeners` get a "round" event each
    round. Raises ConfigError if a simulation cannot do what `spec` asks for.
    """
    from crowdlearn_host.runs.simulated import simulate_run
    from crowdlearn_host.spec.simulated import simulation_of

    path = Path(run) if run is not None else Path("runs") / f"{spec.name}-simulated"

    def simulated(on_event: OnEvent, interrupt: Interrupt) -> Run:
        simulate_run(simulation_of(spec), path, on_event, interrupt, processes=processes)
        return Run(path)

    training = Training(simulated, listeners)
    try:
        return training.result()
    except KeyboardInterrupt:
        with training:
            raise


def evaluate(run: Run | str | Path, data: str | Path | None = None) -> Evaluation:
    """Evaluate the newest global model of a run, as `Run.evaluate` does."""
    return (run if isinstance(run, Run) else load_run(run)).evaluate(data)
