"""A process of the app on a Java VM, in which Android is played: `python -m benchmarks.android.app.player`.

    ... player CLASSPATH HOME [--api LEVEL]

The app's own classes run, and its Python half in the same process. Whatever they call of Android is answered
here. Each line of the input is an event of Android's (`EVENTS`), each line of the output a JSON array of what
came of it. What Android keeps when a process dies lies in HOME: files, preferences and whether it is to start
the service again.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jpype
from jpype import JClass, JImplements, JOverride

from .program_processes import ProgramProcesses

PACKAGE = "org.crowdlearn.device"
EVENTS = """
  open                the owner opens the app and takes part
  boot                BOOT_COMPLETED, in a process of its own
  again               Android starts the service again after its process died, if it was to
  command ARGUMENTS   adb's shell starts the service with these arguments
  stop                the notification's Stop
  job                 WakeJob's conditions hold
  samples PATH        the owner chooses a document, which a content provider reads from there
  background yes|no   may a service start from the background?
  phone JSON          what the phone is: fields of PHONE
"""
PHONE: dict[str, Any] = {
    "level": 80, "plugged": 1, "temperature": 300, "metered": False, "interactive": False, "thermal": 0,
}  # fmt: skip
CONSTANTS = {
    "android.app.Service.START_NOT_STICKY": 2,
    "android.app.Service.START_STICKY": 1,
    "android.content.pm.ServiceInfo.FOREGROUND_SERVICE_TYPE_SPECIAL_USE": 1 << 30,
    "android.app.job.JobInfo.NETWORK_TYPE_ANY": 1,
    "android.app.job.JobInfo.NETWORK_TYPE_UNMETERED": 2,
}
"""Of Android's constants those whose values matter here; any other is its name, or 0."""


class Android:
    """Whatever of Android the app calls; `reports` gets what the app did, as lists of words."""

    def __init__(self, home: Path, api: int, programs: ProgramProcesses) -> None:
        self.reports: queue.Queue[list[Any]] = queue.Queue()
        self.phone = dict(PHONE)
        self.background = True
        self.service: Any = None
        self._home, self._api, self._programs = home, api, programs
        programs.state = self._state
        self._held: dict[int, Any] = {}
        self._objects: list[Any] = []
        self._todo: queue.Queue[Callable[[], None] | None] = queue.Queue()
        (home / "files").mkdir(parents=True, exist_ok=True)

    def call(self, this: Any, name: str, given: Sequence[Any]) -> Any:
        """Answer a call of a method or constructor of `this`, or for a constant."""
        owner, _, method = name.rpartition(".")
        short = owner.rpartition(".")[2].replace("ContextWrapper", "Context")
        if method.isupper():
            return self._api if method == "SDK_INT" else CONSTANTS.get(name, given[0])
        named = f"_{short}_{method.strip('<>')}"
        answer = getattr(self, named, None) or getattr(self._programs, named, None)
        if answer is not None:
            return answer(this, *given)
        if short == "Builder" and method != "build":
            self._state(this).setdefault(method.strip("<>"), list(given))
            return this
        return None

    def _state(self, this: Any) -> Any:
        return self._held.setdefault(self._key(this), {})

    def _key(self, this: Any) -> int:
        if (key := int(JClass("java.lang.System").identityHashCode(this))) not in self._held:
            self._objects.append(this)  # its number is its own as long as it lives
        return key

    # Context

    def _Context_getFilesDir(self, this: Any) -> Any:
        return JClass("java.io.File")(str(self._home / "files"))

    def _Context_getExternalFilesDir(self, this: Any, kind: Any) -> Any:
        return JClass("java.io.File")(str(self._home / "shared"))

    def _Context_getPackageName(self, this: Any) -> str:
        return PACKAGE

    def _Context_getApplicationContext(self, this: Any) -> Any:
        return this

    def _Context_getString(self, this: Any, number: int) -> str:
        return f"text {number}"

    def _Context_getSystemService(self, this: Any, name: str) -> Any:
        places = {
            "POWER_SERVICE": "android.os.PowerManager",
            "NOTIFICATION_SERVICE": "android.app.NotificationManager",
            "CONNECTIVITY_SERVICE": "android.net.ConnectivityManager",
            "BATTERY_SERVICE": "android.os.BatteryManager",
            "JOB_SCHEDULER_SERVICE": "android.app.job.JobScheduler",
        }
        return JClass(places[str(name)])()

    def _Context_getContentResolver(self, this: Any) -> Any:
        return JClass("android.content.ContentResolver")(this)

    def _ContentResolver_openInputStream(self, this: Any, document: Any) -> Any:
        return JClass("java.io.FileInputStream")(self._state(document)["path"])

    def _Context_startForegroundService(self, this: Any, intent: Any) -> Any:
        if not self.background:
            raise JClass("java.lang.IllegalStateException")("startForegroundService() not allowed")
        self.later(lambda: self.command(intent))
        return None

    _Context_startService = _Context_startForegroundService

    def _Context_registerReceiver(self, this: Any, receiver: Any, meant: Any, *more: Any) -> Any:
        battery = JClass("android.content.Intent")("ACTION_BATTERY_CHANGED")
        phone = self.phone
        self._state(battery).update(
            EXTRA_LEVEL=phone["level"],
            EXTRA_SCALE=100,
            EXTRA_PLUGGED=phone["plugged"],
            EXTRA_TEMPERATURE=phone["temperature"],
            EXTRA_VOLTAGE=4000,
        )
        return battery

    def _Context_getSharedPreferences(self, this: Any, name: str, mode: int) -> Any:
        return JClass("android.content.SharedPreferences")()

    def _SharedPreferences_getBoolean(self, this: Any, name: str, otherwise: bool) -> bool:
        return bool(self._kept("preferences").get(str(name), otherwise))

    def _SharedPreferences_edit(self, this: Any) -> Any:
        return JClass("android.content.SharedPreferences$Editor")()

    def _Editor_putBoolean(self, this: Any, name: str, value: bool) -> Any:
        self._state(this)[str(name)] = bool(value)
        return this

    def _Editor_commit(self, this: Any) -> bool:
        self._keep("preferences", {**self._kept("preferences"), **self._state(this)})
        return True

    def _kept(self, name: str) -> dict[str, Any]:
        path = self._home / f"{name}.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def _keep(self, name: str, content: dict[str, Any]) -> None:
        part = self._home / f"{name}.part"
        part.write_text(json.dumps(content))
        part.replace(self._home / f"{name}.json")

    # Intent and JSON

    def _Intent_init(self, this: Any, first: Any = None, second: Any = None) -> None:
        self._state(this)["action"] = str(first) if isinstance(first, str) else None

    def _Intent_setAction(self, this: Any, action: str) -> Any:
        self._state(this)["action"] = str(action)
        return this

    def _Intent_setPackage(self, this: Any, name: str) -> Any:
        return this

    def _Intent_getAction(self, this: Any) -> str | None:
        return self._state(this).get("action")

    def _Intent_getIntExtra(self, this: Any, name: str, otherwise: int) -> int:
        return int(self._state(this).get(str(name), otherwise))

    def _Intent_getStringExtra(self, this: Any, name: str) -> str | None:
        return self._state(this).get(str(name))

    def _JSONObject_init(self, this: Any, text: Any = None) -> None:
        self._held[self._key(this)] = {} if text is None else json.loads(str(text))

    def _JSONObject_put(self, this: Any, name: str, value: Any) -> Any:
        self._state(this)[str(name)] = _plain(value, self)
        return this

    def _JSONObject_isNull(self, this: Any, name: str) -> bool:
        return self._state(this).get(str(name)) is None

    def _JSONObject_getBoolean(self, this: Any, name: str) -> bool:
        return bool(self._state(this)[str(name)])

    def _JSONObject_optString(self, this: Any, name: str) -> str:
        return str(self._state(this).get(str(name), ""))

    def _JSONObject_optLong(self, this: Any, name: str) -> int:
        return int(self._state(this).get(str(name), 0))

    def _JSONObject_optDouble(self, this: Any, name: str) -> float:
        return float(self._state(this).get(str(name), "nan"))

    def _JSONObject_optJSONObject(self, this: Any, name: str) -> Any:
        inner = self._state(this).get(str(name))
        return JClass("org.json.JSONObject")(json.dumps(inner)) if isinstance(inner, dict) else None

    def _JSONObject_keys(self, this: Any) -> Any:
        return JClass("java.util.ArrayList")(list(self._state(this))).iterator()

    def _JSONObject_toString(self, this: Any) -> str:
        return json.dumps(self._state(this))

    # Phone

    def _PowerManager_newWakeLock(self, this: Any, kind: int, tag: str) -> Any:
        return JClass("android.os.PowerManager$WakeLock")()

    def _PowerManager_isInteractive(self, this: Any) -> bool:
        return bool(self.phone["interactive"])

    def _PowerManager_getCurrentThermalStatus(self, this: Any) -> int:
        return int(self.phone["thermal"])

    def _WakeLock_isHeld(self, this: Any) -> bool:
        return bool(self._state(this).get("held"))

    def _WakeLock_acquire(self, this: Any) -> None:
        self._state(this)["held"] = True
        self.reports.put(["awake"])

    def _WakeLock_release(self, this: Any) -> None:
        self._state(this)["held"] = False
        self.reports.put(["may sleep"])

    def _ConnectivityManager_isActiveNetworkMetered(self, this: Any) -> bool:
        return bool(self.phone["metered"])

    def _BatteryManager_getIntProperty(self, this: Any, number: int) -> int:
        return -(1 << 31)

    def _Builder_build(self, this: Any) -> Any:
        kind = JClass(str(this.getClass().getName()).rpartition("$")[0])
        if kind is JClass("android.app.Notification$Action"):
            return None
        built = kind()
        self._held[self._key(built)] = self._state(this)
        return built

    def _JobScheduler_schedule(self, this: Any, job: Any) -> int:
        wanted = {name: value for name, (value, *_) in self._state(job).items() if name != "init"}
        self.reports.put(["job", {name: _plain(value, self) for name, value in wanted.items()}])
        return 1

    def _NotificationManager_notify(self, this: Any, number: int, notification: Any) -> None:
        shown = self._state(notification)
        texts = (shown.get(name, [""])[0] for name in ("setContentTitle", "setContentText"))
        self.reports.put(["notification", int(number), *(str(text) for text in texts)])

    # Service

    def _Service_startForeground(self, this: Any, number: int, notification: Any, kind: int = 0) -> None:
        self.reports.put(["foreground", int(kind)])

    def _Service_stopSelf(self, this: Any) -> None:
        self.later(self.destroy)

    def _Log_e(self, *given: Any) -> int:
        self.reports.put(["log", *map(str, given[1:])])
        return 0

    def _Log_w(self, *given: Any) -> int:
        return 0

    def command(self, intent: Any) -> None:
        """Have the service, and give it a command; None if Android starts it again."""
        if self.service is None:
            self.service = JClass(f"{PACKAGE}.TrainingService")()
            self.service.onCreate()
        sticky = self.service.onStartCommand(intent, 0, 1) == CONSTANTS["android.app.Service.START_STICKY"]
        self._keep("service", {"again": sticky})
        self.reports.put(["command", "sticky" if sticky else "not sticky"])

    def destroy(self) -> None:
        """End the service, as Android does once it asked for that."""
        if self.service is not None:
            service, self.service = self.service, None
            self._keep("service", {"again": False})
            service.onDestroy()
            self.reports.put(["destroyed"])

    # Python, as Chaquopy has it

    def _Python_getModule(self, this: Any, name: str) -> Any:
        return self._of_java(importlib.import_module(str(name)))

    def _PyObject_callAttr(self, this: Any, name: str, given: Sequence[Any]) -> Any:
        arguments = [str(each) if isinstance(each, JClass("java.lang.String")) else each for each in given]
        try:
            return self._of_java(getattr(self._state(this), str(name))(*arguments))
        except Exception as error:  # Chaquopy's PyException is one of these
            traceback.print_exc()
            raise JClass("java.lang.RuntimeException")(f"{type(error).__name__}: {error}") from error

    def _PyObject_toString(self, this: Any) -> str:
        return str(self._state(this))

    def _of_java(self, value: Any) -> Any:
        if value is None:
            return None
        wrapped = JClass("com.chaquo.python.PyObject")()
        self._held[self._key(wrapped)] = value
        return wrapped

    # Events

    def later(self, work: Callable[[], None]) -> None:
        """Do this in the main thread, where Android calls services."""
        self._todo.put(work)

    def read(self) -> None:
        """Take the events of the input, to its end."""
        for line in sys.stdin:
            name, _, more = line.strip().partition(" ")
            self.later(lambda name=name, more=more: self._happen(name, more))  # type: ignore[misc]
        self._todo.put(None)

    def run(self) -> None:
        """Do what is to be done, to the end of the input."""
        while (work := self._todo.get()) is not None:
            work()

    def _happen(self, name: str, more: str) -> None:
        context = JClass("android.content.Context")()
        if name == "open":
            service, kind = JClass(f"{PACKAGE}.TrainingService"), JClass("android.content.Context")
            refused = self._called(service, "start", (kind,), context)
            self.reports.put(["opened"] if refused is None else ["refused", str(refused)])
        elif name == "boot":
            boot = JClass("android.content.Intent")("android.intent.action.BOOT_COMPLETED")
            JClass(f"{PACKAGE}.BootReceiver")().onReceive(context, boot)
        elif name == "again":
            if self._kept("service").get("again"):
                self.command(None)
        elif name in ("command", "stop"):
            intent = JClass("android.content.Intent")()
            self._state(intent).update(
                {"arguments": more} if name == "command" else {"action": f"{PACKAGE}.STOP"}
            )
            self.command(intent)
        elif name == "job":
            JClass(f"{PACKAGE}.WakeJob")().onStartJob(None)
        elif name == "samples":
            document = JClass("android.net.Uri")()
            self._state(document)["path"] = more
            kinds = tuple(map(JClass, ("android.content.Context", "android.net.Uri", "java.lang.String")))
            try:
                self._called(JClass(f"{PACKAGE}.Samples"), "copy", kinds, context, document, Path(more).name)
                self.reports.put(["copied"])
            except jpype.JException as error:
                self.reports.put(["not copied", str(error.getCause())])
        elif name == "background":
            self.background = more == "yes"
        elif name == "phone":
            self.phone.update(json.loads(more))
        self.reports.put(["done", name])

    @staticmethod
    def _called(owner: Any, name: str, kinds: Sequence[Any], *given: Any) -> Any:
        """Call a static method that only its package may call."""
        method = owner.class_.getDeclaredMethod(name, *(kind.class_ for kind in kinds))
        method.setAccessible(True)
        return method.invoke(None, *given)


def _plain(value: Any, android: Android) -> Any:
    """Return a value of Java's as one of JSON's."""
    if isinstance(value, JClass("java.lang.Boolean")):
        return bool(value)
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)  # boxed ones are of these kinds, too
    return None if value is None else android._state(value)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.android.app.player", epilog=EVENTS)
    parser.add_argument("classpath")
    parser.add_argument("home", type=Path)
    parser.add_argument("--api", type=int, default=34)
    options = parser.parse_args()
    if hasattr(os, "memfd_create"):
        del os.memfd_create  # the Python of an app is built for Androids that have none
    jpype.startJVM(classpath=options.classpath.split(":"), convertStrings=True)
    android = Android(options.home, options.api, ProgramProcesses(options.classpath))

    @JImplements("org.crowdlearn.check.Played$Player")
    class Player:
        @JOverride  # type: ignore[untyped-decorator]
        def call(self, this: Any, name: Any, given: Any) -> Any:
            try:
                return android.call(this, str(name), list(given))
            except jpype.JException:
                raise
            except Exception:
                traceback.print_exc()  # Java has no words for it
                raise

    JClass("org.crowdlearn.check.Played").player = Player()

    def write() -> None:
        while True:
            print(json.dumps(android.reports.get()), flush=True)

    threading.Thread(target=write, daemon=True).start()
    threading.Thread(target=android.read, daemon=True).start()
    android.run()
    while not android.reports.empty():
        pass


if __name__ == "__main__":
    main()
