"""Every way to lay samples on devices uses each sample at most once, and is as skewed as it says."""

from pathlib import Path

import numpy as np
import pytest
from crowdlearn_host.common.toml_files import parse_config
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.simulation.partition import load_device_files, partition
from crowdlearn_host.spec.simulation import PartitionConfig
from hypothesis import given
from hypothesis import strategies as st

LABELS = np.random.default_rng(0).integers(0, 10, 3000)


def config(**values: object) -> PartitionConfig:
    return parse_config(values, PartitionConfig, "test")


kinds = st.one_of(
    st.just(config(kind="iid")),
    st.builds(lambda alpha: config(kind="dirichlet", alpha=alpha), st.floats(0.01, 100)),
    st.builds(lambda shards: config(kind="shards", shards=shards), st.integers(1, 5)),
)


@given(kinds, st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_samples_lie_on_one_device_each_in_equal_parts(
    kind: PartitionConfig, devices: int, seed: int
) -> None:
    parts = partition(LABELS, devices, kind, seed)
    assert len(parts) == devices
    together = np.concatenate(parts)
    assert len(np.unique(together)) == len(together) > len(LABELS) - devices
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= kind.shards
    again = partition(LABELS, devices, kind, seed)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


def classes_seen(kind: PartitionConfig) -> float:
    return float(np.mean([len(np.unique(LABELS[part])) for part in partition(LABELS, 30, kind, 1)]))


def test_a_small_alpha_and_few_shards_leave_few_classes_on_a_device() -> None:
    assert classes_seen(config(kind="dirichlet", alpha=0.05)) < classes_seen(
        config(kind="dirichlet", alpha=1)
    )
    assert classes_seen(config(kind="dirichlet", alpha=1)) < classes_seen(config(kind="iid"))
    assert classes_seen(config(kind="shards", shards=1)) <= 2
    assert classes_seen(config(kind="shards", shards=2)) <= 4


def test_too_few_samples_are_told() -> None:
    with pytest.raises(ConfigError, match="3000 samples for 1501 devices"):
        partition(LABELS, 1501, config(), 0)
    with pytest.raises(
        ConfigError, match=r"device \d+ has [01] of 60 samples .*partition.shards less than 5"
    ):
        partition(LABELS[:60], 25, config(kind="shards", shards=5), 0)


def test_a_file_a_device_is_taken_as_it_lies(tmp_path: Path) -> None:
    for device in range(3):
        inputs = np.full((device + 2, 4), device, np.float32)
        np.savez(tmp_path / f"device-{device:03}.npz", inputs=inputs, labels=np.full(device + 2, device))
    data, devices = load_device_files(tmp_path, 3)
    assert [len(own) for own in devices] == [2, 3, 4]
    for device, own in enumerate(devices):
        assert set(data.labels[own]) == {device}
        assert (data.inputs[own] == device).all()
    with pytest.raises(ConfigError, match=r"3 files .* for 4 devices"):
        load_device_files(tmp_path, 4)
    np.savez(tmp_path / "device-002.npz", inputs=np.zeros((1, 4), np.float32), labels=[0])
    with pytest.raises(ConfigError, match=r"device-002.npz holds 1 sample; give the device 2"):
        load_device_files(tmp_path, 3)
