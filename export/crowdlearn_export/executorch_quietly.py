"""The import of ExecuTorch's exporter, without what it says about other machines.

Rooms that use it import this first.
"""

from .quiet import quietly

with quietly():
    import executorch.exir  # noqa: F401
