"""Targets of an audit: a run's folder, or a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crowdlearn_export.graph.weights import arrays_of

from crowdlearn_host.common.toml_files import parse_config
from crowdlearn_host.coordinator.storage.run_folder import load_model_state
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.planner.plan import read_plan
from crowdlearn_host.runs.prepare import Prepared, prepare
from crowdlearn_host.spec.provenance import load_kept
from crowdlearn_host.spec.run_spec import RunSpec

from .case import OnProgress, first_moment
from .rehearsal import Moment


def prepared_of(
    target: Path, data: str, model: str | None, on_progress: OnProgress
) -> tuple[Prepared, Moment | None]:
    """Prepare what `target` describes, on the data in the folder `data`, and its newest weights if any.

    A plan needs the name of its `model`. Raises ConfigError if the target is neither a run nor a plan.
    """
    state = None
    if target.is_dir():
        if not (target / "config.toml").exists():
            raise ConfigError(f"{target} holds no run; name a run's folder, or a plan's file")
        config = load_kept(target, RunSpec).model_copy(update={"data": data, "device_data": None})
        if (target / "plan.json").exists():
            group = config.group.model_copy(update={"plan": (target / "plan.json").resolve()})
            config = config.model_copy(update={"group": group})
        if any(target.glob("checkpoints/*")):
            state = load_model_state(target)
    else:
        if model is None:
            raise ConfigError(f"{target}: a plan needs the name of its model; add --model")
        values = {"data": data, "model": model, "group": {"plan": str(target)}, **_terms(target)}
        config = parse_config(values, RunSpec, "the command line")
    fields = config.training.model_copy(update={"kernels": "by_size"})
    config = config.model_copy(update={"training": fields, "fleet": type(config.fleet).model_validate({})})
    prepared = prepare(config, lambda event, fields: on_progress(event))
    moment = first_moment(prepared)
    if state is not None:
        moment = Moment(arrays_of(prepared.graph, state, prepared.plan.order), moment.slots)
        prepared.model.load_state_dict(state)
    return prepared, moment


def _terms(target: Path) -> dict[str, Any]:
    """Return what runs with a plan have to set: of a plan on shares, these and its mini-batches. Raises
    ConfigError if the plan is for noise, of which it does not tell how much.
    """
    plan = read_plan(target)
    if not plan.shares or plan.training is None:
        return {}
    if plan.training.private:
        raise ConfigError(f"{target} is for steps with noise, and does not tell how much; audit its run")
    return {
        "training": {"batch": plan.training.batch},
        "privacy": {"sums": "shares", "first_layer": plan.shares},
    }
