"""
Real signals for tests: ways to send them that Python has no call for, and
what has to happen in a process of its own.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import platform
import resource
import select
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

import pytest

from tests.support.reactors import DEADLINE
from txsignalfd import lowlevel
from txsignalfd.siginfo import SigInfo

T = TypeVar("T")

#: The calls that the C library has no function for, by machine.
SYSTEM_CALLS = {
    "x86_64": {
        "eventfd2": 290,
        "clone": 56,
        "exit": 60,
        "rt_sigqueueinfo": 129,
        "rt_sigprocmask": 14,
        "signalfd4": 289,
    },
    "aarch64": {
        "eventfd2": 19,
        "clone": 220,
        "exit": 93,
        "rt_sigqueueinfo": 138,
        "rt_sigprocmask": 135,
        "signalfd4": 74,
    },
}

SIGEV_SIGNAL = 0
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_ERRNO = 0x00050000
SECCOMP_RET_ALLOW = 0x7FFF0000
CLONE_NEWPID = 0x20000000

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def systemCall(name: str) -> int:
    """
    The number of a system call, or the test is skipped.
    """
    machine = platform.machine()
    if machine not in SYSTEM_CALLS:
        pytest.skip(f"the number of {name} on {machine} is not known")
    return SYSTEM_CALLS[machine][name]


def checked(result: int) -> int:
    """
    What a function of the C library gave, unless it failed.
    """
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


@contextmanager
def blocked(*signals: int) -> Iterator[None]:
    """
    Block signals here, drop those that are pending at the end, and give the
    mask back.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
        while signal.sigtimedwait(signals, 0) is not None:
            pass
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def listening(*signals: int) -> Iterator[int]:
    """
    A signalfd for signals that are blocked here.
    """
    with blocked(*signals):
        fd = lowlevel.signalfd(
            -1, signals, lowlevel.SFD_CLOEXEC | lowlevel.SFD_NONBLOCK
        )
        try:
            yield fd
        finally:
            os.close(fd)


@contextmanager
def limitOfPendingSignals(limit: int) -> Iterator[None]:
    """
    Let at most so many signals be pending.

    The kernel compares the limit of the receiver with the number of signals that are
    pending for all processes of the user.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_SIGPENDING)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_SIGPENDING, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_SIGPENDING, (soft, hard))


def waitFor(fd: int) -> None:
    """
    Wait until a descriptor is ready to be read.
    """
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(DEADLINE * 1000), f"nothing came within {DEADLINE} seconds"


def nextSignal(fd: int) -> SigInfo:
    """
    The next signal of a signalfd.
    """
    waitFor(fd)
    return lowlevel.read_signalfd(fd)


def forge(signo: int, code: int, fields: bytes = b"") -> None:
    """
    Send this process a signal with any code: rt_sigqueueinfo(2).  Only the
    main thread may.

    @param fields: What comes after the head of the C{siginfo_t}.
    """
    info = struct.pack("=iiixxxx112s", signo, 0, code, fields)
    number = systemCall("rt_sigqueueinfo")
    checked(libc.syscall(number, os.getpid(), signo, ctypes.c_char_p(info)))


@contextmanager
def posixTimer(signo: int, value: int, seconds: float) -> Iterator[int]:
    """
    A timer of timer_create(2) that sends a signal, once and again.

    @return: The kernel's number of the timer.
    """
    event = struct.pack("=ixxxxii48x", value, signo, SIGEV_SIGNAL)
    timer = ctypes.c_void_p()
    checked(libc.timer_create(1, ctypes.c_char_p(event), ctypes.byref(timer)))
    interval = struct.pack("=qqqq", *divmod(int(seconds * 1e9), 10**9) * 2)
    try:
        checked(libc.timer_settime(timer, 0, ctypes.c_char_p(interval), None))
        yield timer.value or 0
    finally:
        checked(libc.timer_delete(timer))


def refuseSignalfd(error: int) -> None:
    """
    Have the system refuse signalfd(2) to this process, for good.
    """
    refuse("signalfd4", error)


def refuse(name: str, error: int) -> None:
    """
    Have the system refuse a call to this process, for good: seccomp(2).
    """
    program = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (0x20, 0, 0, 0),  # load the number of the system call
            (0x15, 0, 1, systemCall(name)),  # is it this one?
            (0x06, 0, 0, SECCOMP_RET_ERRNO | error),
            (0x06, 0, 0, SECCOMP_RET_ALLOW),
        )
    )
    instructions = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    checked(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_char_p(head)))


def inChild(function: Callable[[], T]) -> T:
    """
    What a function gives in a forked child.  What it raises there is raised
    here.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            signal.alarm(int(DEADLINE))
            outcome: tuple[T | None, BaseException | None]
            try:
                outcome = function(), None
            except BaseException as error:
                outcome = None, error
            with open(writer, "wb") as stream:
                pickle.dump(outcome, stream)
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as stream:
        pickled = stream.read()
    _, status = os.waitpid(pid, 0)
    assert pickled, f"the child ended with {status} and told nothing"
    result, raised = pickle.loads(pickled)
    if raised is not None:
        raise raised
    return cast(T, result)
