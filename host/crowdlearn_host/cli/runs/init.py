"""`crowdlearn init`: a description of a run to start from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from crowdlearn_device.platform.files import write_atomically

from crowdlearn_host.cli.console.document import Json, document
from crowdlearn_host.cli.console.output import Force, claim
from crowdlearn_host.spec.run_spec import RunSpec

TEMPLATE = """\
# The description of a run, for crowdlearn train THIS_FILE and crowdlearn simulate THIS_FILE.
# Paths are relative to this file. Lines that begin with # are further settings, most with their defaults.
name = "{name}"
model = "mlp:64-64-32-10"   # or paper-mlp, paper-cnn, file.py:function, package.module:function
data = "digits"             # a folder on this computer, divided among the phones; "digits" is built in
# device_data = "data"      # a folder on every phone; its samples stay there
# input_shape = [64]        # shape of one sample; needed if only device_data is given

[group]
pieces = 3                  # a dominator and two followers
# plan = "plan.json"        # instead of pieces: a plan that `crowdlearn plan --save` wrote
# groups = 1                # groups that train side by side and share weights
# min_pieces = 2            # go on with fewer pieces if devices are missing (needs privacy.heirs = "all")
# rotation = "full"         # or "minimal": the pieces that move when the dominator changes
# keep_model = false        # true: every device keeps the trained model

[training]
epochs = 5
batch = 32
learning_rate = 0.05
wire = "float32"            # dtype of sums and errors; "int8", the default, needs 27 % of the bytes
# optimizer = "sgd"         # or "adam", "adamw"
# momentum = 0.9            # of sgd
# weight_decay = 0.0
# schedule = "constant"     # or "linear", "cosine": the learning rate falls to a hundredth; or "step"
# warmup = 0                # mini-batches over which the learning rate rises
# clip_norm = 0.0           # largest norm of the gradients; 0: no limit
# micro_batch = 16          # samples that travel together
# staleness = 0             # 1: consecutive mini-batches overlap
# seed = 0

# [sharing]                 # of weights between groups
# every = 0                 # passes between two sharings; 0: an epoch
# theta = 1.0               # share of weights that a device uploads
# tau = 0.5                 # share of the window from which a weight is downloaded
# omega = 0                 # uploads of a weight that the window keeps; 0: one per group
# values = "float32"        # or "float16", "int8"

# [validation]              # samples that are not trained on choose the best epoch
# share = 0.1               # of the training samples; 0: use the data folder's validation.npz
# patience = 5              # stop after this many epochs without improvement; 0: never

[fleet]
virtual = 4                 # virtual phones to start for this run
# phones = ["R58M123ABC"]   # or adb serials of phones, as `crowdlearn devices` lists them
# listen = "0.0.0.0:8765"   # or the address at which devices dial in (crowdlearn enrol)
# joining = 4               # number of devices that dial in
"""


def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("run.toml"),
    schema: Annotated[
        bool, typer.Option("--schema", help="Write the JSON Schema of these files instead, for editors.")
    ] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write the description of a run, with comments: the input of crowdlearn train and simulate."""
    claim(path, force=force, is_own=lambda text: False)
    content = (
        json.dumps(RunSpec.model_json_schema(), indent=1) if schema else TEMPLATE.format(name=_name(path))
    )
    write_atomically(path, content.encode())
    with document(as_json) as tell:
        tell({"file": str(path)})
    if not as_json:
        typer.echo(str(path))


def _name(path: Path) -> str:
    kept = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in path.stem)
    return kept.strip("-")[:60] or "run"
