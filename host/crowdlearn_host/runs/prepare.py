"""The programs of a run: all that is known before its first device is touched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from crowdlearn_export.doctor.verdict import notes
from crowdlearn_export.program.inference import export_inference
from crowdlearn_export.program.slice_program import SliceProgram, export_slices

from crowdlearn_host.common.home import cache_home
from crowdlearn_host.coordinator.group.settings import Cut
from crowdlearn_host.coordinator.hub.records import OnEvent
from crowdlearn_host.planner.plan import Plan
from crowdlearn_host.spec.run_spec import RunSpec

from .checks.affordable import memory_of, unlike_planned
from .checks.checked import Checked, check
from .dealing import takers_of


@dataclass(frozen=True)
class Prepared(Checked):
    """A run before its first device is touched. `programs` are the plan's, by piece, and `cuts` the
    fallbacks with theirs; `whole` is the whole network's, if devices keep the model; `exported` are all that
    devices may need.
    """

    programs: tuple[SliceProgram, ...]
    cuts: tuple[Cut, ...]
    whole: SliceProgram | None
    exported: tuple[SliceProgram, ...]


def prepare(config: RunSpec, on_event: OnEvent, run: Path | None = None) -> Prepared:
    """Do `check` and `export`: all of a run that is known before its first device is touched."""
    return export(check(config, run), on_event)


def export(checked: Checked, on_event: OnEvent) -> Prepared:
    """Return the programs of a run that fits together. Raises ExportError."""
    config, graph, plan = checked.config, checked.graph, checked.plan
    _tell_notes(checked, on_event)
    shapes = list(dict.fromkeys(piece.owned for each in (plan, *checked.fallbacks) for piece in each.pieces))
    on_event("exporting", {"programs": len(shapes)})
    exports = export_slices(
        graph,
        shapes,
        config.training.rule,
        checked.loss,
        max_batch=checked.micro_batch + 1,  # a last sample may have to join the ones before
        either=config.training.kernels == "measured",
        memory=memory_of(config.training, plan),
        private=config.budget is not None,
        cache=cache_home() / "programs",
        on_method=lambda done, of: on_event("compiled", {"done": done, "of": of}),
    )
    programs = dict(zip(shapes, exports, strict=True))

    def of_pieces(of: Plan) -> tuple[SliceProgram, ...]:
        return tuple(programs[piece.owned] for piece in of.pieces)

    cuts = tuple(
        Cut(
            tuple(piece.neurons for piece in each.pieces),
            tuple(p.manifest.sha256 for p in of_pieces(each)),
            takers_of(plan, each),
        )
        for each in checked.fallbacks
    )
    keeps = config.group.keep_model
    whole = export_inference(graph, cache_home() / "programs", checked.loss) if keeps else None
    exported = (*programs.values(), *((whole,) if whole else ()))
    return Prepared(**vars(checked), programs=of_pieces(plan), cuts=cuts, whole=whole, exported=exported)


def _tell_notes(checked: Checked, on_event: OnEvent) -> None:
    """Tell what a user should know of the model, the plan and the noise."""
    samples = torch.randn(32, *checked.sample, generator=torch.Generator().manual_seed(0))
    texts = list(notes(checked.model, samples, checked.loss))
    if unlike := unlike_planned(checked.plan, checked.config, checked.micro_batch):
        texts.append(unlike)
    if checked.config.budget is not None:
        texts.append(
            "privacy.epsilon and noise: devices report no loss of their samples, for nothing would hide it"
        )
    for text in texts:
        on_event("note", {"text": text})
