"""A run's model and test samples, whether phones trained it or a simulation."""

from __future__ import annotations

from pathlib import Path

from crowdlearn_device.data.dataset import Dataset, long_axes
from crowdlearn_device.data.unit import check_units
from crowdlearn_export.losses.base import Loss
from crowdlearn_export.losses.registry import make_loss
from torch import nn

from crowdlearn_host.coordinator.storage.run_folder import check_has_model, load_model_state
from crowdlearn_host.errors import ConfigError, RunError
from crowdlearn_host.models.named import build_model
from crowdlearn_host.models.names import input_shape
from crowdlearn_host.runs.data import load_split
from crowdlearn_host.runs.results.evaluation import Evaluation, evaluate
from crowdlearn_host.spec.provenance import (
    TEST_DATA,
    TRAINING_DATA,
    check_inputs,
    load_inputs,
    load_kept,
    run_inputs,
)
from crowdlearn_host.spec.run_spec import RunSpec
from crowdlearn_host.spec.simulated import load_kept_simulation


def trained_model(run: Path) -> nn.Module:
    """Return a run's network with the newest global weights, in evaluation mode.

    Raises RunError if the run has no model yet or its weights are damaged.
    """
    check_has_model(run)
    if (run / "run.db").exists():
        spec = load_kept(run, RunSpec)
        model = build_model(spec.model, spec.training.seed)
    else:
        simulated = load_kept_simulation(run)
        model = build_model(simulated.model, simulated.seed)
    model.load_state_dict(load_model_state(run))
    return model.eval()


def evaluated(run: Path, data: str | None) -> Evaluation:
    """Evaluate a run's newest global model on the test split of `data`, or else of the run's own data."""
    check_has_model(run)
    model, test = model_and_test(run, data)
    return evaluate(model, load_model_state(run), test, loss_of(run), own_metrics_of(run))


def model_and_test(run: Path, data: str | None) -> tuple[nn.Module, Dataset]:
    """Return the model as it was before training, and the test samples of `data`, or else the run's, as it
    takes them.

    Raises ConfigError if neither names data, and RunError where the run has no model yet, or what it began
    with is no longer the same.
    """
    if (run / "run.db").exists():
        config = load_kept(run, RunSpec)
        test = _test(run, config.model, data, config.data)
        shape = config.input_shape or input_shape(config.model, _trained_on(run) or test.inputs.shape[1:])
        return build_model(config.model, config.training.seed), test.shaped(shape, "the test data")
    _check_simulated(run)
    simulated = load_kept_simulation(run)
    began_with = load_inputs(run).given.get(TEST_DATA)
    test = _test(run, simulated.model, data, began_with.place if began_with else None)
    shape = input_shape(simulated.model, _trained_on(run) or test.inputs.shape[1:])
    return build_model(simulated.model, simulated.seed), test.shaped(shape, "the test data")


def own_metrics_of(run: Path) -> tuple[str, ...]:
    """Return the references of the run's own metrics."""
    if (run / "run.db").exists():
        return load_kept(run, RunSpec).metrics.own
    return load_kept_simulation(run).own_metrics


def loss_of(run: Path) -> Loss:
    """Return the loss that the run's model learned."""
    if (run / "run.db").exists():
        wanted = load_kept(run, RunSpec).training.loss
    else:
        wanted = load_kept_simulation(run).training.loss
    return make_loss(wanted.kind, **wanted.options)


def _check_simulated(run: Path) -> None:
    from crowdlearn_host.simulation.run_folder import CHECKPOINT, MODEL  # imports all that simulations need

    if not (run / "config.toml").exists():
        raise RunError(f"{run} holds no run; look at the folder's name")
    if not (run / MODEL).exists():
        reached = "is not over" if (run / CHECKPOINT).exists() else "has no finished round"
        raise RunError(
            f"{run}: the simulation {reached}, and so has no model yet; go on with: "
            f"crowdlearn simulate CONFIG --data FOLDER --run {run}"
        )


def _test(run: Path, model: str, data: str | None, own: str | None) -> Dataset:
    """Return the test samples of `data`, or else `own`, which must be what the run began with, as its
    model.
    """
    place = data or own
    if place is None:
        raise ConfigError("the run names no test data; give --data FOLDER")
    test = load_split(place, "test")
    check_inputs(run, run_inputs(model, None, place, None, None if data else test))
    if trained_on := _trained_on(run):
        test.shaped(trained_on, f"the test data of {place}, unlike what the run began with")
    began = load_inputs(run).given
    for name in (TRAINING_DATA, TEST_DATA):
        if (given := began.get(name)) is not None and given.unit is not None:
            check_units(given.unit, test, f"the run's {name}", f"the test data of {place}")
    return test


def _trained_on(run: Path) -> tuple[int, ...] | None:
    """Return the shape of a sample as the run was given it; None if an older version did not keep it."""
    kept = [given.sample_shape for given in load_inputs(run).given.values() if given.sample_shape is not None]
    return max(kept, key=lambda shape: len(long_axes(shape)), default=None)
