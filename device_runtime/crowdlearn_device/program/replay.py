"""Methods of a program run on arrays from a file, for another computer to compare what they gave."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from crowdlearn_device.errors import ProgramError
from crowdlearn_device.platform.files import replacing
from crowdlearn_device.protocol.frames import Array

from .executor import Executor, Load, load_program
from .verification import verify_program

Arrays = dict[str, Array]


def replay(program: Path, inputs: Path, outputs: Path, load: Load = load_program) -> None:
    """Run the methods of `program` (.pte) that `inputs` (.npz) names, and write `outputs` (.npz).

    `inputs` has arrays METHOD/in0, METHOD/in1 and so on; `outputs` has METHOD/out0 and so on, and
    METHOD/after0 and so on: the inputs as the method left them. The program is verified before it is loaded.
    Raises ProgramError.
    """
    try:
        with np.load(inputs, allow_pickle=False) as archive:
            given = {name: archive[name] for name in archive.files}
    except (OSError, ValueError) as error:
        raise ProgramError(f"{inputs} holds no arrays ({error})") from error
    pte = program.read_bytes()
    verify_program(pte)
    found = replay_arrays(load(pte, len(pte)), given)
    with replacing(outputs) as file:
        np.savez(file, allow_pickle=False, **found)


def replay_arrays(executor: Executor, given: Arrays) -> Arrays:
    """Return what `replay` writes of the arrays that it reads, which stay as they are."""
    found: Arrays = {}
    for method in dict.fromkeys(name.rpartition("/")[0] for name in given):
        count = sum(name.rpartition("/")[0] == method for name in given)
        try:
            arrays = [given[f"{method}/in{number}"].copy() for number in range(count)]
        except KeyError as error:
            raise ProgramError(f"the inputs of {method} have no array {error}") from error
        for number, output in enumerate(executor.run(method, arrays)):
            found[f"{method}/out{number}"] = output
        for number, array in enumerate(arrays):
            found[f"{method}/after{number}"] = array
    return found
