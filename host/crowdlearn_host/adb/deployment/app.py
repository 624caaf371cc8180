"""The device runtime as an Android app: installed, started and reached over adb.

Nobody has run this on a real phone. Virtual phones run the app's Python half in its place. As the app does,
it listens on an abstract Unix socket and reads programs from the app's external files.
"""

import asyncio
import shlex
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from crowdlearn_device.transport.abstract_socket import LISTENING, SOCKET

from crowdlearn_host.adb.carriers.mux import StreamRefused
from crowdlearn_host.adb.deployment.shell import FileStore
from crowdlearn_host.adb.services.device import AdbDevice
from crowdlearn_host.adb.services.files import Progress
from crowdlearn_host.errors import FleetError

PACKAGE = "org.crowdlearn.device"
SERVICE = f"{PACKAGE}/.TrainingService"
NO_APP = f'{PACKAGE} is not installed; install it with adb, or do without: fleet.runtime = "shell"'
START_SECONDS = 60.0
_FIRST_POLL, _LAST_POLL = 0.05, 1.0
HOME = f"/sdcard/Android/data/{PACKAGE}/files"


class AppDeployment:
    """The app on a phone; `apk` is installed if the phone lacks it.

    `arguments` are those of `crowdlearn-device serve`; the app takes a name, a limit of the battery and
    `--no-data` of them, as far as its owner's policy allows.
    """

    def __init__(
        self,
        device: AdbDevice,
        *,
        apk: Path | None = None,
        arguments: Sequence[str] = (),
        start_seconds: float = START_SECONDS,
    ) -> None:
        self._device = device
        self._apk = apk
        self._arguments = shlex.join(arguments)
        self._start_seconds = start_seconds
        # Shared storage of a phone knows no symbolic links.
        self._store = FileStore(device, HOME, links=False)

    async def install(self, files: Mapping[str, bytes | Path], progress: Progress | None = None) -> int:
        """Have the app, and the files by relative name in its folder; returns the bytes of files sent."""
        installed = await self._device.shell(f"pm path {PACKAGE}")
        if installed.exit_code or not installed.stdout.startswith(b"package:"):
            if self._apk is None:
                raise FleetError(f"{self._device.serial}: {NO_APP}")
            await self._device.install_app(self._apk)
        return await self._store.install(files, progress)

    async def start(self) -> None:
        """Start the foreground service, anew if it runs, and wait until it listens. Raises FleetError with
        Android's own message.
        """
        await self.stop()
        extra = shlex.join(["--es", "arguments", self._arguments])
        result = await self._device.shell(f"am start-foreground-service -n {shlex.quote(SERVICE)} {extra}")
        output = (result.stderr + result.stdout).decode(errors="replace").strip()
        # `am` of older phones ends with code 0 whatever happens.
        if result.exit_code or "Error" in output:
            raise FleetError(f"{self._device.serial}: {SERVICE} does not start: {output}")
        with suppress(TimeoutError):
            async with asyncio.timeout(self._start_seconds):
                await self._wait_listens()
            return
        raise FleetError(
            f"{self._device.serial}: the app does not listen after {self._start_seconds:.0f} s; open it on "
            "the phone, it shows whether a computer may train on it through adb"
        )

    async def _wait_listens(self) -> None:
        wait = _FIRST_POLL
        while (await self._device.shell(f"cat {HOME}/{LISTENING}")).exit_code:
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LAST_POLL)

    async def connect(self) -> socket.socket:
        """Return a new connection to the app. Raises FleetError."""
        try:
            return await self._device.open_socket(f"localabstract:{SOCKET}")
        except StreamRefused as error:
            raise FleetError(
                f"{self._device.serial}: the app does not listen; is it still running?"
            ) from error

    async def stop(self) -> None:
        """End the app; harmless when it does not run."""
        await self._device.shell(f"am force-stop {PACKAGE}; rm -f {HOME}/{LISTENING}")
