"""Train a deep network on a crowd of phones that are each too weak for it.

    import crowdlearn

    spec = crowdlearn.RunSpec.load("demo.toml")
    run = crowdlearn.train(spec)
    print(run.evaluate().accuracy)

Calls print nothing, install no signal handlers, and leave the caller's warning filters, log levels and
environment as they are. Every error is a CrowdlearnError, in one sentence that ends in what to do.

Beside these names are modules with the parts of a run: `crowdlearn.data`, `planning`, `simulation`,
`hosting`, `phones`, `privacy`, `models`, `errors`, `listeners` and `testing`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._lazy import lazily

if TYPE_CHECKING:
    from crowdlearn_device.errors import CrowdlearnError as CrowdlearnError
    from crowdlearn_export.doctor.doctor import Diagnosis as Diagnosis
    from crowdlearn_host.planner.plan import Plan as Plan
    from crowdlearn_host.planner.problem.fleet import Fleet as Fleet
    from crowdlearn_host.runs.interrupt import Interrupt as Interrupt
    from crowdlearn_host.runs.results.evaluation import Evaluation as Evaluation
    from crowdlearn_host.spec.run_spec import RunSpec as RunSpec

    from .run import Run as Run
    from .run import load_run as load_run
    from .training import Event as Event
    from .training import Training as Training
    from .workflow import check as check
    from .workflow import diagnose as diagnose
    from .workflow import evaluate as evaluate
    from .workflow import export as export
    from .workflow import plan as plan
    from .workflow import resume as resume
    from .workflow import simulate as simulate
    from .workflow import start as start
    from .workflow import train as train

__all__ = [
    "CrowdlearnError",
    "Diagnosis",
    "Evaluation",
    "Event",
    "Fleet",
    "Interrupt",
    "Plan",
    "Run",
    "RunSpec",
    "Training",
    "check",
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

__getattr__, __dir__ = lazily(__name__, __file__)
