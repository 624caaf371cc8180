"""The host's side of a run in parts, for programs that bring their own connections to devices.

    from crowdlearn import hosting

    prepared = hosting.prepare(spec, lambda event, fields: None)
    groups = [hosting.Group(settings) for settings in hosting.groups_of(prepared, devices=5)]
    folder = hosting.RunFolder(path, create=True)
    shared = hosting.shared_model_of(prepared, len(groups))
    server = hosting.Server("mine", groups, folder, shared, print, print)
    await server.attach(websocket, dialled=False)

A `Group` is the state of one group, without sockets or clock; `handle` changes it by an event (`Joined`,
`Left`, `Received`, `Ticked`, `Stopped`) and returns effects. A `Server` connects groups to devices, and
relays between them what it cannot read. `listening` accepts devices that dial in by TLS, with what
`Enrolment` gave them; `relaying` starts processes that relay for those, and `server.relays` is where they go.
`exposed` answers Prometheus. `run` runs a coroutine in the event loop that costs least.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._lazy import lazily

if TYPE_CHECKING:
    from crowdlearn_host.common.event_loop import run
    from crowdlearn_host.coordinator.group.effects import Merge
    from crowdlearn_host.coordinator.group.events import Joined, Left, Received, Stopped, Ticked
    from crowdlearn_host.coordinator.group.group import Group
    from crowdlearn_host.coordinator.group.handlers.table import handle
    from crowdlearn_host.coordinator.group.restore_points import Device
    from crowdlearn_host.coordinator.group.settings import Settings
    from crowdlearn_host.coordinator.hub.arrival import Dialled
    from crowdlearn_host.coordinator.hub.exposition import exposed
    from crowdlearn_host.coordinator.hub.server import Server
    from crowdlearn_host.coordinator.storage.run_folder import RunFolder
    from crowdlearn_host.coordinator.storage.shared_model import SharedModel
    from crowdlearn_host.devices.joining.enrolment import Enrolment
    from crowdlearn_host.devices.joining.listener import listening
    from crowdlearn_host.devices.relays.relayed_stream import RelayedArrival
    from crowdlearn_host.devices.relays.relays import relaying
    from crowdlearn_host.errors import SilentDevice
    from crowdlearn_host.runs.folder import new_run, open_run
    from crowdlearn_host.runs.groups import groups_of, shared_model_of
    from crowdlearn_host.runs.prepare import Prepared, prepare
    from crowdlearn_host.runs.train import train

__all__ = [
    "Device",
    "Dialled",
    "Enrolment",
    "Group",
    "Joined",
    "Left",
    "Merge",
    "Prepared",
    "Received",
    "RelayedArrival",
    "RunFolder",
    "Server",
    "Settings",
    "SharedModel",
    "SilentDevice",
    "Stopped",
    "Ticked",
    "exposed",
    "groups_of",
    "handle",
    "listening",
    "new_run",
    "open_run",
    "prepare",
    "relaying",
    "run",
    "shared_model_of",
    "train",
]

__getattr__, __dir__ = lazily(__name__, __file__)
