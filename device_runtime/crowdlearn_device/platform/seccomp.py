"""Confinement of a process, for good, to the system calls that computing takes (seccomp, Linux)."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

_ALL_THREADS = 1
_SECCOMP_SET_MODE_FILTER = 1
_NO_NEW_PRIVS = 38
_LOAD, _EQUALS, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_CALL, _MACHINE = 0, 4
"""The places of a call's number, and of the machine's, in what a filter looks at."""

_MACHINES = {"x86_64": (0xC000003E, 317), "aarch64": (0xC00000B7, 277)}
"""The machine's number in the kernel's interface, and that of the call `seccomp`, by machine."""

_COMPUTES = {
    "x86_64": {
        "read": 0, "write": 1, "close": 3, "fstat": 5, "poll": 7, "lseek": 8, "mmap": 9, "mprotect": 10,
        "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15,
        "sched_yield": 24, "mremap": 25, "madvise": 28, "nanosleep": 35, "getpid": 39, "sendto": 44,
        "recvfrom": 45, "sendmsg": 46, "recvmsg": 47, "exit": 60, "uname": 63, "sysinfo": 99, "gettid": 186,
        "futex": 202, "sched_getaffinity": 204, "set_tid_address": 218, "clock_gettime": 228,
        "clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231, "ppoll": 271,
        "set_robust_list": 273, "getrandom": 318, "membarrier": 324, "rseq": 334, "sigaltstack": 131,
        "restart_syscall": 219, "getcpu": 309, "gettimeofday": 96, "getrusage": 98, "sched_getparam": 143,
        "sched_getscheduler": 145,
    },
    "aarch64": {
        "read": 63, "write": 64, "close": 57, "fstat": 80, "lseek": 62, "mmap": 222, "mprotect": 226,
        "munmap": 215, "brk": 214, "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139,
        "sched_yield": 124, "mremap": 216, "madvise": 233, "nanosleep": 101, "getpid": 172, "sendto": 206,
        "recvfrom": 207, "sendmsg": 211, "recvmsg": 212, "exit": 93, "uname": 160, "sysinfo": 179,
        "gettid": 178, "futex": 98, "sched_getaffinity": 123, "set_tid_address": 96,
        "clock_gettime": 113, "clock_getres": 114, "clock_nanosleep": 115, "exit_group": 94,
        "ppoll": 73, "set_robust_list": 99, "getrandom": 278, "membarrier": 283, "rseq": 293,
        "sigaltstack": 132, "restart_syscall": 128, "getcpu": 168, "gettimeofday": 169, "getrusage": 165,
        "sched_getparam": 121, "sched_getscheduler": 120,
    },
}  # fmt: skip
"""System calls by name and number, for each machine: memory, time, and messages on sockets that are open."""

_THREADS = {"x86_64": (56, 435), "aarch64": (220, 435)}
"""clone, which threads are made by, and clone3, for which libraries take clone if it is not there."""
_CLONE_THREAD = 0x10000
_SIGNALS = {"x86_64": 234, "aarch64": 131}
"""tgkill, by which a process that aborts ends itself; no other may be meant."""
_FIRST_ARGUMENT = 16
_BITS = 0x45
_OPENS = {"x86_64": (2, 257, 4, 6, 262, 89, 267, 21, 269, 217), "aarch64": (56, 79, 78, 48, 61)}
"""open and what looks at names: allowed only if something else holds the process to its files."""


def only_compute(*, opens: bool) -> bool:
    """Give up all system calls that computing does not need; return whether the kernel holds this process,
    all threads of it, to that.

    Given up are sockets, programs, other processes, and files unless it `opens` them, which asks for
    something else to hold it: all of that fails with EPERM. Raises OSError if the kernel knows how and
    refuses.
    """
    machine = os.uname().machine
    if machine not in _MACHINES or ctypes.sizeof(ctypes.c_void_p) != 8:
        return False
    number, seccomp = _MACHINES[machine]
    program = _program(machine, number, opens=opens)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    code = ctypes.create_string_buffer(program, len(program))
    given = _Program(len(program) // 8, ctypes.cast(code, ctypes.c_void_p))
    if libc.syscall(seccomp, _SECCOMP_SET_MODE_FILTER, _ALL_THREADS, ctypes.byref(given)) == 0:
        return True
    found = ctypes.get_errno()
    if found in (errno.ENOSYS, errno.EINVAL):  # a kernel, or an emulator of one, without it
        return False
    raise OSError(found, f"the kernel does not confine this process: {os.strerror(found)}")


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


def _program(machine: str, number: int, *, opens: bool) -> bytes:
    """Return the filter: of another machine's calls it kills, and refuses what is on no list."""
    allowed = [*_COMPUTES[machine].values(), *(_OPENS[machine] if opens else ())]
    clone, clone3 = _THREADS[machine]
    code = [_line(_LOAD, 0, 0, _MACHINE), _line(_EQUALS, 1, 0, number), _line(_RETURN, 0, 0, _KILL)]
    code.append(_line(_LOAD, 0, 0, _CALL))
    for call in allowed:
        code += [_line(_EQUALS, 0, 1, call), _line(_RETURN, 0, 0, _ALLOW)]
    code += [_line(_EQUALS, 0, 1, clone3), _line(_RETURN, 0, 0, _ERROR | errno.ENOSYS)]
    for call, test, value in ((clone, _BITS, _CLONE_THREAD), (_SIGNALS[machine], _EQUALS, os.getpid())):
        code += [_line(_EQUALS, 0, 4, call), _line(_LOAD, 0, 0, _FIRST_ARGUMENT)]
        code += [_line(test, 0, 1, value), _line(_RETURN, 0, 0, _ALLOW)]
        code.append(_line(_RETURN, 0, 0, _ERROR | errno.EPERM))
    code.append(_line(_RETURN, 0, 0, _ERROR | errno.EPERM))
    return b"".join(code)


def _line(code: int, true: int, false: int, value: int) -> bytes:
    return struct.pack("<HBBI", code, true, false, value)
