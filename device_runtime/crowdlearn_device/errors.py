"""Typed errors of the device runtime. Every message ends in what the user can do."""


class CrowdlearnError(Exception):
    """Base of every error that crowdlearn raises on purpose, on devices, in the exporter and on the host."""


class DeviceError(CrowdlearnError):
    """Base of every error that the device runtime raises on purpose."""


class WireError(DeviceError):
    """A message from outside does not have the form, size, version or order that the protocol demands."""


class EnvelopeError(WireError):
    """A sealed envelope was refused: forged, replayed, or from the wrong sender, pass or sequence."""


class ProgramError(DeviceError):
    """A slice program or its manifest is missing, damaged, or does not fit the piece it is meant for."""


class DataError(DeviceError):
    """The training data on the device cannot be read or does not fit the model."""


class StateError(DeviceError):
    """Stored piece state is missing, damaged, or does not fit the piece that reads it."""


class FailedError(DeviceError):
    """The device itself failed: its storage is full, its memory used up, or this program has an error."""


class JoinError(DeviceError):
    """The host cannot be joined: a wrong address, certificate or token."""


class AggregationError(DeviceError):
    """A secure sum is refused: too few contributors, a host that contradicts itself, values out of range."""


class PolicyError(DeviceError):
    """An assignment is outside what the device's owner allows."""


class MeterError(DeviceError):
    """An energy meter is absent, may not be read, or tells what cannot be true."""
