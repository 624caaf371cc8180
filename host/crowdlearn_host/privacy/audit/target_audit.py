"""The audit of a run or a plan, from its description to its findings."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from crowdlearn_device.protocol.frames import Floats

from crowdlearn_host.errors import ConfigError
from crowdlearn_host.planner.helpers import held_by_name
from crowdlearn_host.runs.prepare import Prepared
from crowdlearn_host.spec.run_spec import RunSpec

from .audit import PICTURES, Auditor, Finding
from .case import Case, rehearsed_case, untapped_case
from .on_shares import Noise, findings_on_shares
from .page import page
from .phones import phones_case
from .rehearsal import Moment
from .targets import prepared_of


@dataclass(frozen=True)
class Audit:
    """The findings of attacks on a `model` in so many `pieces`. `shown` are some of the victim's samples,
    float32 [samples, ...].
    """

    model: str
    pieces: int
    findings: tuple[Finding, ...]
    shown: Floats

    def page(self, title: str) -> str:
        """Return the findings as an HTML page, with the victim's samples beside what attacks make of them."""
        return page(f"{title}: {self.model}, {self.pieces} pieces", list(self.findings), self.shown)


@dataclass(frozen=True)
class Terms:
    """The extent of an audit: samples of each device, the attacker's `own`, epochs that are rehearsed, on
    virtual `phones` or in this process. With `quick`, decoders are trained for a first look only.
    """

    samples: int = 1040
    own: int = 10_000
    epochs: int = 2
    phones: bool = False
    quick: bool = False


def audit(
    target: str | Path,
    data: str,
    *,
    model: str | None = None,
    terms: Terms | None = None,
    on_step: Callable[[str], None] = lambda what: None,
) -> Audit:
    """Attack the run in the folder `target`, or the plan of a `model` in that file, as each role of a group
    could. `data` is a folder with training data like the devices', or "digits".

    Raises ConfigError if the target is neither run nor plan, or cannot be audited in these terms.
    """
    terms = terms or Terms()
    if not Path(target).exists():
        raise ConfigError(f"{target} is not there; name a run's folder, or a plan (JSON)")
    prepared, moment = prepared_of(Path(target), data, model, on_step)
    config, findings = prepared.config, []
    case = _case(prepared, moment, terms, on_step)
    on_step("attacking")
    if config.privacy.sums == "shares":
        found = findings_on_shares(
            case,
            prepared.model,
            batch=config.training.batch,
            quick=terms.quick,
            first_layer=config.privacy.first_layer == "shared",
            noise=_noise(config, len(case.victim)),
            held=held_by_name(prepared.plan, prepared.graph),
        )
    else:
        found = Auditor(case, config.privacy.sums, quick=terms.quick).findings()
    for finding in found:
        findings.append(finding)
        on_step(f"attacking: {finding.role}, {finding.attack}")
    return Audit(config.model, len(prepared.plan.pieces), tuple(findings), case.victim.inputs[:PICTURES])


def _noise(config: RunSpec, samples: int) -> Noise | None:
    """Return the noise of a device with so many samples; None if steps are plain."""
    budget = config.budget
    return None if budget is None else Noise(config.privacy.clip, budget.noise_of(samples))


def _case(prepared: Prepared, moment: Moment | None, terms: Terms, on_step: Callable[[str], None]) -> Case:
    """Return the group that is attacked: of virtual phones, or rehearsed in this process."""
    samples, own, epochs = terms.samples, terms.own, terms.epochs
    if prepared.config.privacy.sums == "shares":
        if terms.phones:
            raise ConfigError(
                "--phones taps devices of plain and masked runs; helpers on shares are audited without it"
            )
        return untapped_case(prepared, samples=samples, own=own)
    if not terms.phones:
        return rehearsed_case(
            prepared, samples=samples, own=own, epochs=epochs, state=moment, on_progress=on_step
        )
    with tempfile.TemporaryDirectory() as folder:
        return phones_case(
            prepared, Path(folder), samples=samples, own=own, epochs=epochs, on_progress=on_step
        )
