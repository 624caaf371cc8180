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
# A run of crowdlearn. Train it: crowdlearn train THIS_FILE. Simulate it: crowdlearn simulate THIS_FILE.
# Lines that begin with # are settings as they are by default. Paths are relative to this file.
name = "{name}"
model = "mlp:64-64-32-10"   # or paper-mlp, paper-cnn, file.py:function, package.module:function
data = "digits"             # a folder on this computer, dealt out to the phones; "digits" is built in
# device_data = "data"      # a folder on every phone, whose samples stay there
# input_shape = [64]        # of one sample; needed if only device_data is given

[group]
pieces = 3                  # a dominator and two followers
# plan = "plan.json"        # or what `crowdlearn plan --save` wrote
# groups = 1                # groups that train side by side and share
# min_pieces = 2            # go on with fewer pieces if devices are missing (needs privacy.heirs = "all")
# rotation = "full"         # or "minimal": what moves at a shuffle
# keep_model = false        # whether every device keeps the model at the end

[training]
epochs = 5
batch = 32
learning_rate = 0.05
wire = "float32"            # of sums and errors; "int8", the default, is 27 % of the bytes, rounded at random
# optimizer = "sgd"         # or "adam", "adamw"
# momentum = 0.9            # sgd's
# weight_decay = 0.0
# schedule = "constant"     # or "linear", "cosine": the learning rate falls to a hundredth; or "step"
# warmup = 0                # mini-batches in which it rises
# clip_norm = 0.0           # bounds the norm of gradients; 0: as they are
# micro_batch = 16          # samples that travel at once
# staleness = 0             # 1: mini-batches overlap
# seed = 0

# [sharing]                 # between groups
# every = 0                 # passes between two sharings; 0: an epoch
# theta = 1.0               # share of weights that a device uploads
# tau = 0.5                 # share of the window from which a weight is downloaded
# omega = 0                 # uploads that the window keeps; 0: as many as groups
# values = "float32"        # or "float16", "int8"

# [validation]              # samples kept from training choose the best epoch's model
# share = 0.1               # of the training samples; 0: the data folder's validation.npz
# patience = 5              # end once so many epochs in a row were no better; 0: never

[fleet]
virtual = 4                 # virtual phones that start with the run
# phones = ["R58M123ABC"]   # or adb serials, as `crowdlearn devices` lists them
# listen = "0.0.0.0:8765"   # or a port that devices dial (crowdlearn enrol)
# joining = 4               # and how many
"""


def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("run.toml"),
    schema: Annotated[
        bool, typer.Option("--schema", help="Write the JSON schema of such files instead, for editors.")
    ] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a description of a run, with comments: crowdlearn train and simulate read it."""
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
