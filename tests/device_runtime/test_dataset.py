"""A device reads its data whatever the format, and refuses what is damaged, too large or not a data set."""

import gzip
import struct
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from crowdlearn_device.data import dataset
from crowdlearn_device.data.dataset import Dataset, as_targets, load_dataset, load_npz
from crowdlearn_device.data.unit import Unit, check_units
from crowdlearn_device.errors import DataError
from crowdlearn_device.protocol.targets import TargetSpec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

PIXELS = np.arange(5 * 28 * 28, dtype=np.uint8).reshape(5, 28, 28)
CLASSES = np.array([3, 1, 4, 1, 5], np.uint8)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(folder: Path, compressed: bool, prefix: str = "train") -> None:
    for name, array in (("images-idx3", PIXELS), ("labels-idx1", CLASSES)):
        data = idx(array)
        path = folder / f"{prefix}-{name}-ubyte{'.gz' if compressed else ''}"
        path.write_bytes(gzip.compress(data) if compressed else data)


@pytest.mark.parametrize("compressed", [False, True])
def test_mnist_files_are_read_compressed_or_not(tmp_path: Path, compressed: bool) -> None:
    write_mnist(tmp_path, compressed)
    write_mnist(tmp_path, compressed, "t10k")
    for split in ("train", "test"):
        data = load_dataset(tmp_path, split)
        assert data.inputs.dtype == np.float32
        assert data.labels.dtype == np.int64
        np.testing.assert_allclose(data.inputs, PIXELS / 255, atol=1e-7)
        assert data.labels.tolist() == CLASSES.tolist()


def test_cifar_records_become_planes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
        records = rng.integers(0, 256, (3, 3073), np.uint8)
        records[:, 0] = [0, 9, 5]
        (tmp_path / name).write_bytes(records.tobytes())
    assert load_dataset(tmp_path, "train").inputs.shape == (15, 3, 32, 32)
    test = load_dataset(tmp_path, "test")
    np.testing.assert_allclose(test.inputs[2].ravel(), records[2, 1:] / 255, atol=1e-7)
    assert test.labels.tolist() == [0, 9, 5]


def test_npz_keeps_floats_and_scales_bytes(tmp_path: Path) -> None:
    floats = np.array([[0.5, -2.0], [1.5, 3.0]])
    np.savez(tmp_path / "train.npz", inputs=floats, labels=[1, 0])
    np.savez_compressed(tmp_path / "test.npz", inputs=PIXELS, labels=CLASSES)
    assert load_dataset(tmp_path, "train").inputs.tolist() == floats.tolist()
    assert load_dataset(tmp_path, "test").inputs.max() == 1


def test_samples_take_the_shape_of_the_model_or_are_refused() -> None:
    data = Dataset(np.zeros((2, 28, 28), np.float32), np.zeros(2, np.int64))
    assert data.shaped((784,)).inputs.shape == (2, 784)
    with pytest.raises(DataError, match=r"784 values.*100 values"):
        data.shaped((100,))


@pytest.mark.parametrize(
    ("have", "want", "remedy"),
    [
        ((4, 4, 3), (3, 4, 4), r"inputs\.transpose\(0, 3, 1, 2\)"),
        ((3, 4, 4), (4, 4, 3), r"inputs\.transpose\(0, 2, 3, 1\)"),
        ((20, 28), (28, 20), r"inputs\.transpose\(0, 2, 1\)"),
        ((1, 20, 28), (28, 20), "transpose each sample's axes"),
        ((40, 2, 3), (40, 3, 2), r"inputs\.transpose\(0, 1, 3, 2\)"),
        ((4, 3, 3), (3, 4, 3), r"inputs\.transpose\(0, 3, 1, 2\)"),
        ((4, 12), (3, 4, 4), "in the model's shape"),
        ((2, 3, 4), (4, 3, 2), r"inputs\.transpose\(0, 3, 2, 1\)"),
    ],
)
def test_samples_of_another_layout_are_refused_with_the_remedy(have: tuple, want: tuple, remedy: str) -> None:
    inputs = np.arange(2 * np.prod(have), dtype=np.float32).reshape(2, *have)
    with pytest.raises(DataError, match=remedy) as refused:
        Dataset(inputs, np.zeros(2, np.int64)).shaped(want)
    if "inputs.transpose" in str(refused.value):
        axes = str(refused.value).rpartition("transpose(")[2].rstrip(")")
        assert inputs.transpose(*map(int, axes.split(","))).shape[1:] == want


@pytest.mark.parametrize(
    ("have", "want"),
    [
        ((48,), (3, 4, 4)),
        ((3, 4, 4), (48,)),
        ((1, 28, 28), (28, 28)),
        ((48, 1, 1), (3, 4, 4)),
        ((5, 1, 4), (1, 5, 4)),
    ],
)
def test_flat_samples_and_axes_of_size_1_fit_in_the_order_of_their_values(have: tuple, want: tuple) -> None:
    inputs = np.arange(2 * np.prod(have), dtype=np.float32).reshape(2, *have)
    fitted = Dataset(inputs, np.zeros(2, np.int64)).shaped(want).inputs
    assert fitted.shape == (2, *want)
    assert fitted.ravel().tolist() == inputs.ravel().tolist()


NUMBERS, SHARES = TargetSpec("float32", (2,)), TargetSpec("float32", (2,), 0.0, 1.0)


def test_labels_are_targets_as_the_loss_takes_them() -> None:
    numbers = np.array([[1.0, -2.0]], np.float32)
    assert as_targets(numbers, NUMBERS, 2).tolist() == [[1.0, -2.0]]
    single = as_targets(np.array([3, 4]), TargetSpec("float32", (1,)), 1)
    assert single.dtype == np.float32
    assert single.tolist() == [[3.0], [4.0]]
    with pytest.raises(DataError, match=r"mine has numbers .*give integers"):
        as_targets(numbers, TargetSpec(), 2, "mine")
    with pytest.raises(DataError, match=r"save labels.astype\(int\)"):
        as_targets(np.array([1.0, 0.0], np.float32), TargetSpec(), 2)
    with pytest.raises(DataError, match=r"takes one class; save labels of shape \[N\]"):
        as_targets(np.array([[1], [0]]), TargetSpec(), 2)
    with pytest.raises(DataError, match=r"targets of shape \(2,\), and the loss compares \(3,\)"):
        as_targets(numbers, TargetSpec("float32", (3,)), 3)
    with pytest.raises(DataError, match="targets from -2 to 1, and the loss takes 0 to 1"):
        as_targets(numbers, SHARES, 2)


def test_bytes_and_numbers_beyond_1_are_not_one_data_set(tmp_path: Path) -> None:
    def saved(inputs: np.ndarray) -> Dataset:
        np.savez(tmp_path / "samples.npz", inputs=inputs, labels=[0, 1])
        return load_npz(tmp_path / "samples.npz")

    pixels = np.array([[0, 255], [7, 9]])
    scaled, raw = saved(pixels.astype(np.uint8)), saved(pixels)
    for one, other in ((scaled, raw), (raw, scaled.shaped((2,)).subset(np.array([0])))):
        with pytest.raises(DataError, match=r"not in one unit: .*bytes, .*; save both as uint8"):
            check_units(one, other, "one", "other")
    check_units(scaled, saved(pixels / 255), "one", "other")
    check_units(raw, raw, "one", "other")


BRIGHT = np.random.default_rng(0).random((50, 8)).astype(np.float32)


@pytest.mark.parametrize(
    ("other", "fits"),
    [
        (BRIGHT * 255, False),
        (BRIGHT * 9.81, False),
        ((BRIGHT - 0.5) / 0.3, False),
        (BRIGHT * 3 + 1, True),
        (np.where(BRIGHT > 0.999, 1e6, BRIGHT), True),
        (np.zeros_like(BRIGHT), True),
    ],
    ids=["levels", "another unit of force", "normalised", "another light", "one outlier", "dark"],
)
def test_numbers_in_another_unit_are_not_one_data_set(other: np.ndarray, fits: bool) -> None:
    one, two = Dataset(BRIGHT, np.zeros(50, np.int64)), Dataset(other, np.zeros(50, np.int64))
    for pair in ((one, two), (two, one)):
        if fits:
            check_units(*pair, "one", "other")
            continue
        with pytest.raises(DataError, match=r"^one and other are not in one unit"):
            check_units(*pair, "one", "other")
    few = np.arange(2)  # too little to tell
    check_units(one.subset(few), two.subset(few), "one", "other")
    if not fits and float(np.abs(other).max()) < 64:  # as another device's may be
        check_units(one, two, "one", "other", alike=False)
    assert Unit.from_json(Unit.of(two).to_json()) == Unit.of(two)


def test_levels_and_shares_are_told_apart_by_few_values() -> None:
    labels = np.zeros(5, np.int64)
    shares = Dataset(BRIGHT[:5], labels)
    check_units(shares, Dataset(20 * BRIGHT[:5], labels), "one", "other")
    with pytest.raises(DataError, match="not in one unit"):
        check_units(shares, Dataset(255 * BRIGHT[:5], labels), "one", "other")


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"inputs": [[1.0]]}, "no array labels"),
        ({"inputs": [[np.nan]], "labels": [0]}, "not finite"),
        ({"inputs": [[1e300]], "labels": [0]}, "not finite"),
        ({"inputs": [[1.0]], "labels": [-1]}, "classes from 0"),
        ({"inputs": [[1.0]], "labels": ["a"]}, "integers"),
        ({"inputs": [[1.0]], "labels": [np.nan]}, "labels are empty, or not finite"),
        ({"inputs": [[1.0]], "labels": [0, 1]}, "1 inputs and 2 labels"),
        ({"inputs": np.zeros((0, 2)), "labels": np.zeros(0, np.int64)}, "0 inputs"),
        ({"inputs": [["a"]], "labels": [0]}, "expected numbers"),
        ({"inputs": np.array([[{}]], object), "labels": [0]}, "cannot be read"),
    ],
)
def test_an_npz_that_is_no_data_set_is_refused_with_the_reason(
    tmp_path: Path, arrays: dict, reason: str
) -> None:
    np.savez(tmp_path / "train.npz", **arrays)
    with pytest.raises(DataError, match=reason):
        load_dataset(tmp_path)


@pytest.mark.parametrize("head", [b"\x01\x00\xff\xff\x00\x00", b"\x02\x00\xff\xff\xff\x77"])
def test_a_header_that_is_a_bomb_is_not_read(tmp_path: Path, head: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inputs.npy", b"\x93NUMPY" + head + bytes(1 << 20))
    with pytest.raises(DataError, match=r"has a header of|cannot be read"):
        load_npz(tmp_path / "bomb.npz")


def test_a_file_cannot_make_the_reader_take_more_memory_than_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "MAX_BYTES", 1_000_000)
    np.savez_compressed(tmp_path / "bomb.npz", inputs=np.zeros((1000, 1000)), labels=np.zeros(1000, np.int64))
    with pytest.raises(DataError, match="limit is 1000000"):
        load_npz(tmp_path / "bomb.npz")
    (tmp_path / "train-images-idx3-ubyte").write_bytes(struct.pack(">HBBIII", 0, 8, 3, 60000, 60000, 60000))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(CLASSES))
    with pytest.raises(DataError, match="claims"):
        load_dataset(tmp_path)


def test_a_missing_half_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no train data"):
        load_dataset(tmp_path)
    with pytest.raises(DataError, match="not a folder"):
        load_dataset(tmp_path / "nothing")
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(PIXELS))
    with pytest.raises(DataError, match="train-labels"):
        load_dataset(tmp_path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["gz", "plain", "npz"]), cut=st.floats(0, 1), flip=st.integers(0, 255))
def test_damage_is_refused_never_a_crash(tmp_path: Path, name: str, cut: float, flip: int) -> None:
    """Truncated or altered files give DataError or a data set, no other exception."""
    for old in tmp_path.iterdir():
        old.unlink()
    if name == "npz":
        np.savez(tmp_path / "train.npz", inputs=PIXELS, labels=CLASSES)
        target = tmp_path / "train.npz"
    else:
        write_mnist(tmp_path, name == "gz")
        target = next(tmp_path.glob("train-images*"))
    data = bytearray(target.read_bytes())
    data[int(cut * (len(data) - 1))] ^= flip
    target.write_bytes(bytes(data[: max(1, int(cut * len(data)) + flip)]))
    with suppress(DataError):
        assert len(load_dataset(tmp_path)) == 5
