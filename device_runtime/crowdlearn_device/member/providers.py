"""Who may give a piece its state: what an assignment tells of it."""

from __future__ import annotations

from crowdlearn_device.errors import WireError
from crowdlearn_device.protocol import wire_pb2 as pb


def check_provider(assign: pb.Assign, sender: int | None, part: pb.StatePart) -> None:
    """Raise WireError if `sender`, None for the server, is not to give this part.

    State comes from the server alone or from devices alone, each of which gives the pieces that it provides.
    """
    if sender is None:
        if assign.from_generation:
            raise WireError(f"the server sends state of layer {part.layer}, which devices are to send")
        return
    if not assign.from_generation:
        raise WireError(f"device {sender} sends state of layer {part.layer}, which the server is to send")
    start, stop = part.neurons.start, part.neurons.stop
    own_of = [piece.neurons for piece in assign.provided if piece.device == sender]
    pieces = [neurons[part.layer] for neurons in own_of if part.layer < len(neurons)]
    if not any(own.start <= start and stop <= own.stop for own in pieces):
        raise WireError(
            f"device {sender} sends neurons [{start}, {stop}) of layer {part.layer}, which another is to send"
        )
