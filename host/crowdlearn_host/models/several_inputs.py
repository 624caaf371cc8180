"""Models that take several inputs, as models that take one."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn


def of_one_input(model: nn.Module) -> nn.Module:
    """Return the model itself; if its forward needs k > 1 inputs, it takes samples [B, k, ...] instead, and
    the inputs are their k rows, in order.
    """
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return model
    needed = [p for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if len(needed) < 2:
        return model
    kind: Any = type(model)

    class OfOneInput(kind):  # type: ignore[misc]
        """The model, whose inputs are the rows of one."""

        def forward(self, samples: Tensor) -> Any:
            if samples.shape[1] != len(needed):
                names = ", ".join(p.name for p in needed)
                raise ValueError(
                    f"the model takes {len(needed)} inputs ({names}), samples have {samples.shape[1]} rows"
                )
            return super().forward(*samples.unbind(1))

    OfOneInput.__name__ = OfOneInput.__qualname__ = kind.__name__
    model.__class__ = OfOneInput
    return model
