"""Isolated processes of the app, for the classes that ask Android for them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from jpype import JClass

from .isolated_process import PROGRAMS, ProgramProcess


class ProgramProcesses:
    """Whatever of Android the class Programs calls; `state` holds what belongs to an object of Java's."""

    def __init__(self, classpath: str) -> None:
        self.state: Callable[[Any], Any] = lambda this: {}
        self._classpath = classpath
        self._environment = json.loads(os.environ.get(PROGRAMS, "null"))

    def _Context_bindIsolatedService(
        self, this: Any, intent: Any, flags: int, name: str, executor: Any, connection: Any
    ) -> bool:
        if self._environment is None:
            return False
        binder = JClass("android.os.Binder")()
        self.state(binder)["connection"] = connection
        connection.onServiceConnected(None, binder)
        return True

    def _Binder_transact(self, this: Any, code: int, data: Any, reply: Any, flags: int) -> bool:
        line = self.state(data)["descriptor"]
        process = ProgramProcess(self._classpath, self._environment, line)
        os.close(line)
        self.state(self.state(this)["connection"])["process"] = process
        return True

    def _Context_unbindService(self, this: Any, connection: Any) -> None:
        process = self.state(connection).pop("process", None)
        if process is not None:
            process.unbind()

    def _Parcel_obtain(self, this: Any) -> Any:
        return JClass("android.os.Parcel")()

    def _Parcel_writeFileDescriptor(self, this: Any, descriptor: Any) -> None:
        self.state(this)["descriptor"] = os.dup(self.state(descriptor)["number"])

    def _ParcelFileDescriptor_fromFd(self, this: Any, number: int) -> Any:
        copied = JClass("android.os.ParcelFileDescriptor")(None)
        self.state(copied)["number"] = os.dup(int(number))
        return copied

    def _ParcelFileDescriptor_getFileDescriptor(self, this: Any) -> Any:
        descriptor = JClass("java.io.FileDescriptor")()
        self.state(descriptor)["number"] = self.state(this)["number"]
        return descriptor

    def _ParcelFileDescriptor_close(self, this: Any) -> None:
        os.close(self.state(this).pop("number"))
