"""Typed errors of the exporter. Every message names the module concerned and what to do."""

from crowdlearn_device.errors import CrowdlearnError


class ExportError(CrowdlearnError):
    """Base of every error that the exporter raises on purpose."""


class UnsupportedModule(ExportError):
    """The model holds a module or operation that cannot be sliced."""


class GraphError(ExportError):
    """A neuron graph is damaged; the message names layer or edge, and the value."""


class ParityError(ExportError):
    """An exported program disagrees with PyTorch autograd; the message names method and output."""


class LoweringError(ExportError):
    """An operation cannot be lowered to operators that are both correct and available on the device."""
