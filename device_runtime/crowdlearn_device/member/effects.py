"""The effects of a member: frames for the host, in their order.

A device's disk is part of its state: a handler writes to it before it yields the message that depends on
what is written.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence

from crowdlearn_device.protocol import wire_pb2 as pb

Effects = Iterable[pb.Frame]
"""The frames that an event brings about, to be taken once. A function that yields them does nothing until
they are taken: `yield from` it.
"""
Parts = Generator[Sequence[pb.Frame], None, Sequence[pb.Frame]]
"""Frames that leave part by part, each part when the one before it has left: a phone has little room. The
generator returns the last part.
"""
