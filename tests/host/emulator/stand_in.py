"""A program for virtual phones in tests: listens on a port and echoes, as the device runtime would serve."""

import argparse
import json
import signal
import socketserver
import sys
import threading
import time
from pathlib import Path


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(1 << 16):
            self.request.sendall(data)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 64


class _LocalServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


def main(argv: list[str]) -> int:
    """`serve --home FOLDER --port 0` echoes until SIGTERM; `fail CODE TEXT` complains and leaves;
    `measure` answers as if 100 steps of 10 samples had taken half a second; with a pause it computes for
    the seconds asked for; `messages` answers as if a message took 100 us.
    """
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve")
    serve.add_argument("--home", type=Path, required=True)
    serve.add_argument("--port", type=int, required=True)
    serve.add_argument("--abstract", default="")
    fail = commands.add_parser("fail")
    fail.add_argument("code", type=int)
    fail.add_argument("text")
    measure = commands.add_parser("measure")
    for option in ("--programs", "--program", "--seconds", "--threads"):
        measure.add_argument(option, required=True)
    measure.add_argument("--pause", type=float, default=0.0)
    commands.add_parser("messages")
    arguments = parser.parse_args(argv)
    if arguments.command == "messages":
        print(json.dumps({"message_seconds": 1e-4}))
        return 0
    if arguments.command == "measure" and arguments.pause:
        print("ready", flush=True)
        time.sleep(arguments.pause)
        ends = time.process_time() + float(arguments.seconds)
        while time.process_time() < ends:
            pass
        told = {"steps": 10, "batch": 10, "seconds": float(arguments.seconds), "stages": {"step": 0.5}}
        print(json.dumps(told), flush=True)
        time.sleep(arguments.pause)
        return 0
    if arguments.command == "measure":
        print(json.dumps({"steps": 100, "batch": 10, "seconds": 0.5}))
        return 0
    if arguments.command == "fail":
        print(arguments.text, file=sys.stderr)
        return int(arguments.code)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with _Server(("127.0.0.1", arguments.port), _Echo) as server:
        if arguments.abstract:
            threading.Thread(
                target=_LocalServer(f"\0{arguments.abstract}", _Echo).serve_forever, daemon=True
            ).start()
        port = server.server_address[1]
        part = arguments.home / "port.part"
        part.write_text(f"{port}\n")
        part.rename(arguments.home / "port")
        print(f"listening on {port}", flush=True)
        server.serve_forever()
    return 0
