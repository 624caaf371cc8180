"""Problems of a run in words: the lines that are printed for events, by their names and with their fields."""

PROBLEMS = {
    "note": "note: {text}",
    "left": "{device} left: {reason}",
    "recovering": "recovering: {why}",
    "rolled_back": "rolled back to mini-batch {boundary}",
    "paused": "paused: {why}; waiting {grace:.0f} s, then continuing without them if possible",
    "leaving": "{device} is to leave: {reason}",
    "swapped": "{device} gives way to a spare: {reason}",
    "resliced": "no spare is left, or all devices are back: continuing with {pieces} pieces",
    "fault": "{device}: {reason}",
    "throttled": "{device} throttles: it is hot (thermal status {status}), and computes slower than it could",
    "cooled": "{device} has cooled down",
    "declined": "{device} does not take part now: {reason}",
    "relay_failed": "relay process {relay} could not be started ({reason}); next attempt in {again_in:g} s",
    "relay_ended": "relay process {relay} ended (status {status}); its groups continue once another one runs",
    "unreachable": "{device} cannot be reached: {reason}",
    "deferred": "{device} has not come back; its turn moves to the end of the epoch",
    "skipped": "{device} misses epoch {epoch}",
    "samples_left": "{left} of {samples} samples are left over: the plan's devices take no more; "
    "raise `samples` in the fleet's file and plan again to train on them",
    "samples_unused": "samples that the plan leaves out, since their phones are never dominator: {told}",
    "stands_in": "the plan does not name {told}",
    "recompiled": "programs are not those that the run began with: results may differ by rounding",
    "refused": "refused from {device}: {reason}",
    "budget_spent": "privacy.epsilon is spent, {epsilon:.2f} after {epochs} of {of} epochs: training ends",
    "unrevealed": "{device} may not take part: {reason}",
    "first_weights_anew": "first weights are drawn anew by {devices} devices, attempt {attempt}",
    "sum_contradicted": "a secure sum is not released: norms from a device do not match its values",
    "norm_refused": "group {group} is excluded from sums: it moved by {norm:.3g}, the bound is {bound:.3g}",
    "suspicious": "group {group} shares weights unlike the others': {by} {value:.3g}, median {median:.3g}",
    "sum_lost": "a secure sum is lost: {confirmed} of {survivors} devices confirmed it",
}

EACH = {
    "samples_unused": "{samples} of {device}",
    "stands_in": "{device}, which takes what was planned for {planned}",
}
"""Problems that several devices have at once: `told` of all that come together, in one line."""
