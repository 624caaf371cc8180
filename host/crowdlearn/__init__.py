"""Train a deep network on a crowd of phones that are each too weak for it.

    import crowdlearn

    spec = crowdlearn.RunSpec.load("demo.toml")
    run = crowdlearn.train(spec)
    print(run.evaluate().accuracy)

Calls print nothing, install no signal handlers, and leave the caller's warning filters, log levels and
environment as they are. Every error is a CrowdlearnError, in one sentence that ends in what to do.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crowdlearn_device.errors import CrowdlearnError as CrowdlearnError
    from crowdlearn_export.doctor.doctor import Diagnosis as Diagnosis
    from crowdlearn_host.planner.plan import Plan as Plan
    from crowdlearn_host.planner.problem.fleet import Fleet as Fleet
    from crowdlearn_host.runs.results.evaluation import Evaluation as Evaluation
    from crowdlearn_host.spec.run_spec import RunSpec as RunSpec

    from .run import Run as Run
    from .run import load_run as load_run
    from .training import Event as Event
    from .training import Training as Training
    from .workflow import diagnose as diagnose
    from .workflow import evaluate as evaluate
    from .workflow import export as export
    from .workflow import plan as plan
    from .workflow import resume as resume
    from .workflow import simulate as simulate
    from .workflow import start as start
    from .workflow import train as train

_HOMES = {
    "CrowdlearnError": "crowdlearn_device.errors",
    "Diagnosis": "crowdlearn_export.doctor.doctor",
    "Plan": "crowdlearn_host.planner.plan",
    "Fleet": "crowdlearn_host.planner.problem.fleet",
    "Evaluation": "crowdlearn_host.runs.results.evaluation",
    "RunSpec": "crowdlearn_host.spec.run_spec",
    "Run": "crowdlearn.run",
    "load_run": "crowdlearn.run",
    "Event": "crowdlearn.training",
    "Training": "crowdlearn.training",
    "diagnose": "crowdlearn.workflow",
    "evaluate": "crowdlearn.workflow",
    "export": "crowdlearn.workflow",
    "plan": "crowdlearn.workflow",
    "resume": "crowdlearn.workflow",
    "simulate": "crowdlearn.workflow",
    "start": "crowdlearn.workflow",
    "train": "crowdlearn.workflow",
}
"""The module of every name: imported when it is first used, since some take seconds."""

__all__ = [
    "CrowdlearnError",
    "Diagnosis",
    "Evaluation",
    "Event",
    "Fleet",
    "Plan",
    "Run",
    "RunSpec",
    "Training",
    "diagnose",
    "evaluate",
    "export",
    "load_run",
    "plan",
    "resume",
    "simulate",
    "start",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'crowdlearn' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
