"""`crowdlearn demo`: the whole product on this machine, in a minute."""

from __future__ import annotations

import time
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import crowdlearn
import typer

from crowdlearn_host.cli.console.document import Json, document
from crowdlearn_host.cli.console.terminal import terminal
from crowdlearn_host.emulator.processes.program_file import ABIS

from .train import trained

Arch = StrEnum("Arch", [(machine, machine) for machine in ABIS])  # type: ignore[misc]

CONFIG = """\
# The run of `crowdlearn demo`. To change it, copy this file and run: crowdlearn train THAT_FILE
name = "demo"
data = "digits"            # 1797 images of handwritten digits, part of scikit-learn
model = "mlp:64-64-32-10"  # dense layers with batch norm and ReLU between them

[group]
pieces = 3                 # a dominator and two followers; the fourth phone is a spare

[training]
epochs = {epochs}
batch = 32
learning_rate = 0.05
momentum = 0.9

[fleet]
virtual = {phones}
"""

BUNDLED = """arch = "{arch}"            # phones of this processor, which get a Python with the device runtime
"""


def demo(
    phones: Annotated[int, typer.Option(min=3, max=64, help="Virtual phones to start.")] = 4,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data of all phones.")] = 8,
    arch: Annotated[
        Arch | None,
        typer.Option(help="Processor architecture of the phones, which run the bundle made for it."),
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Folder of the run [default: runs/demo-TIME].")] = None,
    as_json: Json = False,
) -> None:
    """Train a small network on virtual phones over adb: a dominator, two followers and a spare."""
    text = CONFIG.format(phones=phones, epochs=epochs)
    if arch is not None:
        text += BUNDLED.format(arch=arch.value)
    config = crowdlearn.RunSpec.parse(tomllib.loads(text), "the demo")
    path = run or Path("runs") / time.strftime("demo-%Y%m%d-%H%M%S")
    with document(as_json) as tell:
        tell(trained(config, terminal(stderr=as_json), run=path, written=(text, Path.cwd())))
