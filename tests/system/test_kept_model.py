"""After training every device predicts what PyTorch predicts with the run's model, which the relay has not
seen.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from crowdlearn_device.cli import main
from crowdlearn_device.errors import DeviceError
from crowdlearn_device.prediction.model_folder import WEIGHTS, KeptModel
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import decode_frame
from crowdlearn_export.graph.weights import state_of
from crowdlearn_host.cli import build
from crowdlearn_host.coordinator.hub.server import Server
from crowdlearn_host.runs.data import load_split, to_npz
from crowdlearn_host.runs.prepare import Prepared, prepare
from crowdlearn_host.spec.run_spec import RunSpec
from typer.testing import CliRunner

from .sockets import train_on_sockets

pytestmark = pytest.mark.system
DEVICES = 3
MODEL = """
from torch import nn

def build():
    maps = (nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout2d(0.2), nn.MaxPool2d(2))
    return nn.Sequential(*maps, nn.Flatten(), nn.Linear(54, 10))
"""


class ListeningServer(Server):
    """A server that remembers what it could read."""

    heard: list[tuple[str, int, bytes]]

    def take(self, attached: Any, data: bytes) -> Awaitable[None] | None:
        frame = decode_frame(data)
        kind = frame.WhichOneof("body") or ""
        self.heard.append((kind, frame.envelope.purpose if kind == "envelope" else -1, data))
        return super().take(attached, data)


class Trained:
    """A finished run: what the host holds of it, and the devices' homes."""

    def __init__(self, folder: Path, server: ListeningServer, prepared: Prepared) -> None:
        self.server, self.prepared = server, prepared
        self.kept = [folder / f"device-{number}" / "models" / "run" for number in range(DEVICES)]
        arrays, template = server.shared.model(), prepared.model.state_dict()
        prepared.model.load_state_dict(state_of(prepared.graph, arrays, template, prepared.plan.order))
        assert prepared.test is not None
        self.test = prepared.test
        with torch.no_grad():
            logits = prepared.model.eval()(torch.from_numpy(self.test.inputs))
        self.expected = torch.softmax(logits.double(), 1).numpy()


@pytest.fixture(scope="module")
async def trained(tmp_path_factory) -> Trained:
    folder = tmp_path_factory.mktemp("kept")
    (folder / "net.py").write_text(MODEL)
    config = RunSpec.model_validate(
        {
            "data": "digits",
            "model": f"{folder}/net.py:build",
            "input_shape": (1, 8, 8),
            "group": {"pieces": 3, "keep_model": True},
            "training": {"epochs": 1, "batch": 64, "learning_rate": 0.1, "kernels": "by_size"},
        }
    )

    def make(**fields: Any) -> ListeningServer:
        server = ListeningServer(**fields)
        server.heard = []
        return server

    server, events = await train_on_sockets(folder, config, DEVICES, make)
    assert isinstance(server, ListeningServer)
    assert not [fields for event, fields in events if event in ("fault", "refused")]
    return Trained(folder, server, prepare(config, lambda *_: None))


@pytest.fixture
def copy(trained: Trained, tmp_path: Path) -> Path:
    """A kept model to be damaged."""
    return Path(shutil.copytree(trained.kept[0], tmp_path / "model"))


async def test_it_predicts_what_pytorch_does_on_the_test_set(trained):
    for folder in trained.kept:
        found = KeptModel.load(folder).probabilities(trained.test.inputs)
        assert float(np.abs(found - trained.expected).max()) <= 1e-5


async def test_the_command_line_tells_classes_and_accuracy(trained, tmp_path, capsys):
    (tmp_path / "test.npz").write_bytes(to_npz(trained.test))
    files = ["--inputs", str(tmp_path / "test.npz"), "--output", str(tmp_path / "found.csv")]
    assert main(["predict", "--model", str(trained.kept[1]), *files]) == 0
    classes = trained.expected.argmax(axis=1)
    accuracy = 100 * (classes == trained.test.labels).mean()
    assert f"{len(classes)} samples, accuracy {accuracy:.2f} %" in capsys.readouterr().err
    rows = list(csv.DictReader((tmp_path / "found.csv").open()))
    assert [int(row["class"]) for row in rows] == list(classes)
    np.testing.assert_allclose(
        [float(row["probability"]) for row in rows], trained.expected.max(axis=1), atol=1e-5
    )


async def test_the_relay_reads_no_weights(trained):
    """What devices share by the run's rules aside, no row of the model's weights is in what the host got."""
    assert pb.PURPOSE_MODEL in {purpose for _, purpose, _ in trained.server.heard}
    kinds = [kind for kind, _, _ in trained.server.heard]
    first = next(i for i, (_, purpose, _) in enumerate(trained.server.heard) if purpose == pb.PURPOSE_MODEL)
    assert "shared" not in kinds[first:]
    rows = [
        row.astype("<f4").tobytes()
        for array in trained.server.shared.model().values()
        for row in array.reshape(len(array), -1)
        if row.size >= 4
    ]
    assert len(rows) == 7
    plain = (trained.kept[0] / WEIGHTS).read_bytes()
    assert all(row in plain for row in rows)
    unshared = b"".join(data for kind, _, data in trained.server.heard if kind != "shared")
    assert not any(row in unshared for row in rows)
    for path in (trained.server.folder.path / "snapshots").iterdir():
        assert not any(row in path.read_bytes() for row in rows)


@pytest.mark.parametrize("name", [WEIGHTS, "*.json", "*.pte"])
async def test_damaged_files_are_refused(copy, name):
    (path,) = copy.glob(name)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DeviceError, match="damaged"):
        KeptModel.load(copy)
    path.write_bytes(content[:100])
    with pytest.raises(DeviceError, match="damaged"):
        KeptModel.load(copy)
    path.unlink()
    with pytest.raises(DeviceError, match=r"cannot be read|not on this device|holds no model"):
        KeptModel.load(copy)


def test_models_outlive_the_phones_that_a_run_had_for_itself(home, tmp_path, capsys):
    config, run = tmp_path / "own.toml", tmp_path / "run"
    config.write_text(
        'model = "mlp:64-8-10"\ndata = "digits"\n[group]\npieces = 2\nkeep_model = true\n'
        '[training]\nepochs = 1\nkernels = "by_size"\n[fleet]\nvirtual = 2\n'
    )
    command = ["train", str(config), "--run", str(run), "--json"]
    result = CliRunner().invoke(build(["train"]), command, catch_exceptions=False)
    told = json.loads(result.stdout)
    assert told["models"] == [str(run / "models" / name) for name in ("phone-0", "phone-1")]
    assert f"crowdlearn-device predict --model {run}/models/phone-0" in result.stderr
    assert not (run / "phones").exists()
    assert not list(run.glob("*zygote*"))
    (tmp_path / "test.npz").write_bytes(to_npz(load_split("digits", "test")))
    for model in told["models"]:
        capsys.readouterr()
        assert main(["predict", "--model", model, "--inputs", str(tmp_path / "test.npz")]) == 0
        assert f"accuracy {100 * told['test_accuracy']:.2f} %" in capsys.readouterr().err


async def test_samples_of_another_size_are_refused_in_one_line(copy, tmp_path, capsys):
    np.savez(tmp_path / "other.npz", inputs=np.zeros((3, 1, 9, 9), np.float32))
    assert main(["predict", "--model", str(copy), "--inputs", str(tmp_path / "other.npz")]) == 1
    error = capsys.readouterr().err
    assert "the model takes (1, 8, 8) (64 values)" in error
    assert len(error.splitlines()) == 1
