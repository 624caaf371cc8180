import subprocess
from pathlib import Path

import crowdlearn_device

PACKAGE = Path(crowdlearn_device.__file__).parent
ROOT = Path(__file__).parents[2]


def test_the_generated_wire_format_is_that_of_the_proto_file(tmp_path):
    made = subprocess.run(["make", "proto-env"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-2000:]
    subprocess.run(
        [
            *(ROOT / ".venv-proto/bin/python", "-m", "grpc_tools.protoc"),
            *("-I", str(PACKAGE.parent), f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"),
            "crowdlearn_device/protocol/wire.proto",
        ],
        check=True,
    )
    for name in ("wire_pb2.py", "wire_pb2.pyi"):
        assert (tmp_path / "crowdlearn_device/protocol" / name).read_text() == (
            PACKAGE / "protocol" / name
        ).read_text(), "make proto"
