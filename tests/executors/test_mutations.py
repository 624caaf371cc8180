"""Whatever is done to a program, it is refused, or fails, or ends the process that it runs in: none other."""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from crowdlearn_device.errors import ProgramError
from crowdlearn_device.program.isolation.warden import Warden
from crowdlearn_device.program.verification import SCHEMA, verify_program

from .mutations import mutated, outcome

MUTATIONS = 60


@pytest.fixture(scope="module")
def warden() -> Iterator[Warden]:
    warden = Warden()
    yield warden
    warden.close()


def inputs(folder: Path, name: str) -> dict[str, list[np.ndarray]]:
    with np.load(folder / f"{name}.npz") as archive:
        methods = dict.fromkeys(key.partition("/")[0] for key in archive.files)
        count = {method: sum(key.startswith(f"{method}/") for key in archive.files) for method in methods}
        return {method: [archive[f"{method}/in{n}"] for n in range(count[method])] for method in methods}


def test_whole_programs_are_verified(folder: Path) -> None:
    for path in folder.glob("*.pte"):
        found = verify_program(path.read_bytes())
        given = inputs(folder, path.stem)
        assert {method: len(arrays) for method, arrays in given.items()}.items() <= {
            method: count for method, (count, _) in found.methods.items()
        }.items()
        assert found.operators


@pytest.mark.parametrize("name", ["dense-predict", "dense-whole"])
def test_damaged_programs_cost_their_process_at_most(name: str, folder: Path, warden: Warden) -> None:
    pte, given, rng = (folder / f"{name}.pte").read_bytes(), inputs(folder, name), random.Random(7)
    assert outcome(pte, warden.load, given) == "ran"
    ends = Counter(outcome(mutated(pte, rng), warden.load, given) for _ in range(MUTATIONS))
    assert set(ends) <= {"refused", "failed", "ended", "ran"}
    assert ends["refused"] >= MUTATIONS / 6
    assert outcome(pte, warden.load, given) == "ran"


def test_every_cut_of_a_program_is_refused(folder: Path) -> None:
    pte = (folder / "dense-predict.pte").read_bytes()
    for end in range(0, len(pte) - 1, 97):
        with pytest.raises(ProgramError, match="cannot be loaded safely"):
            verify_program(pte[:end])


def test_random_bytes_in_a_program_raise_nothing_else(folder: Path) -> None:
    pte, rng = (folder / "dense-follower.pte").read_bytes(), random.Random(3)
    for _ in range(150):
        try:
            verify_program(mutated(pte, rng))
        except ProgramError:
            continue


def test_what_devices_do_not_run_is_refused_by_name(folder: Path) -> None:
    pte = (folder / "dense-predict.pte").read_bytes()
    assert b"aten::" in pte
    for known, strange in ((b"aten::", b"evil::"), (b"XnnpackBackend", b"AnotherBackend")):
        if known in pte:
            with pytest.raises(ProgramError, match=strange.decode()):
                verify_program(pte.replace(known, strange))


def test_the_schema_is_executorchs(folder: Path) -> None:
    """Table by table, the kinds of the fields of the program.fbs that executorch brings."""
    schema = Path(pytest.importorskip("executorch.exir._serialize").__file__).parent / "program.fbs"
    text = [line.split("//")[0] for line in schema.read_text().splitlines()]
    tables: dict[str, int] = {}
    name = ""
    for line in text:
        words = line.split()
        if words[:1] == ["table"]:
            name = words[1]
            tables[name] = 0
        elif name and ":" in line:
            tables[name] += 1
        if "}" in line:
            name = ""
    ours = {
        "Program": "Program", "ExecutionPlan": "Plan", "Tensor": "Tensor", "Chain": "Chain",
        "Operator": "Operator", "KernelCall": "Kernel", "DelegateCall": "Delegated",
        "BackendDelegate": "Delegate", "DataSegment": "Segment",
        "SubsegmentOffsets": "Offsets", "ExtraTensorInfo": "Extra", "AllocationDetails": "Allocation",
        "MoveCall": "Move", "JumpFalseCall": "JumpFalse", "FreeCall": "Free", "NamedData": "Named",
    }  # fmt: skip
    assert {name: tables[name] for name in ours} == {name: len(SCHEMA[own]) for name, own in ours.items()}
