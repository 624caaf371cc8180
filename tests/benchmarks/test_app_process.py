"""The app's own classes on a Java VM, where Android is played: when it starts, waits, wakes and goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from crowdlearn_device.app.service import invite
from crowdlearn_device.protocol.invitation import Invitation
from crowdlearn_device.transport.abstract_socket import PREFIX, SOCKET, listen_abstract

from .app_process import AppProcess, prefix_of

POLICY = {"charging": True, "unmetered": True, "idle": False}


def starts(told: list[Any]) -> bool:
    return told == ["command", "sticky"]


def set_policy(home: Path, **changed: object) -> None:
    (home / "files").mkdir(parents=True, exist_ok=True)
    (home / "files/policy.json").write_text(json.dumps(changed))


def test_it_goes_on_after_a_reboot_only_if_its_owner_takes_part(
    app_classes: list[Path], tmp_path: Path
) -> None:
    with AppProcess(app_classes, tmp_path) as app:
        assert app.happen("boot") == []
        assert app.happen("open") == [["opened"]]
        app.until(starts)
    with AppProcess(app_classes, tmp_path) as app:
        app.happen("boot")
        app.until(starts)
        app.happen("stop")
        app.until(lambda told: told == ["destroyed"])
        assert ["command", "not sticky"] in app.reports
    with AppProcess(app_classes, tmp_path) as app:
        assert app.happen("boot") == []
        assert app.happen("job") == []


def test_android_starts_it_again_when_its_process_died(app_classes: list[Path], tmp_path: Path) -> None:
    with AppProcess(app_classes, tmp_path) as app:
        app.happen("open")
        app.until(starts)
    with AppProcess(app_classes, tmp_path) as app:
        assert starts(app.happen("again")[-1])
        waiting = app.until(lambda told: told[0] == "notification")
        assert waiting[2:] == ["waiting for a host", "mini-batch 0, 0.0 MB sent, 0.0 MB received"]
        app.happen("stop")
        app.until(lambda told: told == ["destroyed"])
    with AppProcess(app_classes, tmp_path) as app:
        assert app.happen("again") == []


def test_it_begins_again_when_its_python_half_ends_by_an_error(
    app_classes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PREFIX, prefix_of(tmp_path))
    with AppProcess(app_classes, tmp_path) as app:
        with listen_abstract(SOCKET):  # another program has its name
            app.happen("open")
            shown = app.until(lambda told: told[0] == "notification" and told[2].startswith("ended"))
            wanted = "ended by an error, begins again in 5 s: "
            assert shown[2].startswith(wanted)
            assert "another program of this phone listens as 'crowdlearn'" in shown[2]
            woken = app.until(lambda told: told[0] == "job")  # a phone that sleeps meanwhile
            assert woken[1]["setMinimumLatency"] == 5000
        app.happen("job")
        app.until(lambda told: told[0] == "notification" and told[2] == "waiting for a host")
        app.happen("stop")
        app.until(lambda told: told == ["destroyed"])


def test_where_it_may_not_start_it_comes_with_the_owner_s_conditions(
    app_classes: list[Path], tmp_path: Path
) -> None:
    with AppProcess(app_classes, tmp_path) as app:
        app.happen("open")
        app.until(starts)
    for network, policy in ((2, {}), (1, {"unmetered": False, "charging": False, "idle": True})):
        set_policy(tmp_path, **policy)
        wanted = {**POLICY, **policy}
        with AppProcess(app_classes, tmp_path) as app:
            app.happen("background", "no")
            assert app.happen("boot") == [
                [
                    "job",
                    {
                        "setRequiredNetworkType": network,
                        "setRequiresCharging": wanted["charging"],
                        "setRequiresDeviceIdle": wanted["idle"],
                        "setPersisted": True,
                    },
                ]
            ]
            ((kind, number, *_),) = app.happen("job")  # still in the background: the owner is asked
            assert (kind, number) == ("notification", 2)
            app.happen("background", "yes")
            app.happen("job")
            app.until(starts)


def test_samples_of_a_content_provider_are_there_whole_or_not_at_all(
    app_classes: list[Path], tmp_path: Path
) -> None:
    document, data = tmp_path / "train.npz", tmp_path / "phone/files/data"
    document.write_bytes(bytes(range(256)) * 1000)
    with AppProcess(app_classes, tmp_path / "phone") as app:
        assert app.happen("samples", str(document)) == [["copied"]]
        assert (data / "train.npz").read_bytes() == document.read_bytes()
        ((told, why),) = app.happen("samples", str(tmp_path / "absent.npz"))
        assert told == "not copied"
        assert "absent.npz" in why
    assert [path.name for path in data.iterdir()] == ["train.npz"]


def test_the_kind_of_its_service_is_told_where_android_asks_for_it(
    app_classes: list[Path], tmp_path: Path
) -> None:
    for level, kind in (("24", 0), ("34", 1 << 30)):
        with AppProcess(app_classes, tmp_path / level, "--api", level) as app:
            app.happen("open")
            app.until(starts)
            assert ["foreground", kind] in app.reports


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"plugged": 0}, "the phone is not charging"),
        ({"interactive": True}, "the phone is in use"),
        *(
            pytest.param(change, why, marks=pytest.mark.nightly)
            for change, why in (
                ({"metered": True}, "the network may cost money"),
                ({"temperature": 412}, "the battery has 41 degrees Celsius"),
                ({"thermal": 3}, "the phone is hot (thermal status 3)"),
            )
        ),
    ],
)
def test_a_phone_whose_conditions_do_not_hold_rests_and_is_woken_when_they_do(
    app_classes: list[Path], tmp_path: Path, change: dict[str, object], why: str
) -> None:
    set_policy(tmp_path, idle=True)
    invite(str(tmp_path / "files"), Invitation("127.0.0.1:1", "phone-1", "token", "0" * 64).link())
    with AppProcess(app_classes, tmp_path) as app:
        app.happen("phone", json.dumps(change))
        app.happen("open")
        shown = app.until(lambda told: told[0] == "notification" and told[2].startswith("resting"))
        assert shown[2] == f"resting: {why}"
        jobs = [told[1] for told in app.reports if told[0] == "job"]
        assert jobs[0]["setRequiresDeviceIdle"] is True
        assert ["awake"] not in app.reports
