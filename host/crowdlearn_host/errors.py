"""Typed errors of the host. The command line prints them as one line, without a traceback."""

from crowdlearn_device.errors import CrowdlearnError


class HostError(CrowdlearnError):
    """Base of every error that the host raises on purpose."""


class ConfigError(HostError):
    """A configuration file is wrong: the message names file, key, value and what is allowed."""


class PlanError(HostError):
    """A plan is damaged or does not fit the model or the fleet."""


class InfeasiblePlan(PlanError):
    """An error of budgets that no plan meets; it names the device, the budget, and by how much."""


class FleetError(HostError):
    """A device cannot be reached, refused the key, or does not do what it was asked."""


class SilentDevice(FleetError):
    """A device hung up, or said nothing, before it said who it is: nothing is wrong with it for good."""


class ExpiredToken(FleetError):
    """A device's token is its own, but was good until a day that is over by this computer's clock."""


class RunError(HostError):
    """A run folder is missing, damaged, or belongs to another configuration."""


class InUse(RunError):
    """Another process has a folder that one alone may have."""


class DiskError(RunError):
    """A run's disk is full, or does not do what it is asked. What is there is whole, and a run can go on."""


class TrainingError(HostError):
    """An end of training before its time; the error states why and how to go on."""


class Interrupted(TrainingError):
    """An end of training that was asked for; the error states how to go on."""


class UpdateRefused(HostError):
    """A shared update was refused, with `owner` and `reason`; the round goes on as if it had not come."""

    def __init__(self, owner: int, reason: str) -> None:
        super().__init__(f"the update of device {owner} is refused: {reason}")
        self.owner = owner
        self.reason = reason
