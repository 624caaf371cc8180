"""All engines, by the name that `fleet.relay_engine` gives them."""

from __future__ import annotations

from .base import Engine
from .cluster import Cluster
from .local import Local

ENGINES: dict[str, Engine] = {engine.name: engine for engine in (Local(), Cluster())}
