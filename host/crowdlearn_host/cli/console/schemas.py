"""The JSON documents of the commands: what each prints with --json, as JSON Schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, create_model

SCHEMA = "https://json-schema.org/draft/2020-12/schema"
Shape = Any
"""A type that pydantic knows: of a document, or of a part of it."""


def schema(command: str) -> dict[str, Any]:
    """Return the JSON Schema of a command's document; KeyError if it prints none."""
    return {"$schema": SCHEMA, **TypeAdapter(DOCUMENTS[command]()).json_schema()}


def keys(command: str) -> tuple[str, ...]:
    """Return the keys of a command's document, or of each of its entries if it is a list."""
    shape = schema(command)
    entry = shape.get("items", shape)
    if "$ref" in entry:
        entry = shape["$defs"][entry["$ref"].rpartition("/")[2]]
    return tuple(entry.get("properties", ()))


def _object(name: str, fields: Mapping[str, Shape], *, optional: tuple[str, ...] = ()) -> Shape:
    """Return an object with these keys and no others."""
    values: dict[str, Any] = {key: (kind, None if key in optional else ...) for key, kind in fields.items()}
    return create_model(name, __config__=ConfigDict(extra="forbid", protected_namespaces=()), **values)


def _parts(of: type) -> dict[str, Shape]:
    """Return the keys of a dataclass with their types."""
    hints = get_type_hints(of)
    return {each.name: hints[each.name] for each in fields(of)}


def _train() -> Shape:
    numbers = dict.fromkeys(("test_accuracy", "test_loss", "training_loss"), float | None)
    measured = {**numbers, "test_metrics": dict[str, float | None]}
    fields = {"run": str, "seconds": float, **measured, "bytes": dict[str, dict[str, int]]}
    return _object("Trained", {**fields, "models": list[str]})


def _submit() -> Shape:
    from crowdlearn_host.service.jobs import Job

    fields = {name: kind for name, kind in _parts(Job).items() if name not in ("description", "tries")}
    return list[_object("Submitted", fields)]  # type: ignore[misc]


def _evaluate() -> Shape:
    from crowdlearn_host.runs.results.evaluation import Evaluation

    return _object("Evaluated", {"run": str, **_parts(Evaluation)})


def _report() -> Shape:
    return _object("Reported", {"report": str, "damaged": list[str]})


def _plan() -> Shape:
    from crowdlearn_host.planner.plan import Plan

    return Plan


def _doctor() -> Shape:
    from crowdlearn_export.doctor.doctor import Diagnosis

    from crowdlearn_host.devices.trial import PhoneTrial

    tried = _object("Tried", {**_parts(PhoneTrial), "agrees": bool})
    fields = {"model": str, **_parts(Diagnosis), "phone": tried | None}
    return _object("Diagnosed", fields, optional=("phone",))


def _import() -> Shape:
    return _object("Imported", {"model": str, "notes": list[str]})


def _export_model() -> Shape:
    written = _object("Written", {"file": str, "error": float})
    return _object("Exported", {"onnx": written | None, "pte": written | None}, optional=("onnx", "pte"))


def _simulate() -> Shape:
    from crowdlearn_host.simulation.state import RoundRecord

    return _object("Simulated", {"run": str, "model": str, "rounds": list[RoundRecord]})


def _privacy() -> Shape:
    fields = {"rows": list[dict[str, Any]], "privacy": dict[str, Any]}
    return _object("Audited", fields, optional=("privacy",))


def _phones() -> Shape:
    from crowdlearn_host.emulator import PhoneInfo

    return list[PhoneInfo]


def _devices() -> Shape:
    from crowdlearn_host.devices.facts import DeviceFacts

    facts = _parts(DeviceFacts)
    fields = {"serial": str, "way": str, **facts, "problem": str | None}
    return list[_object("Device", fields, optional=tuple(set(facts) - {"serial"}))]  # type: ignore[misc]


def _profile() -> Shape:
    from crowdlearn_host.devices.fleet_file import Measured

    return _object("Profiled", {"file": str, "devices": list[Measured], "missing": list[str]})


def _measure() -> Shape:
    from crowdlearn_host.devices.constants import Constants

    watts = dict[str, float] | None
    device = _object(
        "MeasuredDevice",
        {
            "device": str,
            "model": str,
            "virtual": bool,
            "meter": str | None,
            "unread": dict[str, str],
            "dropped": dict[str, int],
            "rails": watts,
            "constants": Constants,
            "notes": list[str],
        },
    )
    fields = {"model": str, "batch": int, "rounds": int, "window": float, "devices": list[device]}  # type: ignore[valid-type]
    return _object("Measured", {**fields, "rows": list[dict[str, Any]], "missing": dict[str, str]})


def _bundle() -> Shape:
    whole = dict.fromkeys(("bytes", "bytes_sent", "files", "page_size"), int)
    parts = {"abi": str, **whole, "python": str, "archives": list[str], "sha256": list[str], "seconds": float}
    return _object("Bundled", parts)


def _enrol() -> Shape:
    return list[_object("Enrolled", dict.fromkeys(("device", "token", "pin", "command", "link"), str))]  # type: ignore[misc]


def _convert() -> Shape:
    from crowdlearn_host.loaders.conversion import Conversion

    return Conversion


DOCUMENTS: dict[str, Callable[[], Shape]] = {
    "demo": _train,
    "init": lambda: _object("Begun", {"file": str}),
    "train": _train,
    "train --check": lambda: _object("Checked", {"run": str, "devices": int, "trains": bool}),
    "submit": _submit,
    "evaluate": _evaluate,
    "report": _report,
    "plan": _plan,
    **dict.fromkeys(
        (f"convert {kind}" for kind in ("csv", "images", "text", "tensors", "hugging-face")), _convert
    ),
    "doctor": _doctor,
    "import": _import,
    "export-model": _export_model,
    "simulate": _simulate,
    "privacy": _privacy,
    "phones up": _phones,
    "phones list": _phones,
    "phones down": lambda: list[str],
    "devices": _devices,
    "profile": _profile,
    "measure": _measure,
    "bundle": _bundle,
    "enrol": _enrol,
    "device-list": lambda: _object("Listed", {"devices": dict[str, str], "signer": str, "link": str}),
}
"""The type of each document, which may take seconds to import, by the command as it is written."""
