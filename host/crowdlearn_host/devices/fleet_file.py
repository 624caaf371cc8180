"""The fleet file: what the planner reads, with what was measured written into it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from crowdlearn_host.devices.constants import Constants
from crowdlearn_host.devices.facts import DeviceFacts
from crowdlearn_host.devices.measuring import MeasuredKernels, MeasuredLink


@dataclass(frozen=True)
class Measured:
    """A phone with what was measured on it."""

    facts: DeviceFacts
    link: MeasuredLink
    macs_per_second: float
    energy: Constants | None = None
    message_seconds: float | None = None
    kernels: MeasuredKernels | None = None


def fleet_toml(phones: Sequence[Measured], *, samples: int, max_macs: int | None = None) -> str:
    """Return a [[class]] for each model of phone; a class is as slow as its slowest member.

    `samples` is what each phone is taken to hold; edit it if phones hold different numbers. `max_macs` caps
    the multiplications of every phone for a sample.
    """
    models: dict[str, list[Measured]] = {}
    for phone in phones:
        models.setdefault(f"{phone.facts.manufacturer} {phone.facts.model}".strip(), []).append(phone)
    return "\n".join(_class(name, members, samples, max_macs) for name, members in models.items())


def _class(name: str, members: Sequence[Measured], samples: int, max_macs: int | None) -> str:
    memories = [m.facts.memory_available for m in members if m.facts.memory_available]
    emulated = "emulated " if all(m.facts.virtual for m in members) else ""
    rows: list[tuple[str, object, str]] = [
        ("name", name, ""),
        ("devices", [m.facts.name for m in members], ""),
        ("samples", samples, "assumed"),
        (
            "macs_per_second",
            round(min(m.macs_per_second for m in members)),
            f"{emulated}slice program, 1 thread",
        ),
        ("uplink_bytes_per_second", round(min(m.link.up for m in members)), f"{emulated}link, over adb"),
        ("downlink_bytes_per_second", round(min(m.link.down for m in members)), f"{emulated}link, over adb"),
    ]
    messages = [m.message_seconds for m in members if m.message_seconds is not None]
    if len(messages) == len(members):
        slowest = float(f"{max(messages):.3g}")
        rows.append(("message_seconds", slowest, f"{emulated}sender and receiver, processor"))
    if memories:
        rows.append(("max_memory", min(memories), "what was free"))
    if max_macs is not None:
        rows.append(("max_macs", max_macs, "multiplications for a sample, forward and backward"))
    rows += _energy([m.energy for m in members if m.energy is not None])
    trips = f"# round trip over adb: {1000 * max(m.link.round_trip for m in members):.1f} ms\n"
    trips += "".join(f"# {line}\n" for line in dict.fromkeys(map(_kernels, members)) if line)
    # A JSON string or list of strings is one in TOML as well.
    lines = [f"{key} = {json.dumps(value)}" + (f"  # {note}" if note else "") for key, value, note in rows]
    return f"[[class]]\n{trips}" + "\n".join(lines) + "\n"


def _kernels(phone: Measured) -> str:
    """Return what a phone chose between kernels, in words; "" if it was not asked."""
    chosen = phone.kernels
    if chosen is None:
        return ""
    if chosen.emulated:
        return f"kernels on {chosen.abi}: chosen by size, for seconds under an emulator are no phone's"
    start = "for none of the products that were tried"
    if chosen.worthwhile is not None:
        start = f"from {chosen.worthwhile:,} multiplications on"
    virtual = " (a virtual phone: this computer's)" if phone.facts.virtual else ""
    return f"kernels on {chosen.abi}{virtual}, timed: XNNPACK's {start}"


def _energy(constants: Sequence[Constants]) -> list[tuple[str, object, str]]:
    """Return energy constants of a class, which spends as its hungriest member; nothing if one is missing."""
    found: list[tuple[str, object, str]] = []
    for name in ("joules_per_mac", "joules_per_byte_sent", "joules_per_byte_received", "idle_watts"):
        values = [value for each in constants if (value := getattr(each, name)) is not None]
        if not values:
            return []
        found.append((name, float(f"{max(values):.6g}"), ""))
    provenances = sorted({each.provenance for each in constants})
    found.append(("energy_provenance", provenances[0] if len(provenances) == 1 else "modelled", ""))
    found.append(("energy_source", "; ".join(sorted({each.source for each in constants})), ""))
    return found
