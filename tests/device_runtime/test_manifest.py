import json

import pytest
from crowdlearn_device.errors import ProgramError
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_device.program.executor import ProgramStore
from crowdlearn_device.program.manifest import (
    FORMAT,
    ArraySpec,
    EdgeSpec,
    LayerSpec,
    Manifest,
    MethodSpec,
    Port,
)
from crowdlearn_device.program.manifest_reader import read_manifest
from hypothesis import given
from hypothesis import strategies as st

MANIFEST = Manifest(
    program="0" * 64,
    max_batch=8,
    optimizer=Sgd(momentum=0.9),
    layers=(LayerSpec(4, 4, ()), LayerSpec(3, 1, (), 0.5)),
    edges=(EdgeSpec(0, 1),),
    arrays=(ArraySpec("0.weight", 0, (3,), True),),
    methods=(
        MethodSpec(
            "forward_0",
            (Port("sum", ("B", 4), layer=0), Port("parameter", (4, 3), "0.weight", 0)),
            (Port("sum", ("B", 3), layer=1, edge=0),),
        ),
    ),
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 1 << 40) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def test_a_manifest_comes_back_from_its_json():
    assert read_manifest(MANIFEST.to_json()) == MANIFEST


@given(st.sampled_from(sorted(json.loads(MANIFEST.to_json()))), JSON)
def test_a_manifest_with_any_field_replaced_is_whole_or_refused(field, value):
    data = json.loads(MANIFEST.to_json())
    data[field] = value
    try:
        manifest = read_manifest(json.dumps(data))
    except ProgramError:
        return
    assert all(isinstance(method, MethodSpec) for method in manifest.methods)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_manifest_or_refused(data):
    with pytest.raises(ProgramError):
        read_manifest(data)


def test_deep_nesting_is_refused():
    with pytest.raises(ProgramError):
        read_manifest("[" * 100_000)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda d: d["edges"][0].update(target=7), "joins layer"),
        (lambda d: d["layers"][0].update(owned=9), "owns 9 of 4"),
        (lambda d: d["methods"][0]["inputs"][1].update(name="x"), "unknown array"),
        (lambda d: d["methods"][0]["inputs"][1].update(role="x"), "unknown role"),
        (lambda d: d["methods"][0]["inputs"][1].update(shape=[4, 7]), "in shape"),
        (lambda d: d["methods"][0]["inputs"][1].update(dtype="float64"), "of type"),
        (lambda d: d["methods"][0].update(name="train_step"), "whole network"),
        (lambda d: d.update(format=FORMAT + 1), "reads up to"),
        (lambda d: d["optimizer"].update(momentum=float("nan")), "give a number from 0"),
        (lambda d: d["optimizer"].update(momentum=1.0), "a number below 1"),
        (lambda d: d["optimizer"].update(weight_decay="0.1"), "weight_decay of sgd"),
        (lambda d: d["optimizer"].update(momentum=True), "momentum of sgd"),
        (lambda d: d["optimizer"].update(kind="lion"), "lion"),
        (lambda d: d["optimizer"].update(betas=[0.9, 0.9]), "betas"),
        (lambda d: d["layers"][0].update(dropout=True), "not a number from 0"),
        (lambda d: d["edges"][0].update(matched="false"), "neither true nor false"),
        (lambda d: d["arrays"][0].update(trained=1), "neither true nor false"),
        (lambda d: d["arrays"][0].update(frozen=True), "trains what is frozen"),
        (lambda d: d["edges"][0].update(taught=False), "no errors come back to"),
    ],
)
def test_an_inconsistent_manifest_is_refused_by_name(edit, said):
    data = json.loads(MANIFEST.to_json())
    edit(data)
    with pytest.raises(ProgramError, match=said):
        read_manifest(json.dumps(data))


def test_a_manifest_of_the_first_format_is_read():
    """Kept models outlive the runtime that kept them."""
    data = json.loads(MANIFEST.to_json()) | {"format": 1}
    optimizer = data.pop("optimizer")
    data |= {"momentum": optimizer["momentum"], "weight_decay": optimizer["weight_decay"]}
    assert read_manifest(json.dumps(data)) == MANIFEST


def test_programs_are_checked_against_their_hash(tmp_path):
    store = ProgramStore(tmp_path)
    with pytest.raises(ProgramError, match="push it again"):
        store.manifest(MANIFEST.sha256)
    path = tmp_path / f"{MANIFEST.sha256}.json"
    path.write_text(MANIFEST.to_json())
    assert store.manifest(MANIFEST.sha256) == MANIFEST
    path.write_text(MANIFEST.to_json() + " ")
    with pytest.raises(ProgramError, match="damaged"):
        store.manifest(MANIFEST.sha256)
    with pytest.raises(ProgramError, match="not the hash"):
        store.manifest("../../etc/passwd")
