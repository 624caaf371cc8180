"""Phones as processes: they start, are listed, die, and leave nothing behind."""

import fcntl
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from crowdlearn_host import emulator as phones
from crowdlearn_host.adb import AdbDevice, RuntimeDeployment
from crowdlearn_host.emulator.launch import readable
from crowdlearn_host.errors import FleetError

from tests.host.conftest import STAND_IN


def wait_gone(pid: int) -> None:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    assert select.select([handle], [], [], 60)[0], f"process {pid} is still there"
    os.close(handle)


def test_a_phone_is_waited_for_however_many_files_are_open() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2048:
        pytest.skip(f"this user may open {hard} files, and 2048 are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    reading, writing = os.pipe()
    high = fcntl.fcntl(reading, fcntl.F_DUPFD, 1500)
    try:
        assert not readable(high, 0)
        os.write(writing, b"ready")
        assert readable(high, 60)
        assert os.read(high, 16) == b"ready"
    finally:
        os.close(writing)
        assert readable(high, 60), "its end counts, too"
        os.close(reading)
        os.close(high)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_phones_are_started_listed_and_removed(tmp_path: Path) -> None:
    started = phones.up(3, home=tmp_path)
    assert [info.name for info in started] == ["phone-0", "phone-1", "phone-2"]
    assert phones.list_phones(tmp_path) == started
    assert phones.down(tmp_path, ["phone-1"]) == ["phone-1"]
    (again,) = phones.up(1, home=tmp_path)
    assert again.name == "phone-1"
    assert phones.down(tmp_path) == ["phone-0", "phone-1", "phone-2"]
    assert phones.list_phones(tmp_path) == []
    assert list((tmp_path / "phones").iterdir()) == []


def test_a_killed_phone_keeps_its_files_until_it_is_removed(tmp_path: Path) -> None:
    with phones.running(1, tmp_path) as (info,):
        phones.kill(info.name, tmp_path)
        assert phones.list_phones(tmp_path) == []
        with pytest.raises(FleetError, match="no phone 'phone-0' is running"):
            phones.kill(info.name, tmp_path)
        assert (tmp_path / "phones/phone-0/root").is_dir()


def test_a_port_that_is_taken_is_told_and_no_phone_stays(tmp_path: Path) -> None:
    with phones.running(1, tmp_path) as (info,):
        port = int(info.serial.rpartition(":")[2])
        with pytest.raises(FleetError, match="Address already in use"):
            phones.up(2, home=tmp_path, ports=[0, port])
        assert phones.list_phones(tmp_path) == [info]


def test_a_name_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="there is no phone 'ghost', 'wraith'; there are"):
        phones.down(tmp_path, ["ghost", "wraith"])


async def started_runtime(info: phones.PhoneInfo, key: Path) -> int:
    async with await AdbDevice.connect(info.serial, key=key) as device:
        await RuntimeDeployment(device).start()
        return int((await device.shell("pidof crowdlearn-device")).check("pidof"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_runtime_outlives_the_connection_and_dies_with_its_phone(
    tmp_path: Path, key: Path, number: signal.Signals
) -> None:
    with phones.running(1, tmp_path, programs=STAND_IN, preload=()) as (info,):
        runtime = await started_runtime(info, key)
        async with await AdbDevice.connect(info.serial, key=key) as device:
            assert int((await device.shell("pidof crowdlearn-device")).stdout) == runtime
        os.kill(info.pid, number)
        wait_gone(runtime)


async def test_a_phone_whose_folder_was_deleted_ends(tmp_path: Path, key: Path) -> None:
    (info,) = phones.up(1, home=tmp_path, programs=STAND_IN, preload=())
    runtime = await started_runtime(info, key)
    shutil.rmtree(tmp_path / "phones/phone-0")
    wait_gone(info.pid)
    wait_gone(runtime)


def zygote_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def test_a_phone_survives_the_zygote_and_gets_another(tmp_path: Path, key: Path) -> None:
    with phones.running(1, tmp_path, programs=STAND_IN, preload=()) as (info,):
        runtime = await started_runtime(info, key)
        os.kill(zygote_of(runtime), signal.SIGKILL)
        assert await started_runtime(info, key) != runtime
        wait_gone(runtime)


async def test_a_phone_and_its_programs_schedule_as_batch_when_they_wake_up(
    tmp_path: Path, key: Path
) -> None:
    with phones.running(1, tmp_path, programs=STAND_IN, preload=()) as (info,):
        pids = info.pid, await started_runtime(info, key)
        assert [os.sched_getscheduler(pid) for pid in pids] == [os.SCHED_BATCH] * 2


async def test_the_zygote_serves_all_phones_and_leaves_with_the_last(tmp_path: Path, key: Path) -> None:
    with phones.running(2, tmp_path, programs=STAND_IN, preload=()) as (first, second):
        zygotes = {zygote_of(await started_runtime(info, key)) for info in (first, second)}
        assert len(zygotes) == 1
        phones.kill(first.name, tmp_path)
        await started_runtime(second, key)
        phones.kill(second.name, tmp_path)
        wait_gone(zygotes.pop())


def test_phones_die_with_a_caller_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from crowdlearn_host import emulator as phones\n"
        "with phones.running(2, Path(sys.argv[1])) as infos:\n"
        "    print(*[info.pid for info in infos], flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as caller:
        assert caller.stdout
        pids = [int(pid) for pid in caller.stdout.readline().split()]
        caller.kill()
    for pid in pids:
        wait_gone(pid)
    assert len(pids) == 2


def test_phones_outlive_the_thread_that_started_them(tmp_path: Path) -> None:
    with ExitStack() as stack:
        started = phones.running(1, tmp_path, programs=STAND_IN, preload=())
        with ThreadPoolExecutor(1) as pool:
            (info,) = pool.submit(stack.enter_context, started).result()
        handle = os.pidfd_open(info.pid)
        stack.callback(os.close, handle)
        assert not select.select([handle], [], [], 1)[0]
        assert phones.list_phones(tmp_path) == [info]


def test_phones_that_are_kept_survive_a_start_that_was_killed_half_way(tmp_path: Path) -> None:
    with phones.kept(1, tmp_path):
        (tmp_path / "phones/phone-0/held").touch()
    (tmp_path / "phones/phone-1").mkdir()
    with phones.kept(2, tmp_path) as infos:
        assert [info.name for info in infos] == ["phone-0", "phone-1"]
        assert (tmp_path / "phones/phone-0/held").exists()


def test_a_process_that_has_the_number_of_a_phone_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        folder = tmp_path / "phones/phone-0"
        folder.mkdir(parents=True)
        phones.PhoneInfo("phone-0", "127.0.0.1:1", stranger.pid, 1, "pixel-8", "none", ()).save(folder)
        phones.power_off(tmp_path, ["phone-0"])
        assert phones.down(tmp_path) == ["phone-0"]
        assert stranger.poll() is None
        stranger.kill()
