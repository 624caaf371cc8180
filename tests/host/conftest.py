"""A virtual phone for a module of tests, with a stand-in for the device runtime."""

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from crowdlearn_host import emulator as phones
from crowdlearn_host.adb import AdbDevice
from crowdlearn_host.adb.carriers.keys import default_key_path, load_signer

STAND_IN = {"crowdlearn-device": "tests.host.emulator.stand_in:main"}


@pytest.fixture(scope="session", autouse=True)
def _phones_find_the_stand_in() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        root = str(Path(__file__).parents[2])
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])))
        yield


@pytest.fixture(scope="session")
def key(_own_home: None) -> Path:
    """The key of this session's user, whom phones trust that it starts."""
    path = default_key_path()
    load_signer(path)
    return path


@pytest.fixture(scope="module")
def phone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[phones.PhoneInfo]:
    with phones.running(1, tmp_path_factory.mktemp("home"), programs=STAND_IN, preload=()) as (info,):
        yield info


@pytest.fixture
async def device(phone: phones.PhoneInfo, key: Path) -> AsyncIterator[AdbDevice]:
    async with await AdbDevice.connect(phone.serial, key=key) as connected:
        yield connected


@pytest.fixture(scope="module")
def cluster_files() -> Iterator[Path]:
    """The folder in which only the nodes of `cluster` have temporary files; sockets want it short."""
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def cluster(cluster_files: Path) -> Iterator[object]:
    """A Ray cluster of two nodes, which this program has joined."""
    ray = pytest.importorskip("ray", reason="ray is not installed (crowdlearn[ray])")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(cluster_files))
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        nodes.add_node(num_cpus=1)
    ray.init(address=nodes.address, log_to_driver=False)
    yield nodes
    ray.shutdown()
    nodes.shutdown()
