"""The backend that each method of a program gets: by the size of its products; near the border, both forms go
into the program, and the device that runs it chooses (crowdlearn_device.program.kernels).
"""

from __future__ import annotations

from dataclasses import replace

from crowdlearn_device.program.manifest import Backend, BackendChoice

from crowdlearn_export.lowering.sizes import WORTHWHILE
from crowdlearn_export.stages.stage import Stage

from .methods import CompiledMethod

BORDER = 8
"""Products of up to this many times fewer or more multiplications than WORTHWHILE have both forms."""
OTHER: dict[Backend, Backend] = {"portable": "xnnpack", "xnnpack": "portable"}


def choice_of(stage: Stage, compiled: CompiledMethod, *, either: bool) -> BackendChoice:
    """Return the backend that the products of a method suggest; and, with `either`, the name of its other
    form if a device has to choose.
    """
    both = either and near_border(compiled.multiplications)
    other = f"{stage.method.name}_on_{OTHER[compiled.backend]}" if both else ""
    return BackendChoice(compiled.backend, other)


def named(stage: Stage, name: str) -> Stage:
    """Return a stage whose method has another name."""
    return replace(stage, method=replace(stage.method, name=name))


def near_border(multiplications: int) -> bool:
    """Return whether either backend is sensible for a method with so many multiplications in its products."""
    return WORTHWHILE / BORDER <= multiplications < WORTHWHILE * BORDER
