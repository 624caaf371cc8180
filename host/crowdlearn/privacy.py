"""Privacy in parts: attacks of the audit, differential privacy and its accountant, secure sums.

`audit` attacks a run or a plan as `crowdlearn privacy` does (docs/privacy.md). Here are also the attacks on a
`Case`, which `rehearsed_case` makes of a prepared run; steps of DP-SGD and the epsilon that they spend; the
host's side of a secure sum; and its audit of uploads in the clear.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._lazy import lazily

if TYPE_CHECKING:
    from crowdlearn_host.methods.slicenet.audit import UploadAudit
    from crowdlearn_host.privacy.aggregation.aggregator import Aggregator
    from crowdlearn_host.privacy.audit.audit import Auditor, Finding
    from crowdlearn_host.privacy.audit.case import Case, rehearsed_case
    from crowdlearn_host.privacy.audit.host.host import HostRow, host_rows
    from crowdlearn_host.privacy.audit.on_shares import Noise, findings_on_shares
    from crowdlearn_host.privacy.audit.page import page as audit_page
    from crowdlearn_host.privacy.audit.target_audit import Audit, Terms, audit
    from crowdlearn_host.privacy.dp.accountant import Schedule, epsilon, noise_for, own_epsilon
    from crowdlearn_host.privacy.dp.dp_sgd import DPStep, SlicedDPStep
    from crowdlearn_host.privacy.dp.ghost_norms import norms_of

__all__ = [
    "Aggregator",
    "Audit",
    "Auditor",
    "Case",
    "DPStep",
    "Finding",
    "HostRow",
    "Noise",
    "Schedule",
    "SlicedDPStep",
    "Terms",
    "UploadAudit",
    "audit",
    "audit_page",
    "epsilon",
    "findings_on_shares",
    "host_rows",
    "noise_for",
    "norms_of",
    "own_epsilon",
    "rehearsed_case",
]

__getattr__, __dir__ = lazily(__name__, __file__)
