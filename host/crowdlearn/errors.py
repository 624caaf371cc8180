"""The errors that crowdlearn raises on purpose. Each is a CrowdlearnError."""

from crowdlearn_device.errors import CrowdlearnError
from crowdlearn_export.errors import ExportError
from crowdlearn_host.errors import (
    ConfigError,
    FleetError,
    HostError,
    InfeasiblePlan,
    Interrupted,
    PlanError,
    RunError,
    TrainingError,
)

__all__ = [
    "ConfigError",
    "CrowdlearnError",
    "ExportError",
    "FleetError",
    "HostError",
    "InfeasiblePlan",
    "Interrupted",
    "PlanError",
    "RunError",
    "TrainingError",
]
