"""Who may give a piece its state: what an assignment tells of it."""

from __future__ import annotations

from . import wire_pb2 as pb
from .errors import WireError
from .routes import overlap


def check_giver(assign: pb.Assign, me: int, sender: int | None, part: pb.StatePart) -> None:
    """Raises WireError where `sender`, None for the server, is not to give device `me` this part.

    State comes from the server alone or from devices alone. Which of them gives what the others have is told
    to them only; what `me` gives itself comes from nobody else.
    """
    if sender is None:
        if assign.from_generation:
            raise WireError(f"the server gives state of layer {part.layer}, which devices are to give")
        return
    if not assign.from_generation:
        raise WireError(f"device {sender} gives state of layer {part.layer}, which the server is to give")
    wanted = part.neurons.start, part.neurons.stop
    for own in assign.transfers if sender != me else ():
        start, stop = overlap((own.neurons.start, own.neurons.stop), wanted)
        if (own.device, own.layer) == (me, part.layer) and start < stop:
            raise WireError(
                f"device {sender} gives neurons [{start}, {stop}) of layer {part.layer}, "
                f"which device {me} gives itself"
            )
