"""The live page over HTTP, for browsers of this computer alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlsplit

from crowdlearn_host.common.http import HERE, without_port
from crowdlearn_host.errors import HostError, RunError

from .live import PAGE, SCRIPT, LiveRun

LOOPBACK = "127.0.0.1"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@contextmanager
def serving(run: LiveRun, port: int = 0) -> Iterator[str]:
    """Serve the page of a run on loopback while the context lasts; gives its address.

    Raises RunError if the port is taken.
    """
    try:
        server = _Server((LOOPBACK, port), _Handler)
    except (OSError, OverflowError) as error:
        raise RunError(
            f"cannot serve on {LOOPBACK}:{port}: {getattr(error, 'strerror', None) or error}; "
            "name another --port, or 0 for any free one"
        ) from error
    server.run = run
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{server.server_address[1]}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    run: LiveRun


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 30

    def do_GET(self) -> None:
        if without_port(self.headers.get("Host", "")) not in HERE:
            self._answer(HTTPStatus.FORBIDDEN, "this page is for browsers of this computer\n")
            return
        asked = urlsplit(self.path)
        match asked.path:
            case "/":
                self._answer(HTTPStatus.OK, PAGE, "text/html")
            case "/live.js":
                self._answer(HTTPStatus.OK, SCRIPT, "text/javascript")
            case "/state":
                self._state(asked.query)
            case _:
                self._answer(HTTPStatus.NOT_FOUND, "there is only one page here: /\n")

    def _state(self, query: str) -> None:
        seen = parse_qs(query).get("seen", [""])[0]
        try:
            state = self.server.run.state(int(seen) if seen.isdecimal() and len(seen) < 12 else -1)
        except HostError as error:
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, f"{error}\n")
            return
        if state is None:
            self._answer(HTTPStatus.NO_CONTENT, "")
        else:
            self._answer(HTTPStatus.OK, json.dumps(state), "application/json")

    def _answer(self, status: HTTPStatus, text: str, kind: str = "text/plain") -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        if status is not HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", str(len(content)))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the terminal is the command's."""
