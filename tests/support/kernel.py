"""
Real signals for tests, and tests that run in a child process.
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
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

import pytest

from tests.support.reactors import DEADLINE
from txsignalfd import lowlevel
from txsignalfd.siginfo import SigInfo

T = TypeVar("T")

#: The numbers of system calls without a function in the C library, by machine.
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
    Return the number of a system call, or skip the test.
    """
    machine = platform.machine()
    if machine not in SYSTEM_CALLS:
        pytest.skip(f"the number of {name} on {machine} is not known")
    return SYSTEM_CALLS[machine][name]


def checked(result: int) -> int:
    """
    Return the result of a function of the C library, or raise its error.
    """
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


@contextmanager
def blocked(*signals: int) -> Iterator[None]:
    """
    Block signals in this thread, and restore the mask without pending signals.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        # A signal that is still pending would kill the process, also after an error.
        while signal.sigtimedwait(signals, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def listening(*signals: int) -> Iterator[int]:
    """
    Open a signalfd for signals, and block them in this thread.

    Use this in tests with the mark L{forked}, because another thread of the process may
    receive the signals.
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


def waitUntilReadable(fd: int) -> None:
    """
    Wait until a descriptor is readable.
    """
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(DEADLINE * 1000), f"not readable after {DEADLINE} seconds"


def nextSignal(fd: int) -> SigInfo:
    """
    Wait for the next signal of a signalfd.
    """
    waitUntilReadable(fd)
    return lowlevel.read_signalfd(fd)


def forge(signo: int, code: int, fields: bytes = b"", pid: int | None = None) -> None:
    """
    Send a signal with any code, in the main thread: rt_sigqueueinfo(2).

    @param fields: The content of the C{siginfo_t} after its head.
    @param pid: The receiving process; this one by default.
    """
    info = struct.pack("=iiixxxx112s", signo, 0, code, fields)
    number = systemCall("rt_sigqueueinfo")
    target = os.getpid() if pid is None else pid
    checked(libc.syscall(number, target, signo, ctypes.c_char_p(info)))


@contextmanager
def posixTimer(signo: int, value: int, seconds: float) -> Iterator[int]:
    """
    Run a timer of timer_create(2) that sends a signal periodically.

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
    Make signalfd(2) fail in this process, irrevocably.
    """
    refuse("signalfd4", error)


def refuse(name: str, error: int) -> None:
    """
    Make a system call fail in this process, irrevocably: seccomp(2).
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


#: Run a test in a forked child, where no other thread can receive the signals that it
#: sends to its process, and an error does not kill the test run.  (In the test run,
#: threads of earlier tests exist for a moment after they were joined.)
forked = pytest.mark.forked


def inChild(function: Callable[[], T]) -> T:
    """
    Return the result of a function in a forked child, or raise its exception.

    The child has only one thread, which receives all signals that are sent to it.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            # After the deadlines in the function, which say what did not happen.
            signal.alarm(int(DEADLINE) + 10)
            outcome: tuple[T | None, BaseException | None]
            try:
                outcome = function(), None
            except BaseException as error:
                outcome = None, error
            with open(writer, "wb") as stream:
                pickle.dump(outcome, stream)
        except BaseException:
            # The parent has no result, and shows this.
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as stream:
        pickled = stream.read()
    _, status = os.waitpid(pid, 0)
    assert pickled, f"the child ended with {status} and without a result"
    result, raised = pickle.loads(pickled)
    if raised is not None:
        raise raised
    return cast(T, result)
