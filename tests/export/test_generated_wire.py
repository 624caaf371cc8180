import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import crowdlearn_device
import pytest

PACKAGE = Path(crowdlearn_device.__file__).parent


def test_the_generated_wire_format_is_that_of_the_proto_file(tmp_path):
    if find_spec("grpc_tools") is None:
        pytest.skip("grpcio-tools is not installed here")
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc"),
            *("-I", str(PACKAGE.parent), f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"),
            "crowdlearn_device/wire.proto",
        ],
        check=True,
    )
    for name in ("wire_pb2.py", "wire_pb2.pyi"):
        assert (tmp_path / "crowdlearn_device" / name).read_text() == (PACKAGE / name).read_text(), (
            "make proto"
        )
