"""A kept model is used only whole and undamaged, and samples come from files of any kind we know."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from crowdlearn_device.cli import main
from crowdlearn_device.data.dataset import checked, load_samples
from crowdlearn_device.data.unit import Unit
from crowdlearn_device.errors import DataError, ProgramError, StateError
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_device.prediction import model_folder
from crowdlearn_device.prediction.model_folder import UNIT, WEIGHTS, KeptModel, keep_model
from crowdlearn_device.prediction.predict import predict
from crowdlearn_device.program.executor import Executor, ProgramStore
from crowdlearn_device.program.manifest import ArraySpec, EdgeSpec, LayerSpec, Manifest, MethodSpec, Port
from crowdlearn_device.protocol.frames import Array
from crowdlearn_device.state.piece_state import PieceState

MANIFEST = Manifest(
    program="0" * 64,
    max_batch=4,
    optimizer=Sgd(),
    layers=(LayerSpec(2, 2, (3,)), LayerSpec(3, 3, ())),
    edges=(EdgeSpec(0, 1),),
    arrays=(ArraySpec("w", 0, (3, 3), True), ArraySpec("b", 1, (), True)),
    methods=(
        MethodSpec(
            "predict",
            (
                Port("sum", ("B", 2, 3), layer=0),
                Port("parameter", (2, 3, 3), name="w", layer=0),
                Port("parameter", (3,), name="b", layer=1),
            ),
            (Port("logits", ("B", 3)),),
        ),
    ),
)
RNG = np.random.default_rng(0)
LAYERS = {
    0: {"value/w": RNG.standard_normal((2, 3, 3)).astype(np.float32)},
    1: {"value/b": RNG.standard_normal(3).astype(np.float32)},
}
WHOLE = PieceState(((0, 2), (0, 3)), LAYERS)


class Dense(Executor):
    """What the program would compute."""

    def hold(self, arrays: Iterable[Array]) -> None:
        pass

    def zeros(self, shape: Sequence[int], dtype: str = "float32") -> Array:
        return np.zeros(shape, dtype)

    def run(self, method: str, inputs: Sequence[Array], *, borrowed: bool = False) -> list[Array]:
        x, w, b = inputs
        assert method == "predict"
        assert len(x) <= MANIFEST.max_batch
        return [x.reshape(len(x), -1) @ w.reshape(6, 3) + b]


def test_probabilities_of_any_number_of_samples():
    samples = RNG.standard_normal((11, 6)).astype(np.float32)
    found = KeptModel(MANIFEST, Dense(), WHOLE).probabilities(samples)
    raw = np.exp(samples @ LAYERS[0]["value/w"].reshape(6, 3) + LAYERS[1]["value/b"])
    np.testing.assert_allclose(found, raw / raw.sum(axis=1, keepdims=True), atol=1e-6)
    with pytest.raises(DataError, match=r"the model takes \(2, 3\) \(6 values\)"):
        KeptModel(MANIFEST, Dense(), WHOLE).probabilities(samples[:, :5])
    with pytest.raises(DataError, match=r"transpose\(0, 2, 1\)"):
        KeptModel(MANIFEST, Dense(), WHOLE).probabilities(samples.reshape(11, 3, 2))


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (PieceState(((0, 2), (0, 2)), LAYERS), "not those of the whole network"),
        (PieceState(WHOLE.neurons, {0: LAYERS[0]}), "b is missing"),
        (PieceState(WHOLE.neurons, {**LAYERS, 1: {"value/b": np.zeros(4, np.float32)}}), r"of shape \(4,\)"),
        (PieceState(WHOLE.neurons, {**LAYERS, 1: {"value/b": np.full(3, np.nan, np.float32)}}), "not finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, says):
    with pytest.raises(StateError, match=says):
        KeptModel(MANIFEST, Dense(), weights)


def test_a_program_that_trains_is_no_model():
    with pytest.raises(ProgramError, match="no method predict"):
        KeptModel(replace(MANIFEST, methods=()), Dense(), WHOLE)


def kept(folder: Path) -> Path:
    files = {f"{MANIFEST.sha256}.json": MANIFEST.to_json().encode(), f"{MANIFEST.program}.pte": b"none"}
    keep_model(folder, files, WHOLE)
    return folder


def test_a_newer_model_replaces_the_older(tmp_path):
    (kept(tmp_path / "run") / "left over").touch()
    kept(tmp_path / "run")
    assert {path.suffix for path in (tmp_path / "run").iterdir()} == {".json", ".pte", ".state", ".id"}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_model_of_another_run_of_the_name_is_not_lost_and_old_ones_are_few(tmp_path):
    for number in range(model_folder.MAX_KEPT + 3):
        keep_model(tmp_path / "run", {}, WHOLE, f"{number:08x}ff")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == model_folder.MAX_KEPT
    assert names[0] == "run"
    assert (tmp_path / "run" / "run.id").read_text() == f"{model_folder.MAX_KEPT + 2:08x}ff"
    assert f"run-{model_folder.MAX_KEPT + 1:08x}" in names
    (tmp_path / "linked").symlink_to(tmp_path)
    with pytest.raises(StateError, match="is a link"):
        keep_model(tmp_path / "linked" / "run", {}, WHOLE, "id")


@pytest.mark.parametrize("kind", ["json", "pte", "state"])
def test_what_is_damaged_is_told_in_one_line(kind, tmp_path, capsys):
    folder = kept(tmp_path / "run")
    (path,) = folder.glob(f"*.{kind}")
    path.write_bytes(path.read_bytes()[:-3] + b"xyz")
    np.savez(tmp_path / "some.npz", inputs=np.zeros((2, 6), np.float32))
    assert main(["predict", "--model", str(folder), "--inputs", str(tmp_path / "some.npz")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "damaged" in line


def test_a_huge_file_of_weights_is_not_read(tmp_path):
    folder = kept(tmp_path / "run")
    with (folder / WEIGHTS).open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(StateError, match="larger than the model's weights"):
        KeptModel.load(folder)


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_folder_without_a_model(name, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "some.npz", inputs=np.zeros((2, 6), np.float32))
    assert main(["predict", "--model", str(tmp_path / name), "--inputs", str(tmp_path / "some.npz")]) == 1
    assert "holds no model" in capsys.readouterr().err


def idx(path: Path, values: np.ndarray) -> None:
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    content = header + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_samples_of_an_idx_file_with_and_without_labels(suffix, tmp_path):
    images = tmp_path / f"t10k-images-idx3-ubyte{suffix}"
    idx(images, np.arange(24).reshape(2, 3, 4))
    data, labels = load_samples(images)
    assert labels is None
    assert data.scaled
    np.testing.assert_allclose(data.inputs, np.arange(24).reshape(2, 3, 4) / 255, rtol=1e-6)
    idx(tmp_path / f"t10k-labels-idx1-ubyte{suffix}", np.array([3, 1]))
    np.testing.assert_array_equal(load_samples(images)[1], [3, 1])
    idx(tmp_path / f"t10k-labels-idx1-ubyte{suffix}", np.array([3]))
    with pytest.raises(DataError, match="2 inputs and 1 labels"):
        load_samples(images)


def test_samples_of_an_npz(tmp_path):
    np.savez(tmp_path / "a.npz", inputs=np.full((2, 3), 255, np.uint8))
    data, labels = load_samples(tmp_path / "a.npz")
    assert labels is None
    assert data.inputs.max() == 1.0
    np.savez(tmp_path / "b.npz", inputs=data.inputs, labels=np.array([0, 1]))
    np.testing.assert_array_equal(load_samples(tmp_path / "b.npz")[1], [0, 1])
    np.savez(tmp_path / "c.npz", labels=np.array([0, 1]))
    with pytest.raises(DataError, match="no array inputs"):
        load_samples(tmp_path / "c.npz")
    with pytest.raises(DataError, match="cannot be read"):
        load_samples(tmp_path / "nowhere.npz")


def test_a_kept_model_refuses_samples_in_another_unit_than_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(ProgramStore, "executor", lambda *_: Dense())
    shades = np.arange(240).reshape(40, 2, 3).astype(np.uint8)
    files = {f"{MANIFEST.sha256}.json": MANIFEST.to_json().encode()}
    keep_model(tmp_path / "run", files, WHOLE, "id", Unit.of(checked(shades, np.zeros(40, int), "here")))
    np.savez(tmp_path / "raw.npz", inputs=shades.astype(np.float32))
    with pytest.raises(DataError, match=r"trained on and .*raw.npz are not in one unit"):
        predict(tmp_path / "run", tmp_path / "raw.npz", None)
    np.savez(tmp_path / "raw.npz", inputs=shades / 255)
    assert predict(tmp_path / "run", tmp_path / "raw.npz", None) == "40 samples"
    (tmp_path / "run" / UNIT).write_text("{}")
    with pytest.raises(DataError, match="is no unit of samples"):
        predict(tmp_path / "run", tmp_path / "raw.npz", None)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A prediction that can be made."""
    monkeypatch.setattr(KeptModel, "load", lambda *_: KeptModel(MANIFEST, Dense(), WHOLE))
    np.savez(tmp_path / "test.npz", inputs=np.ones((5, 2, 3), np.float32))
    return ["predict", "--model", "model", "--inputs", str(tmp_path / "test.npz"), "--output"]


def test_a_file_that_is_there_is_replaced_only_if_forced(tmp_path, command, capsys):
    output = tmp_path / "new" / "found.csv"
    assert main([*command, str(output)]) == 0
    found = output.read_text()
    assert found.startswith("sample,class,probability\n0,")
    assert main([*command, str(output)]) == 0, "what it wrote itself it writes again"
    output.write_text("mine\n")
    capsys.readouterr()
    assert main([*command, str(output)]) == 1
    assert f"{output} is there already" in (told := capsys.readouterr().err)
    assert "replace it with --force" in told
    assert output.read_text() == "mine\n"
    assert main([*command, str(output), "--force"]) == 0
    assert output.read_text() == found


def test_labels_of_classes_that_the_model_does_not_know_are_told(tmp_path, command, capsys):
    np.savez(tmp_path / "test.npz", inputs=np.ones((2, 2, 3), np.float32), labels=[2, 3])
    output = tmp_path / "found.csv"
    assert main([*command, str(output)]) == 1
    assert "has a label 3, but the model distinguishes classes 0 to 2" in capsys.readouterr().err
    assert not output.exists()


def test_what_cannot_be_written_is_told_before_the_model_is_read(tmp_path, command, monkeypatch, capsys):
    monkeypatch.setattr(KeptModel, "load", None)
    assert main([*command, str(tmp_path)]) == 1
    assert f"{tmp_path} is a folder; name a file in it" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "test.npz" / "found.csv")]) == 1
    assert "test.npz" in capsys.readouterr().err
