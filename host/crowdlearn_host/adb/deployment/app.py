"""The device runtime as an Android app: installed, started and reached over adb.

Nobody has run this on a real phone. What is tested is which commands a phone is sent and how refusals are
told; the app is expected to listen on an abstract Unix socket and to read programs from its external files.
"""

import shlex
import socket
from collections.abc import Mapping
from pathlib import Path

from crowdlearn_host.adb.carriers.mux import StreamRefused
from crowdlearn_host.adb.deployment.shell import FileStore
from crowdlearn_host.adb.services.device import AdbDevice
from crowdlearn_host.adb.services.files import Progress
from crowdlearn_host.errors import FleetError

PACKAGE = "org.crowdlearn.device"
SERVICE = f"{PACKAGE}/.TrainingService"
SOCKET = "crowdlearn"
HOME = f"/sdcard/Android/data/{PACKAGE}/files"


class AppDeployment:
    """The app on a phone; `apk` is installed where the phone lacks it."""

    def __init__(self, device: AdbDevice, *, apk: Path | None = None) -> None:
        self._device = device
        self._apk = apk
        # Shared storage of a phone knows no symbolic links.
        self._store = FileStore(device, HOME, links=False)

    async def install(self, files: Mapping[str, bytes | Path], progress: Progress | None = None) -> int:
        """Have the app, and the files by relative name in its folder; returns the bytes of files sent."""
        installed = await self._device.shell(f"pm path {PACKAGE}")
        if installed.exit_code or not installed.stdout.startswith(b"package:"):
            if self._apk is None:
                raise FleetError(f"{self._device.serial}: {PACKAGE} is not installed; give the APK")
            await self._device.install_app(self._apk)
        return await self._store.install(files, progress)

    async def start(self) -> None:
        """Start the foreground service. Raises FleetError with what Android says."""
        result = await self._device.shell(f"am start-foreground-service -n {shlex.quote(SERVICE)}")
        said = (result.stderr + result.stdout).decode(errors="replace").strip()
        # `am` of older phones ends with code 0 whatever happens.
        if result.exit_code or "Error" in said:
            raise FleetError(f"{self._device.serial}: {SERVICE} does not start: {said}")

    async def connect(self) -> socket.socket:
        """A new connection to the app. Raises FleetError."""
        try:
            return await self._device.open_socket(f"localabstract:{SOCKET}")
        except StreamRefused as error:
            raise FleetError(
                f"{self._device.serial}: the app does not listen; is it still running?"
            ) from error

    async def stop(self) -> None:
        """End the app; harmless when it does not run."""
        await self._device.shell(f"am force-stop {PACKAGE}")
