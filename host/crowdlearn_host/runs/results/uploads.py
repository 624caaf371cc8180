"""The audit of what a run's groups share, by the loss on the host's own samples where that is asked for."""

from __future__ import annotations

import copy

import numpy as np
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_export.graph.shape import array_specs
from crowdlearn_export.graph.weights import state_of

from crowdlearn_host.methods.slicenet.audit import UploadAudit
from crowdlearn_host.runs.prepare import Prepared

from .evaluation import evaluate

SAMPLES = 500
"""The most samples on which the loss of an upload is taken."""


def audit_of(prepared: Prepared) -> UploadAudit | None:
    """Return the audit that the configuration asks for; None if it asks for none, or only sums are here."""
    sharing = prepared.config.sharing
    if sharing.audit == "none" or sharing.secure:
        return None
    samples = prepared.test if prepared.validation is None else prepared.validation
    if sharing.audit == "norms" or samples is None:
        return UploadAudit()
    part = samples.subset(np.linspace(0, len(samples) - 1, min(SAMPLES, len(samples)), dtype=np.int64))
    model, graph = copy.deepcopy(prepared.model), prepared.graph
    first, specs = prepared.model.state_dict(), array_specs(graph)

    def loss_of(weights: Floats) -> float:
        arrays = {}
        for spec in specs:
            shape = (graph.layers[spec.layer].neurons, *spec.shape)
            arrays[spec.name] = weights[spec.offset : spec.offset + int(np.prod(shape))].reshape(shape)
        state = state_of(graph, arrays, first, prepared.plan.order)
        found = evaluate(model, state, part, prepared.loss)
        return found.loss if found.accuracy is None else 1 - found.accuracy

    classes = prepared.loss.targets(*graph.scores).are_classes
    return UploadAudit(loss_of, classes)
