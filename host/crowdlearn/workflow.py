"""The steps from a model to a trained one: diagnose, plan, export, train or simulate, evaluate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crowdlearn_host.runs.interrupt import Interrupt
from crowdlearn_host.spec.run_spec import RunSpec

from .run import Run, load_run
from .training import Listener, Training, Work, heard_by

if TYPE_CHECKING:
    from crowdlearn_export.doctor.doctor import Diagnosis
    from crowdlearn_host.coordinator.hub.records import OnEvent
    from crowdlearn_host.planner.plan import Plan
    from crowdlearn_host.planner.problem.fleet import Fleet
    from crowdlearn_host.runs.results.evaluation import Evaluation
    from crowdlearn_host.runs.session import Session
    from crowdlearn_host.spec.simulated import Simulation
    from torch import nn

Shape = Sequence[int]


def diagnose(
    model: nn.Module | str | RunSpec,
    shape: Shape | None = None,
    *,
    batch: int = 32,
    loss: str = "cross_entropy",
) -> Diagnosis:
    """Tell what of a model can be sliced and trained, before anything is exported.

    `model` is a network, or its name as a run has it (`mlp:784-100-10`, `file.py:function`). `shape` is that
    of one float32 sample; names of dense networks have it. `loss` is the name of what is to be learned. The
    description of a run has all three, and how samples are changed.

    Raises ExportError if the model does not give one tensor of scores, ConfigError if there is no such model
    or shape. Raises it, too, if samples cannot be changed so.
    """
    from crowdlearn_host.runs.networks import diagnosed

    return diagnosed(model, shape, batch, loss)


def plan(
    spec: RunSpec,
    fleet: Fleet,
    *,
    group_size: int | None = None,
    seconds: float = 60.0,
) -> Plan:
    """Divide the model of `spec` among the devices of `fleet` so that least is relayed, and tell how good
    that provably is (`Plan.certificate`). Searches for at most `seconds` of the processor.
    `crowdlearn.planning.plan_network` compares with other partitioners, and says what it does meanwhile.

    Raises InfeasiblePlan if no plan meets every budget, with the smallest relaxation that would.
    """
    from crowdlearn_host.runs.planned import PlanRequest, plan_network

    return plan_network(PlanRequest.of(spec), fleet, group_size=group_size, seconds=seconds).plan


def export(spec: RunSpec, folder: str | Path) -> list[Path]:
    """Export the slice programs that devices need for `spec` into `folder`, each with its manifest.

    Returns the paths of the .pte files. Raises ExportError if a piece cannot be exported.
    """
    from crowdlearn_host.runs.networks import exported

    return exported(spec, Path(folder))


def check(
    spec: RunSpec,
    run: str | Path | None = None,
    *,
    listeners: Sequence[Listener] = (),
    key: str | Path | None = None,
) -> int:
    """Look at all of a run that is cheap to look at, and return how many devices would train it.

    Checks that description, model, data and folder fit, and that the fleet's devices answer; exports nothing.
    `listeners` get the events "note" and "samples_left", if there are any. Raises what `train` would raise.
    """
    return _session(heard_by(listeners), Interrupt(), key).look(spec, spec.to_toml(), _folder(spec, run))


def start(
    spec: RunSpec | Run,
    run: str | Path | None = None,
    *,
    listeners: Sequence[Listener] = (),
    key: str | Path | None = None,
) -> Training:
    """Start to train on the fleet of `spec`, or go on with a run, in a thread of its own, and return at once.

    `run` is the folder of the new run, runs/NAME if it is None; `key` is the private adb key, if not
    ~/.android/adbkey. Mistakes and failures are raised by `Training.result`.
    """
    return Training(_training(spec, run, key, None), listeners)


def resume(
    run: Run | str | Path, *, listeners: Sequence[Listener] = (), key: str | Path | None = None
) -> Training:
    """Go on with a run that was interrupted, in a thread of its own, and return at once."""
    return start(run if isinstance(run, Run) else Run(Path(run)), listeners=listeners, key=key)


def train(
    spec: RunSpec | Run,
    run: str | Path | None = None,
    *,
    listeners: Sequence[Listener] = (),
    key: str | Path | None = None,
    written: tuple[str, Path] | None = None,
    interrupt: Interrupt | None = None,
) -> Run:
    """Train on the fleet of `spec`, or go on with a run, and return the finished one, with its `outcome`.

    Arguments are those of `start`. `written` is the text that `spec` was read from, and its folder: the run
    keeps it as it is. With an `interrupt`, it trains in the thread that calls, in which no event loop runs,
    and stops once `interrupt.ask()` was called.

    Raises ConfigError, PlanError or ExportError before a device is touched if something does not fit. Raises
    FleetError if devices cannot be reached, TrainingError if training stops before its end. KeyboardInterrupt
    stops the run where it can go on.
    """
    return _done(_training(spec, run, key, written), listeners, interrupt)


def simulate(
    spec: RunSpec | Simulation,
    run: str | Path | None = None,
    *,
    listeners: Sequence[Listener] = (),
    processes: int = 1,
    data: str | None = None,
    engine: str = "local",
    interrupt: Interrupt | None = None,
) -> Run:
    """Train as `spec` says without devices or sockets, and return the finished run; it goes on with what the
    folder `run` holds (runs/NAME-simulated if it is None).

    With float32 on the wire the weights are those of devices, to 1e-4. `listeners` get a "round" event each
    round. `data` is a folder with other samples than those of `spec`. `engine` is "local", with so many
    `processes` (0: one a core), or "ray". `interrupt` is that of `train`. Raises ConfigError if a simulation
    cannot do what `spec` asks for.
    """
    from crowdlearn_host.runs.simulated import simulate_run
    from crowdlearn_host.spec.simulated import simulation_of

    if isinstance(spec, RunSpec):
        wanted, path = simulation_of(spec), Path(run or Path("runs") / f"{spec.name}-simulated")
    else:
        wanted, path = spec, Path(run or Path("runs") / "simulated")

    def simulated(on_event: OnEvent, asked: Interrupt) -> Run:
        state = simulate_run(wanted, path, on_event, asked, data=data, engine=engine, processes=processes)
        return Run(path, rounds=tuple(state.records))

    return _done(simulated, listeners, interrupt)


def evaluate(run: Run | str | Path, data: str | Path | None = None) -> Evaluation:
    """Evaluate the newest global model of a run, as `Run.evaluate` does."""
    return (run if isinstance(run, Run) else load_run(run)).evaluate(data)


def _training(
    spec: RunSpec | Run, run: str | Path | None, key: str | Path | None, written: tuple[str, Path] | None
) -> Work:
    """Return what trains a new run, or goes on with one."""

    def trained(on_event: OnEvent, interrupt: Interrupt) -> Run:
        session = _session(on_event, interrupt, key)
        if isinstance(spec, Run):
            result = session.go_on(spec.path)
        else:
            text, folder = written or (spec.to_toml(), Path.cwd())
            result = session.begin(spec, text, folder, _folder(spec, run))
        return Run(result.run, outcome=result)

    return trained


def _done(work: Work, listeners: Sequence[Listener], interrupt: Interrupt | None) -> Run:
    """Do the work and return its run: in this thread if it has an interrupt of its own, else in another."""
    if interrupt is not None:
        return work(heard_by(listeners), interrupt)
    training = Training(work, listeners)
    try:
        return training.result()
    except KeyboardInterrupt:
        with training:
            raise


def _session(on_event: OnEvent, interrupt: Interrupt, key: str | Path | None) -> Session:
    from crowdlearn_host.runs.session import Session

    return Session(on_event, interrupt, None if key is None else Path(key))


def _folder(spec: RunSpec, run: str | Path | None) -> Path:
    return Path(run) if run is not None else Path("runs") / spec.name
