"""A run is watched while it grows, in a browser of this computer and from nowhere else."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import pytest
from crowdlearn_host.coordinator.storage.run_folder import RunFolder
from crowdlearn_host.errors import RunError
from crowdlearn_host.report.live import LiveRun
from crowdlearn_host.report.now import now
from crowdlearn_host.report.server import serving

from tests.host.report.browser import opened

HOSTILE = "<img src=x onerror=document.title='owned'>"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    """A run on phones that begins: two devices, one with a name that is HTML."""
    with RunFolder(tmp_path / "run", create=True) as folder:
        folder.write("config.toml", 'name = "mine"\nmodel = "mlp:6-9-4"\n')
        plan = {"pieces": [[[0, 6], [0, 0], [0, 4]], [[6, 6], [0, 9], [4, 4]]]}
        folder.write("plan.json", json.dumps(plan))
        for device in ("phone-0", HOSTILE):
            folder.event("joined", device=device)
        assign(folder, "phone-0", HOSTILE)
        yield folder


def assign(folder: RunFolder, *holders: str, spares: tuple[str, ...] = ()) -> None:
    folder.event(
        "assigned", generation=1, epoch=0, boundary=0, dominator=holders[0], holders=holders, spares=spares
    )


def train(folder: RunFolder, boundary: int) -> None:
    spent = {"activation": 1_000_000 * boundary}
    folder.metric(epoch=0, boundary=boundary, rows=8, loss=2.0 / boundary, correct=4, bytes=spent)


def test_a_browser_shows_the_run_as_it_grows(folder: RunFolder, tmp_path: Path) -> None:
    with serving(LiveRun(folder.path)) as address, opened(address, tmp_path) as page:
        page.until("document.title === 'mine: crowdlearn'")
        page.until("document.body.innerText.includes('feeds its samples: dominator')")
        assert page.value("document.querySelectorAll('img').length") == 0
        assert HOSTILE in page.value("document.body.innerText")
        for boundary in (1, 2):
            train(folder, boundary)
        page.until("document.querySelectorAll('polyline.line').length >= 1")
        folder.save({}, traffic=[row(HOSTILE, "up", 3_000_000), row(HOSTILE, "down", 1)])
        folder.event("left", device=HOSTILE, reason="the connection broke")
        folder.event("recovering", why="it left", boundary=2)
        page.until("document.body.innerText.includes('gone: the connection broke')")
        assert "recovering" in page.value("document.body.innerText")
        assert "3,000,000" in page.value("document.body.innerText")
        assert page.value("document.getElementById('state').textContent") == "live"
        folder.event("evaluated", epoch=0, test_loss=0.4, test_accuracy=0.875)
        folder.event("done", boundary=2)
        page.until("document.getElementById('state').textContent === 'over'")
        assert "87.50 %" in page.value("document.getElementById('facts').innerText")


def row(device: str, way: str, size: int) -> dict[str, str | int]:
    return {"device": device, "direction": way, "purpose": "activation", "bytes": size, "messages": 1}


def test_a_page_whose_server_is_gone_says_so(folder: RunFolder, tmp_path: Path) -> None:
    with ExitStack() as server:
        address = server.enter_context(serving(LiveRun(folder.path)))
        with opened(address, tmp_path) as page:
            page.until("document.title === 'mine: crowdlearn'")
            server.close()
            page.until("document.getElementById('state').textContent.startsWith('no answer')")
            assert "phone-0" in page.value("document.body.innerText")


def get(address: str, path: str, **headers: str) -> http.client.HTTPResponse:
    host, _, port = address.removeprefix("http://").rstrip("/").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer


def read(address: str, path: str) -> str:
    with urlopen(address.rstrip("/") + path, timeout=30) as answer:
        return str(answer.read().decode())


def test_only_browsers_of_this_computer_are_served(folder: RunFolder) -> None:
    with serving(LiveRun(folder.path)) as address:
        port = int(address.rstrip("/").rpartition(":")[2])
        assert get(address, "/").status == 200
        assert get(address, "/state", Host=f"localhost:{port}").status == 200
        assert get(address, "/state", Host="crowdlearn.example").status == 403
        assert get(address, "/../run.db").status == 404
        assert get(address, "/state?seen=1").status == 204
        policy = get(address, "/").getheader("Content-Security-Policy", "")
        assert "default-src 'none'" in policy
        own = socket.gethostbyname(socket.gethostname())
        if not own.startswith("127."):
            with pytest.raises(OSError), socket.create_connection((own, port), timeout=2):
                pass


def test_what_it_does_not_show_is_told(folder: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run"):
        LiveRun(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(RunError, match=f"127.0.0.1:{port}: .*another --port"),
            serving(LiveRun(folder.path), port),
        ):
            pass


def test_a_line_counts_once_it_has_its_end(folder: RunFolder) -> None:
    run = LiveRun(folder.path)
    first = run.state(-1)
    assert first is not None
    assert run.state(first["version"]) is None
    with (folder.path / "events.jsonl").open("a") as events:
        events.write('{"event": "joined", "device": "phone-7"}\n{"event": "joined", "dev')
    second = run.state(first["version"])
    assert second is not None
    assert "phone-7" in second["body"]
    with (folder.path / "events.jsonl").open("a") as events:
        events.write('ice": "phone-8"}\n')
    third = run.state(second["version"])
    assert third is not None
    assert "phone-8" in third["body"]


def test_the_present_is_what_the_events_lead_to() -> None:
    assigned = {"event": "assigned", "epoch": 1, "boundary": 7, "dominator": "b", "holders": ["b", "a"]}
    joined = [{"event": "joined", "device": name} for name in "abc"]
    told = now([*joined, {**assigned, "spares": ["c"]}, {"event": "pass", "device": "b"}])
    assert [(d.name, d.piece, d.does, d.passes) for d in told.devices] == [
        ("a", 1, "computes its slice: follower", 0),
        ("b", 0, "feeds its samples: dominator", 1),
        ("c", None, "spare", 0),
    ]
    assert told.groups[0].does == "trains epoch 2, from mini-batch 7"
    assert not told.over
    left = {"event": "left", "device": "a", "reason": "the connection broke"}
    told = now([*joined, {**assigned, "spares": ["c"]}, left, {"event": "stopped", "reason": "enough"}])
    assert (told.devices[0].piece, told.devices[0].does) == (None, "gone: the connection broke")
    assert told.over


def test_the_command_says_where_and_ends_with_ctrl_c(folder: RunFolder) -> None:
    command = [str(Path(sys.executable).parent / "crowdlearn"), "watch", str(folder.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = re.match(r"watch \S+ at (http://127.0.0.1:\d+/) ", process.stdout.readline())
        assert told is not None
        assert get(told[1], "/state").status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0


@pytest.mark.system
def test_a_run_is_watched_while_it_trains(tmp_path: Path, home: Path) -> None:
    (tmp_path / "my.toml").write_text(
        """
        model = "mlp:64-12-10"
        data = "digits"
        group = { pieces = 2 }
        training = { epochs = 2, batch = 64, kernels = "by_size" }
        fleet = { virtual = 2 }
        """
    )
    command = [str(Path(sys.executable).parent / "crowdlearn"), "train", "my.toml", "--watch"]
    seen: set[str] = set()
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = re.match(r"watch runs/run at (\S+)$", process.stdout.readline())
        assert told is not None
        for line in process.stdout:
            if "joined" in line or "epoch" in line:
                state = read(told[1], "/state")
                seen |= {words for words in ("dominator", "follower", "Bytes by purpose") if words in state}
        assert process.wait(timeout=60) == 0
    assert seen == {"dominator", "follower", "Bytes by purpose"}


@pytest.mark.system
def test_an_interrupted_run_is_130_and_goes_on(tmp_path: Path, home: Path) -> None:
    (tmp_path / "my.toml").write_text(
        """
        model = "mlp:64-12-10"
        data = "digits"
        group = { pieces = 2 }
        training = { epochs = 500, batch = 64, kernels = "by_size" }
        fleet = { virtual = 2 }
        """
    )
    command = [str(Path(sys.executable).parent / "crowdlearn"), "train", "my.toml"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, text=True, **pipes) as process:  # type: ignore[call-overload]
        next(line for line in process.stdout if "epoch 1:" in line)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert "interrupted; go on with: crowdlearn train --resume runs/run" in process.stderr.read()
