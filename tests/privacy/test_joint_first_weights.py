"""First weights that devices draw together: nobody steers them, and who does not show its secret is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from crowdlearn_device.errors import WireError
from crowdlearn_device.privacy.first_weights.commitment import MOST_ATTEMPTS, JointSeed
from crowdlearn_device.privacy.first_weights.distributions import Distribution, distributions_of
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import encode_tensor
from crowdlearn_export.tracing.trace import trace
from crowdlearn_host.coordinator.first_weights.beginning import drawn_arrays
from crowdlearn_host.coordinator.first_weights.drawing import Drawing
from crowdlearn_host.models.initial import first_distributions
from torch import nn

RUN = "run/00"
ARRAYS = {"weight": Distribution("uniform", -0.5, 0.5), "bias": Distribution("constant", 0.25)}
DEVICES = {number: bytes([number]) * 32 for number in (3, 5, 8)}
Lie = Callable[[int, pb.FirstWeights], pb.FirstWeights]


def honest(device: int, message: pb.FirstWeights) -> pb.FirstWeights:
    return message


def drawn(folder: Path, shown: Lie = honest, said: Lie = honest) -> tuple[Drawing, dict[int, JointSeed]]:
    """A drawing to its end; `shown` changes what the host sends, `said` what it hears."""
    drawing = Drawing(RUN, ARRAYS, 60.0)
    devices = {number: JointSeed(RUN, number, folder / str(number)) for number in DEVICES}
    drawing.begin(DEVICES)
    while drawing.out:
        number, message = drawing.out.pop(0)
        copy = pb.FirstWeights.FromString(message.SerializeToString())
        if (answer := devices[number].take(shown(number, copy))) is not None:
            drawing.answer(number, said(number, answer))
    return drawing, devices


def part_of(array: np.ndarray, name: str = "weight", start: int = 2) -> pb.StatePart:
    part = pb.StatePart(layer=0, neurons=pb.Range(start=start, stop=start + len(array)))
    part.arrays.add(name=f"value/{name}", values=encode_tensor(array.astype(np.float32), pb.FLOAT32))
    return part


def test_all_devices_and_the_host_draw_the_same_weights_and_take_no_others(tmp_path: Path) -> None:
    drawing, devices = drawn(tmp_path)
    assert drawing.stage == "drawn"
    whole = ARRAYS["weight"].drawn(drawing.seed, "weight", 0, 6, (4,))
    for number in DEVICES:
        again = JointSeed(RUN, number, tmp_path / str(number))  # after a crash
        for device in (devices[number], again):
            assert device.is_drawn
            device.check(part_of(whole[2:5]))
            device.check(part_of(np.full(3, 0.25), "bias"))
            for wrong in (whole[1:4], whole[2:5] + 1e-3, np.zeros((3, 4))):
                with pytest.raises(WireError, match="not those of the seed"):
                    device.check(part_of(wrong))
    other, _ = drawn(tmp_path / "other")
    assert other.seed != drawing.seed


def test_a_host_that_lies_gets_no_weights_accepted(tmp_path: Path) -> None:
    def forged(of: str, device: int = 5) -> Lie:
        def lie(number: int, message: pb.FirstWeights) -> pb.FirstWeights:
            if message.WhichOneof("step") == of:
                for each in getattr(message, of).of:
                    each.value = bytes(32) if each.device == device else each.value
            return message

        return lie

    with pytest.raises(WireError, match="another secret than it committed to"):
        drawn(tmp_path / "secret", forged("secrets"))
    with pytest.raises(WireError, match="lack this device's"):
        drawn(tmp_path / "own", forged("commitments"))

    def early(number: int, message: pb.FirstWeights) -> pb.FirstWeights:
        """Asks for the secrets of all before any has committed."""
        if message.HasField("commitments"):
            told = pb.OfDevices(of=message.commitments.of)
            message = pb.FirstWeights(attempt=message.attempt, secrets=told)
        return message

    with pytest.raises(WireError, match="before all devices have committed"):
        drawn(tmp_path / "early", early)

    def alone(number: int, message: pb.FirstWeights) -> pb.FirstWeights:
        if message.HasField("begin"):
            del message.begin.devices[:]
        return message

    with pytest.raises(WireError, match="without this device"):
        drawn(tmp_path / "alone", alone)
    for arrays in (
        [pb.Distribution(array="a", kind="trap")],
        [pb.Distribution(array="a", kind="uniform", high=float("inf"))],
        [pb.Distribution(array="a", kind="normal", high=1e9)],
        2 * [pb.Distribution(array="a", kind="constant")],
    ):
        with pytest.raises(WireError, match="no distribution"):
            distributions_of(arrays)


def test_a_host_cannot_try_seeds_until_it_likes_one(tmp_path: Path) -> None:
    device = JointSeed(RUN, 3, tmp_path)
    begin = pb.FirstBegin(devices=[pb.Peer(device=3, identity=DEVICES[3])])
    for attempt in range(1, MOST_ATTEMPTS + 1):
        device.take(pb.FirstWeights(attempt=attempt, begin=begin))
    for attempt in (MOST_ATTEMPTS + 1, 1):
        with pytest.raises(WireError, match="start a new run"):
            JointSeed(RUN, 3, tmp_path).take(pb.FirstWeights(attempt=attempt, begin=begin))


def test_a_device_that_commits_and_shows_nothing_or_another_secret_is_named(tmp_path: Path) -> None:
    def silent(number: int, message: pb.FirstWeights) -> pb.FirstWeights:
        if number == 5 and message.HasField("secret"):
            return pb.FirstWeights()
        return message

    drawing, _ = drawn(tmp_path / "silent", said=silent)
    assert drawing.stage == "secrets"
    drawing.tick(61.0)
    assert drawing.named == [(5, "it committed, and does not show its secret of first weights")]
    assert drawing.stage == "waiting"

    def other(number: int, message: pb.FirstWeights) -> pb.FirstWeights:
        if number == 8 and message.HasField("secret"):
            message.secret = bytes(32)
        return message

    drawing, _ = drawn(tmp_path / "other", said=other)
    ((device, why),) = drawing.named
    assert device == 8
    assert "another secret" in why
    assert not drawing.seed


def test_an_attempt_without_a_lost_device_begins_anew(tmp_path: Path) -> None:
    drawing = Drawing(RUN, ARRAYS, 60.0)
    devices = {number: JointSeed(RUN, number, tmp_path / str(number)) for number in DEVICES}
    drawing.begin(DEVICES)
    drawing.left(5)
    assert drawing.stage == "waiting"
    drawing.out.clear()
    drawing.begin({number: key for number, key in DEVICES.items() if number != 5})
    while drawing.out:
        number, message = drawing.out.pop(0)
        assert number != 5
        if (answer := devices[number].take(message)) is not None:
            drawing.answer(number, answer)
    assert drawing.stage == "drawn"
    assert not devices[5].is_drawn


MODEL = """
import torch
from torch import nn

def net():
    middle = nn.Linear(30, 12)
    nn.init.normal_(middle.weight, std=0.02)
    nn.init.zeros_(middle.bias)
    learned = nn.Linear(12, 4)
    with torch.no_grad():
        learned.weight.copy_(torch.arange(48).reshape(4, 12) / 48)
    return nn.Sequential(nn.Linear(20, 30), nn.Tanh(), middle, nn.Tanh(), learned)
"""


def test_joint_weights_have_the_distributions_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "first_net.py").write_text(MODEL)
    name = f"{tmp_path / 'first_net.py'}:net"
    from crowdlearn_export.graph.weights import arrays_of
    from crowdlearn_host.models.named import build_model

    model = build_model(name, 0)
    graph = trace(model, torch.zeros(2, 20), "net")
    found = first_distributions(name, graph, 0)
    bound = 20**-0.5
    assert found["0.weight"].kind == "uniform"
    assert found["0.weight"].high == pytest.approx(bound, rel=0.01)
    assert found["0.weight"].low == -found["0.weight"].high
    assert found["0.bias"].kind == "uniform"
    assert found["0.bias"].high == pytest.approx(bound, rel=0.05)
    assert found["2.weight"] == Distribution("normal", 0.0, pytest.approx(0.02, rel=0.1))  # type: ignore[arg-type]
    assert found["2.bias"] == Distribution("constant", 0.0)
    assert found["4.weight"].kind == "given"
    given = arrays_of(graph, model.state_dict())
    arrays = drawn_arrays(bytes(32), found, given)
    assert (arrays["4.weight"] == given["4.weight"]).all()
    assert not (arrays["0.weight"] == given["0.weight"]).any()
    assert abs(arrays["0.weight"]).max() <= found["0.weight"].high
    assert arrays["0.weight"].std() == pytest.approx(bound / 3**0.5, rel=0.1)
    assert isinstance(model[4], nn.Linear)
