"""The simulation of a run that is described for phones."""

from __future__ import annotations

from crowdlearn_host.errors import ConfigError

from .simulation import SharingConfig, SimulationConfig
from .simulation import TrainingConfig as SimulatedTraining
from .training import TrainConfig


def simulated(spec: TrainConfig, devices: int, micro_batch: int) -> SimulationConfig:
    """The simulation that ends in the weights of `spec` on `devices` phones, in micro-batches of
    `micro_batch` samples: to 1e-4 with float32 on the wire, whose rounding is random otherwise.

    Raises ConfigError if a simulation cannot do what `spec` asks for.
    """
    if spec.device_data is not None:
        raise ConfigError("device_data lies on phones, where a simulation has none; name data instead")
    groups = spec.group.groups
    if devices % groups:
        raise ConfigError(
            f"{devices} devices do not form {groups} groups of equal size, as a simulation needs them; "
            "change group.groups or the number of devices"
        )
    training = spec.training
    return SimulationConfig(
        seed=training.seed,
        model=spec.model,
        devices=devices,
        group=devices // groups,
        pieces=0 if spec.group.plan else spec.group.pieces,
        rotation=spec.group.rotation or "full",
        plan=spec.group.plan,
        training=SimulatedTraining(
            epochs=training.epochs,
            batch=training.batch,
            learning_rate=training.learning_rate,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
            schedule=training.schedule,
            wire=training.wire,
            staleness=training.staleness,
            micro_batch=micro_batch,
        ),
        sharing=SharingConfig(
            enabled=groups > 1,
            every=spec.sharing.every,
            theta=spec.sharing.theta,
            tau=spec.sharing.tau,
            omega=spec.sharing.omega,
            values=spec.sharing.values,
        ),
    )
