"""Commands that use a state folder for the first time, or enrol devices, at the same time."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from crowdlearn_host.adb.carriers.keys import load_signer
from crowdlearn_host.devices.joining.certificate import certificate
from crowdlearn_host.devices.joining.enrolment import Enrolment

CALLERS = 8
T = TypeVar("T")


def together(call: Callable[[int], T]) -> list[T]:
    """What callers get that are released together."""
    ready = threading.Barrier(CALLERS)

    def one(number: int) -> T:
        ready.wait()
        return call(number)

    with ThreadPoolExecutor(CALLERS) as pool:
        return list(pool.map(one, range(CALLERS)))


def test_all_get_the_one_certificate_that_is_kept(tmp_path: Path) -> None:
    for home in (tmp_path / str(attempt) for attempt in range(10)):
        pins = together(lambda _, home=home: certificate(home)[1])
        assert set(pins) == {certificate(home)[1]}
        assert (home / "host.pem").stat().st_mode & 0o077 == 0


def test_every_token_that_was_given_out_is_good(tmp_path: Path) -> None:
    def enrol(number: int) -> dict[str, str]:
        names = [f"phone-{number}-{index}" for index in range(5)]
        return {name: Enrolment(tmp_path).enrol(name) for name in names}

    for tokens in together(enrol):
        assert all(Enrolment(tmp_path).admits(name, token) for name, token in tokens.items())


def test_all_get_the_one_adb_key_that_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "android" / "adbkey"
    keys = together(lambda _: load_signer(path).GetPublicKey())
    assert set(keys) == {load_signer(path).GetPublicKey()}
