"""A headless Chromium that a test drives by its DevTools protocol."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from websockets.sync.client import ClientConnection, connect

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
]
SECONDS = 60


class Page:
    """An open page."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)

    def ask(self, method: str, **parameters: Any) -> Any:
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        return self._awaited("id", number)["result"]

    def _awaited(self, key: str, value: object) -> Any:
        while True:
            told = json.loads(self._connection.recv(timeout=SECONDS))
            if told.get(key) == value:
                return told

    def open(self, address: str) -> None:
        """Go to an address, and wait until it is loaded."""
        self.ask("Page.enable")
        self.ask("Page.navigate", url=address)
        self._awaited("method", "Page.loadEventFired")

    def value(self, script: str) -> Any:
        """What an expression gives; a promise is waited for."""
        told = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until an expression is true: it is looked at whenever the page changes."""
        script = f"""new Promise((done, failed) => {{
            const look = () => {{ if ({condition}) {{ watch.disconnect(); done(); }} }};
            const watch = new MutationObserver(look);
            watch.observe(document, {{childList: true, subtree: true, characterData: true}});
            setTimeout(() => failed(new Error(document.body.innerText)), {1000 * SECONDS});
            look();
        }})"""
        self.value(script)


@contextmanager
def opened(address: str, folder: Path) -> Iterator[Page]:
    """The page at `address` in a new browser; skips the test if there is none."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on this machine")
    profile = folder / "browser"
    process = subprocess.Popen(
        [browser, *FLAGS, f"--user-data-dir={profile}", "about:blank"], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        told = next(line for line in process.stderr if line.startswith("DevTools listening on "))
        port = told.split(":")[2].split("/")[0]
        with urlopen(Request(f"http://127.0.0.1:{port}/json/new", method="PUT"), timeout=SECONDS) as answer:
            target = json.load(answer)["webSocketDebuggerUrl"]
        with connect(target, max_size=None) as connection:
            page = Page(connection)
            page.open(address)
            yield page
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
