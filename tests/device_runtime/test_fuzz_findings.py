"""What fuzzing found once (python -m benchmarks.fuzz) and must stay refused."""

import pytest
from crowdlearn_device.errors import ProgramError, WireError
from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import decode_tensor


def test_an_empty_tensor_cannot_claim_a_shape_that_numpy_cannot_hold() -> None:
    with pytest.raises(WireError, match="more than any frame can carry"):
        decode_tensor(pb.Tensor(dtype=pb.FLOAT32, shape=[1, 0xFFFFFFFF, 0xFFFFFFFF, 0]))


@pytest.mark.parametrize("pte", [b"", b"\xff" * 66, b"\x1c\0\0\0\xff\xffET"])
def test_bytes_that_are_no_program_never_reach_executorch(pte: bytes) -> None:
    with pytest.raises(ProgramError, match="no ExecuTorch program"):
        ExecuTorchExecutor(pte)
