"""First weights that the devices of a run draw together: their distributions, and the seed that is kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple

from crowdlearn_device.platform.files import write_atomically
from crowdlearn_device.privacy.first_weights.distributions import Distribution
from crowdlearn_export.graph.weights import arrays_of

from crowdlearn_host.coordinator.first_weights.beginning import Beginning, drawn_arrays
from crowdlearn_host.coordinator.first_weights.drawing import Drawing
from crowdlearn_host.coordinator.group.group import Group
from crowdlearn_host.coordinator.storage.run_folder import RunFolder
from crowdlearn_host.coordinator.storage.shared_model import SharedModel
from crowdlearn_host.errors import RunError
from crowdlearn_host.models.initial import first_distributions

from .prepare import Prepared

FILE = "first_weights.json"


class JointWeights:
    """The first weights of a run in a folder; `shared` is its global model, which takes them.

    Raises RunError if what is kept is damaged.
    """

    def __init__(self, prepared: Prepared, folder: RunFolder, shared: SharedModel) -> None:
        """Go on with the seed that was drawn, if it was: the folder has its weights then."""
        self._prepared, self._folder, self._shared = prepared, folder, shared
        self._path = folder.path / FILE
        self._attempt, self._seed = 0, b""
        self._distributions: Mapping[str, Distribution]
        if self._path.exists():
            try:
                kept = json.loads(self._path.read_text())
                self._attempt, self._seed = int(kept["attempt"]), bytes.fromhex(kept["seed"])
                self._distributions = {name: Distribution(*each) for name, each in kept["arrays"].items()}
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise RunError(f"{self._path} is damaged ({error}); start a new run") from error
        else:
            config = prepared.config
            self._distributions = first_distributions(config.model, prepared.graph, config.training.seed)

    def beginning(self, name: str, groups: Sequence[Group]) -> Beginning | None:
        """Return what has the devices draw the seed; None if it is drawn. `name` is the run's, NAME/ID."""
        if self._seed:
            return None
        patience = self._prepared.config.training.grace_seconds
        drawing = Drawing(name, self._distributions, patience, self._attempt)
        return Beginning(drawing, groups, self._attempted)

    def begin_with(self, seed: bytes) -> None:
        """Make the weights of a seed the global model's, on disk when this returns."""
        prepared = self._prepared
        given = arrays_of(prepared.graph, prepared.model.state_dict(), prepared.plan.order)
        self._folder.begin_shared(self._shared, drawn_arrays(seed, self._distributions, given))
        self._seed = seed  # behind its weights: a host that dies in between has another one drawn
        self._keep()

    def _attempted(self, attempt: int) -> None:
        self._attempt = attempt
        self._keep()

    def _keep(self) -> None:
        arrays = {name: astuple(each) for name, each in self._distributions.items()}
        fields = {"attempt": self._attempt, "seed": self._seed.hex(), "arrays": arrays}
        write_atomically(self._path, json.dumps(fields).encode())
