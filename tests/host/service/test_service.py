"""A service trains runs of its queue on devices that dial it, and goes on where it was when it is killed."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from urllib.error import HTTPError

import numpy as np
import psutil
import pytest
from crowdlearn_device.errors import CrowdlearnError
from crowdlearn_device.platform.battery import DeviceState
from crowdlearn_device.program.executor import chosen
from crowdlearn_device.transport.join import join_host
from crowdlearn_host.cli import build
from crowdlearn_host.common.files import locked
from crowdlearn_host.devices.joining.certificate import certificate
from crowdlearn_host.devices.joining.enrolment import Enrolment
from crowdlearn_host.errors import ConfigError, FleetError, RunError
from crowdlearn_host.runs.data import load_split
from crowdlearn_host.service.description import check_served, named
from crowdlearn_host.service.jobs import Job, Jobs
from crowdlearn_host.service.process import RunProcess
from crowdlearn_host.service.service import MOST_TRIES, Service
from crowdlearn_host.service.status import shown
from crowdlearn_host.service.worker import HELD_UP, planned_for
from crowdlearn_host.spec.run_spec import RunSpec
from typer.testing import CliRunner

SERVE = "from crowdlearn_host.cli import main; main()"
SECONDS = 900
"""On a computer that has much else to do."""
RUN = {
    "name": "crowd",
    "model": "mlp:64-16-10",
    "data": "digits",
    "device_data": "there",
    "group": {"pieces": 2},
    "training": {"epochs": 3, "batch": 8, "kernels": "by_size", "snapshot_every": 20},
    "crowd": {"wait": 0},
}


def description(**changed) -> RunSpec:
    return RunSpec.parse({**RUN, **changed}, "the test")


def give_data(folder: Path, first: int, count: int = 200) -> Path:
    digits = load_split("digits", "train")
    folder.mkdir()
    part = slice(first, first + count)
    np.savez(folder / "train.npz", inputs=digits.inputs[part], labels=digits.labels[part])
    return folder


class Served:
    """`crowdlearn serve` in a process of its own."""

    def __init__(self, folder: Path, home: Path, port: int) -> None:
        words = ["serve", str(folder), "--listen", f"127.0.0.1:{port}"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, *words],
            env={**os.environ, "CROWDLEARN_HOME": str(home), "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port, self.page = 0, ""
        for line in self.process.stdout:
            if "devices arrive" in line:
                self.port = int(line.rpartition(":")[2])
            if "page and metrics" in line:
                self.page = line.partition(": ")[2].strip()
            if "add runs" in line:
                return

    def status(self):
        with urllib.request.urlopen(self.page + "status.json", timeout=30) as answer:
            return json.load(answer)

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        self.process.stdout.close()
        return self.process.wait(60)


def relays_of(served: Served) -> list[psutil.Process]:
    """The relay processes of a service's runs."""
    below = psutil.Process(served.process.pid).children(recursive=True)
    return [each for each in below if "crowdlearn_host.devices.relays.process" in each.cmdline()]


async def test_a_run_is_trained_by_devices_that_dial_in_also_if_its_relay_or_the_service_is_killed(
    tmp_path, home, monkeypatch
):
    """Devices are sent from the service to the run, and from there to the relay of their group."""
    monkeypatch.setattr("crowdlearn_device.transport.join.LAST_RETRY", 1.0)
    await asyncio.to_thread(chosen)  # imports what programs run on
    folder = tmp_path / "service"
    spec, jobs = description(fleet={"relays": 2}), Jobs(folder)
    check_served(spec)
    job = jobs.submit(spec.name, spec.to_toml())
    served = await asyncio.to_thread(Served, folder, home, 0)
    port, stopping = served.port, asyncio.Event()
    enrolment, (_, pin) = Enrolment(home), certificate(home)
    devices = [
        asyncio.create_task(
            join_host(
                tmp_path / name,
                give_data(tmp_path / f"{name}-data", 200 * k),
                name,
                f"wss://127.0.0.1:{port}",
                enrolment.enrol(name),
                pin,
                stopping,
            )
        )
        for k, name in enumerate(("phone-1", "phone-2", "phone-3"))
    ]
    try:
        async with asyncio.timeout(SECONDS):
            while not (told := (await asyncio.to_thread(served.status))["runs"][0]).get("mini_batches"):
                assert told["state"] in ("waiting", "running"), told
                await asyncio.sleep(0.2)
            while len(jobs.members(job.id)) < 3:  # two pieces, and a spare, which may come later
                await asyncio.sleep(0.2)
            (relay,) = relays_of(served)  # there is one group
            relay.kill()
            run = folder / "runs" / job.label
            while '"relay_ended"' not in (run / "events.jsonl").read_text():
                await asyncio.sleep(0.2)
            before = len((run / "metrics.jsonl").read_text())
            while len((run / "metrics.jsonl").read_text()) <= before:  # it goes on with another relay
                await asyncio.sleep(0.2)
            served.end(signal.SIGKILL)
            assert jobs.job(job.id).state == "running"
            served = await asyncio.to_thread(Served, folder, home, port)
            while jobs.job(job.id).state == "running":
                await asyncio.sleep(0.2)
            ended = jobs.job(job.id)
            assert (ended.state, ended.outcome[:13]) == ("done", "test accuracy"), ended.outcome
            while (await asyncio.to_thread(served.status))["devices_waiting"] < 3:  # for what comes next
                await asyncio.sleep(0.2)
        told = [json.loads(line) for line in (run / "metrics.jsonl").open()]
        assert {line["epoch"] for line in told if "epoch" in line} == {0, 1, 2}
        boundaries = {line["boundary"] for line in told if "boundary" in line}
        assert boundaries == set(range(1, max(boundaries) + 1))  # none was lost
        assert "relay_ended" in (folder / "service.log").read_text()
        with urllib.request.urlopen(served.page + "metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        assert 'crowdlearn_runs{state="done"} 1' in lines
        assert "crowdlearn_devices_waiting 3" in lines
    finally:
        stopping.set()
        served.end(signal.SIGTERM)
        await asyncio.wait(devices, timeout=30)
    assert served.process.returncode == 0


ENDED = """echo '{"event": "ended", "accuracy": 0.5, "loss": null}'"""


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """Has the processes of runs be a script: what they do is the test's."""

    def does(script: str) -> None:
        path = tmp_path / "worker"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o700)
        monkeypatch.setattr("crowdlearn_host.service.process.sys.executable", str(path))

    return does


def begun(service: Service) -> Job:
    """A run under way, as a service finds it that was started again."""
    job = service.jobs.submit("crowd", description().to_toml())
    service.jobs.begin(job, 1, [], 0, job.description)
    return job


async def until_ended(service: Service, job: Job) -> Job:
    async with asyncio.timeout(SECONDS):
        while (found := service.jobs.job(job.id)).state == "running":
            await asyncio.sleep(0.05)
    return found


async def test_a_run_that_writes_a_line_without_an_end_goes_on(tmp_path, home, worker):
    service = Service(tmp_path, home)
    job = begun(service)
    worker(f"head -c 3000000 /dev/zero >&2; head -c 3000000 /dev/zero; echo; {ENDED}")
    async with service.open("127.0.0.1:0"):
        assert (await until_ended(service, job)).outcome == "test accuracy 0.5000"
    assert service.jobs.job(job.id).tries == 0


async def test_a_service_closes_also_as_it_hears_of_something(tmp_path, home):
    """Python 3.11 forgot that it was to end: what it waited for came at the same moment."""
    service = Service(tmp_path, home)
    async with asyncio.timeout(SECONDS), service.open("127.0.0.1:0"):
        await asyncio.sleep(0.1)  # it waits for changes
        service._changed.set()


async def test_a_folder_has_one_service_at_a_time(tmp_path, home):
    async with asyncio.timeout(SECONDS), Service(tmp_path, home).open("127.0.0.1:0"):
        with pytest.raises(RunError, match="in use by another process"):
            async with Service(tmp_path, home).open("127.0.0.1:0"):
                raise AssertionError
    async with asyncio.timeout(SECONDS), Service(tmp_path, home).open("127.0.0.1:0"):
        pass


async def test_a_run_whose_news_cannot_be_written_down_is_started_again(tmp_path, home, worker, monkeypatch):
    monkeypatch.setattr("crowdlearn_host.service.service.FIRST_PAUSE", 0.01)
    service = Service(tmp_path, home)
    job, fails = begun(service), [RunError("the disk is full"), TypeError("a mistake")]

    def let_go(job: int, device: str) -> None:
        if fails:
            raise fails.pop()

    monkeypatch.setattr(service.jobs, "let_go", let_go)
    worker(f"""echo '{{"event": "let_go", "device": "phone-1"}}'; {ENDED}""")
    async with service.open("127.0.0.1:0"):
        assert (await until_ended(service, job)).state == "done"
    assert not fails


async def test_a_service_goes_on_after_a_file_that_it_could_not_write(tmp_path, home, worker, caplog):
    service = Service(tmp_path, home)
    worker(ENDED)
    (tmp_path / "descriptions").write_text("no folder")
    async with service.open("127.0.0.1:0"):
        job = begun(service)
        async with asyncio.timeout(SECONDS):
            while "descriptions" not in caplog.text:
                await asyncio.sleep(0.05)
        (tmp_path / "descriptions").unlink()
        assert (await until_ended(service, job)).state == "done"


async def test_a_run_that_cannot_be_read_any_more_fails_and_those_behind_it_go_on(tmp_path, home, worker):
    """Another version may know other settings, and a fleet's file may be gone."""
    service = Service(tmp_path, home)
    worker(ENDED)
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(FLEET)
    older = description().to_toml().replace("epochs = 3", "epoch = 3")
    bad = [service.jobs.submit("bad", text, priority=1) for text in ("no = [toml", older)]
    lost = service.jobs.submit("lost", description(crowd={"fleet": str(fleet)}).to_toml())
    under_way = service.jobs.submit("under way", description(crowd={"fleet": str(fleet)}).to_toml())
    service.jobs.begin(under_way, 1, [], 2, under_way.description)
    fleet.unlink()
    service.running[under_way.id] = process = RunProcess(
        service.jobs.job(under_way.id), tmp_path, tmp_path, print
    )
    process.port = 9
    service._send_members()
    del service.running[under_way.id]
    async with service.open("127.0.0.1:0"):
        behind = begun(service)
        assert (await until_ended(service, behind)).state == "done"
        async with asyncio.timeout(SECONDS):
            while service.jobs.all("waiting", "running"):
                await asyncio.sleep(0.05)
    told = [service.jobs.job(job.id).outcome for job in (*bad, lost)]
    assert "is no TOML" in told[0]
    assert "epoch" in told[1]
    assert str(fleet) in told[2]
    assert service.jobs.job(under_way.id).state == "done"


async def test_a_process_that_ends_as_if_it_was_asked_to_is_not_started_for_ever(
    tmp_path, home, worker, monkeypatch
):
    monkeypatch.setattr("crowdlearn_host.service.service.FIRST_PAUSE", 0.01)
    service = Service(tmp_path, home)
    job = begun(service)
    worker("exit 3")
    async with service.open("127.0.0.1:0"):
        ended = await until_ended(service, job)
    assert (ended.state, ended.outcome) == ("failed", "its process ended with exit code 3")


async def test_a_run_whose_disk_is_full_goes_on_once_there_is_room(
    tmp_path, home, worker, monkeypatch, caplog
):
    """It had failed for good, as its queue could still be written."""
    monkeypatch.setattr("crowdlearn_host.service.service.HELD_UP_SECONDS", 0.01)
    service = Service(tmp_path, home)
    job, room = begun(service), tmp_path / "room"
    worker(f"""[ -e {room} ] && {{ {ENDED}; exit 0; }}
        echo '{{"event": "failed", "reason": "run.db cannot be used: the disk is full"}}'; exit {HELD_UP}""")
    async with asyncio.timeout(SECONDS), service.open("127.0.0.1:0"):
        while caplog.text.count("held up: run.db cannot be used: the disk is full") < MOST_TRIES + 1:
            await asyncio.sleep(0.05)
        room.touch()
        assert (await until_ended(service, job)).state == "done"
    assert service.jobs.job(job.id).tries == 0


@pytest.mark.parametrize("why", ["metrics.jsonl cannot be used", "is in use by another process"])
def test_the_process_of_a_run_that_is_held_up_says_that_it_can_go_on(tmp_path, home, why):
    (tmp_path / "run.toml").write_text(description(fleet={"listen": "127.0.0.1:0", "joining": 2}).to_toml())
    (tmp_path / "run").mkdir()
    if "in use" in why:  # as by a process of a service that was killed, which takes its time to end
        lock = locked(tmp_path / "run")
    else:
        (tmp_path / "run" / "metrics.jsonl").mkdir()  # a file that cannot be opened
    words = ["-m", "crowdlearn_host.service.worker", "run.toml", "run", str(os.getpid())]
    ended = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == HELD_UP, ended.stderr
    assert why in json.loads(ended.stdout.splitlines()[-1])["reason"]
    if "in use" in why:
        lock.close()


def test_a_device_that_was_chosen_later_than_now_waits_like_one_that_just_was(tmp_path):
    """As after a clock that was ahead was set right."""
    service = Service(tmp_path, tmp_path)
    job = service.jobs.submit("crowd", "")
    service.jobs.begin(job, 1, ["phone-1"], 1, "")
    with sqlite3.connect(service.jobs.path) as db:
        db.execute("update devices set chosen = chosen + 1e9")
    visitor = SimpleNamespace(name="phone-1", samples=8, state=DeviceState(), since=time.monotonic())
    (candidate,) = service._candidates([visitor])
    assert (candidate.rested, candidate.runs) == (0, 1)


@pytest.mark.parametrize("running", [False, True])
async def test_a_service_that_stops_starts_no_run_again_and_counts_no_try(
    tmp_path, home, worker, monkeypatch, running
):
    """Also not one that it has to kill, or whose process is only being made."""
    monkeypatch.setattr("crowdlearn_host.service.process.STOP_SECONDS", 0.1)
    service = Service(tmp_path, home)
    job = begun(service)
    worker("""trap '' TERM; echo '{"event": "listening", "port": 9}'; while :; do sleep 0.1; done""")
    async with asyncio.timeout(SECONDS), service.open("127.0.0.1:0"):
        while running and not service.running[job.id].port:
            await asyncio.sleep(0.05)
    assert not service.running
    assert (service.jobs.job(job.id).state, service.jobs.job(job.id).tries) == ("running", 0)


async def test_the_page_shows_runs_and_is_for_this_computer_alone(tmp_path):
    service = Service(tmp_path, tmp_path)
    service.jobs.submit("<script>", "")
    async with shown(service) as page:

        def ask(path: str, **headers: str) -> str:
            request = urllib.request.Request(page + path, headers=headers)
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.read().decode()

        shown_page = await asyncio.to_thread(ask, "")
        assert "&lt;script&gt;-1" in shown_page
        assert "<script>" not in shown_page
        assert 'crowdlearn_runs{state="waiting"} 1' in await asyncio.to_thread(ask, "metrics")
        for path, headers, code in (("nothing", {}, 404), ("", {"Host": "elsewhere.example"}, 403)):
            with pytest.raises(HTTPError) as refused:
                await asyncio.to_thread(ask, path, **headers)
            assert refused.value.code == code


FLEET = """
[[class]]
name = "strong"
devices = ["phone-1", "phone-2", "phone-3"]
samples = 100
macs_per_second = 1e9

[[class]]
name = "weak"
devices = ["phone-4", "phone-5"]
samples = 100
macs_per_second = 1e8
max_macs = 2500
"""


def test_a_run_is_planned_for_the_devices_that_were_chosen_by_their_classes(tmp_path, monkeypatch):
    monkeypatch.setattr("crowdlearn_host.service.worker.PLANNING_SECONDS", 2.0)
    (tmp_path / "fleet.toml").write_text(FLEET)
    spec = description(crowd={"fleet": str(tmp_path / "fleet.toml")})
    check_served(spec)
    assert named(spec) == {f"phone-{k}" for k in range(1, 6)}
    written = tmp_path / "crowd-1.toml"
    written.with_suffix(".devices").write_text(json.dumps(["phone-1", "phone-2", "phone-5"]))
    plan = json.loads(planned_for(spec, written).group.plan.read_text())
    seated = [device for group in plan["groups"] for device in group["devices"]]
    assert sorted(seated) == ["phone-1", "phone-2", "phone-5"]
    assert description(group={"plan": str(tmp_path / "crowd-1.plan.json")}).group.plan.is_file()


def test_a_fleet_that_only_counts_its_devices_is_refused(tmp_path):
    (tmp_path / "fleet.toml").write_text(FLEET.replace('devices = ["phone-4", "phone-5"]', "count = 2"))
    with pytest.raises(FleetError, match="must name the devices of each class"):
        check_served(description(crowd={"fleet": str(tmp_path / "fleet.toml")}))


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"fleet": {"virtual": 3}}, "fleet.virtual: a service gives runs the devices"),
        ({"fleet": {"listen": "127.0.0.1:0", "joining": 3}}, "fleet.listen"),
        ({"fleet": {"relay_engine": "ray"}}, "needs relays"),
        ({"group": {"plan": "plan.json"}}, "name a fleet by class as crowd.fleet"),
        ({"data": "/nowhere"}, "is not a folder"),
    ],
)
def test_what_a_service_cannot_train_is_refused_when_it_is_submitted(changed, why):
    with pytest.raises(ConfigError, match=why):
        check_served(description(**changed))


def test_a_service_that_is_not_there_is_told_and_not_made(tmp_path):
    for words in (["--list"], ["--cancel", "1"]):
        refused = CliRunner().invoke(build(["submit"]), ["submit", "--to", str(tmp_path / "typo"), *words])
        assert "holds no service" in str(refused.exception)
    assert not (tmp_path / "typo").exists()
    with pytest.raises(RunError, match="cannot be made"):
        Jobs(Path("/proc/service"))
    huge = ["submit", "--to", str(tmp_path), "--cancel", "9" * 30]
    assert CliRunner().invoke(build(["submit"]), huge).exit_code == 2


async def test_a_queue_stays_open_while_its_service_runs(tmp_path, home):
    """A database of this kind, opened anew, needs room even to be read: on a full disk it could not be."""
    async with Service(tmp_path, home).open("127.0.0.1:0"):
        assert (tmp_path / "service.db-shm").exists()


async def test_a_queue_that_cannot_be_read_is_told_once_and_on_the_page(tmp_path, home, caplog):
    """As on a full disk; a traceback a second was told, and the page stayed empty."""
    service = Service(tmp_path, home)
    async with service.open("127.0.0.1:0"), shown(service) as page:
        (tmp_path / "service.db").rename(tmp_path / "kept.db")
        (tmp_path / "service.db").mkdir()
        for _ in range(2):
            with pytest.raises(HTTPError, match="503"):
                await asyncio.to_thread(urllib.request.urlopen, page + "status.json", timeout=30)
            looked = service._changed
            looked.set()
            async with asyncio.timeout(SECONDS):
                while looked.is_set():
                    await asyncio.sleep(0.01)
        assert caplog.text.count("cannot be used") == 1
        (tmp_path / "service.db").rmdir()
        (tmp_path / "kept.db").rename(tmp_path / "service.db")


def test_a_model_that_does_not_take_the_data_is_refused_when_it_is_submitted(tmp_path):
    config = tmp_path / "run.toml"
    for model, why in (("mlp:63-16-10", "63"), ("mlp:64-16-9", "has a label 9")):
        config.write_text(description(model=model).to_toml())
        words = ["submit", str(config), "--to", str(tmp_path / "service")]
        refused = CliRunner().invoke(build(["submit"]), words)
        assert isinstance(refused.exception, CrowdlearnError)
        assert why in str(refused.exception)
    assert not (tmp_path / "service").exists()
