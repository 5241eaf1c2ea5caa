# -*- test-case-name: tests.test_lowlevel -*-
"""
The calls of signalfd(2) by their own names, and no more than the calls.

A drop-in for the modules that this one descends from: Jean-Paul Calderone's
python-signalfd, its branch with C{create_signalfd} and C{read_signalfd}, and
PyPI's signalfd.  C{import txsignalfd.lowlevel as signalfd} is the only change.

These calls change the mask of the calling thread alone, and nothing protects
the process from its other threads: in a program with threads or children use
L{txsignalfd.SignalDescriptor} or L{txsignalfd.SignalDispatcher}.

Each error of the system is an C{OSError} with its errno.  PyPI's signalfd
raises C{ValueError} for two of them, so those two are both:
L{InvalidArgument}.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from operator import index
from signal import Signals
from typing import Any, Final, NoReturn, Protocol

from txsignalfd._native.extension import ffi, lib
from txsignalfd.siginfo import SIGINFO_SIZE, SigInfo, parse

__all__ = [
    "ALL_SIGNALS",
    "SFD_CLOEXEC",
    "SFD_NONBLOCK",
    "SIGINFO_SIZE",
    "SIG_BLOCK",
    "SIG_SETMASK",
    "SIG_UNBLOCK",
    "InvalidArgument",
    "SigInfo",
    "SignalfdUnavailable",
    "UnknownError",
    "create_signalfd",
    "read_siginfo",
    "read_signalfd",
    "signalfd",
    "sigprocmask",
    "sigqueue",
]

SIG_BLOCK: Final[int] = lib.SIG_BLOCK
SIG_UNBLOCK: Final[int] = lib.SIG_UNBLOCK
SIG_SETMASK: Final[int] = lib.SIG_SETMASK
SFD_CLOEXEC: Final[int] = lib.SFD_CLOEXEC
SFD_NONBLOCK: Final[int] = lib.SFD_NONBLOCK

#: The signals that Python names, sorted by number.
ALL_SIGNALS: Final[list[Signals]] = sorted(Signals)


class InvalidArgument(OSError, ValueError):
    """
    The system answered C{EBADF} or C{EINVAL}.
    """


#: What PyPI's signalfd raises for an errno that it does not expect.
UnknownError = OSError


class SignalfdUnavailable(OSError):
    """
    This system has no signalfd(2), or refuses it: C{ENOSYS} or C{EPERM}.
    """


class HasFileno(Protocol):
    """
    What L{signalfd} takes for a descriptor besides its number.
    """

    def fileno(self) -> int:
        """
        The number of the descriptor.
        """


def _raise(number: int, call: str) -> NoReturn:
    if number in (errno.EBADF, errno.EINVAL):
        raise InvalidArgument(number, f"{call}: {os.strerror(number)}")
    raise OSError(number, f"{call}: {os.strerror(number)}")


def _index(value: Any) -> int:
    try:
        return index(value)
    except TypeError as error:
        # The ancestors' words; the cause has the type.
        raise TypeError("an integer is required") from error


def _fileno(fd: int | HasFileno) -> int:
    return _index(fd.fileno() if hasattr(fd, "fileno") else fd)


def sigset(signals: Iterable[int]) -> Any:
    """
    Make a C{sigset_t *}; not one of the ancestors' calls.

    @raise TypeError: For what is no signal number.
    @raise ValueError: For a number that the C library does not take.
    """
    mask = ffi.new("sigset_t *")
    lib.sigemptyset(mask)
    for signal in signals:
        signo = _index(signal)
        if not 0 < signo < lib.TXS_NSIG or lib.sigaddset(mask, signo) == -1:
            raise ValueError(f"signal number {signo} out of range")
    return mask


#: Those that the C library takes: its own are not among them.
VALID_SIGNALS: Final = [
    signo
    for signo in range(1, lib.TXS_NSIG)
    if lib.sigaddset(ffi.new("sigset_t *"), signo) == 0
]


def signalfd(fd: int | HasFileno, signals: Iterable[int], flags: int = 0) -> int:
    """
    Make a descriptor that gives these signals to whoever reads it, or change
    the signals of one.  They must be blocked besides: see L{sigprocmask}.

    @param fd: -1 for a new one, or a signalfd (its number, or an object with
        C{fileno}).
    @param signals: The numbers of the signals.  SIGKILL and SIGSTOP are
        dropped without an error.
    @param flags: C{SFD_CLOEXEC}, C{SFD_NONBLOCK}, both (with C{|}), or 0.
        Ignored by the system when C{fd} is not -1.
    @return: The new descriptor's number, or that of C{fd}.
    @raise TypeError: For what is no signal number.
    @raise ValueError: C{signal number -2 out of range}.
    @raise InvalidArgument: For C{fd} that is no signalfd, and unknown flags.
    @raise SignalfdUnavailable: On a system without signalfd.
    @raise OSError: For every other answer of signalfd(2).
    """
    number, mask, flags = _fileno(fd), sigset(signals), _index(flags)
    result: int = lib.txs_signalfd(number, mask, flags)
    if result == -1:
        if ffi.errno in (errno.ENOSYS, errno.EPERM):
            raise SignalfdUnavailable(
                ffi.errno,
                "this system does not offer signalfd(2): it needs Linux 2.6.27"
                " or later, and a sandbox that allows signalfd4",
            )
        _raise(ffi.errno, "signalfd")
    return result


def sigprocmask(how: int, signals: Iterable[int]) -> list[int]:
    """
    Change which signals the calling thread blocks: pthread_sigmask(3).

    @param how: C{SIG_BLOCK}, C{SIG_UNBLOCK} or C{SIG_SETMASK}.
    @param signals: The numbers of the signals.
    @return: The signals that were blocked before, sorted.
    @raise TypeError: For what is no signal number.
    @raise ValueError: C{signal number -2 out of range}, or C{value specified
        for how (1700) invalid}.
    """
    how, mask, old = _index(how), sigset(signals), ffi.new("sigset_t *")
    if lib.pthread_sigmask(how, mask, old) != 0:
        raise ValueError(f"value specified for how ({how}) invalid")
    return [signo for signo in VALID_SIGNALS if lib.sigismember(old, signo) == 1]


def create_signalfd(signals: Iterable[int], flags: int = 0) -> int:
    """
    Block these signals in the calling thread, and make a signalfd of them.

    @param signals: The numbers of the signals; SIGKILL and SIGSTOP may be
        among them, and have no effect.
    @param flags: As for L{signalfd}.
    @return: The descriptor's number.
    @raise OSError: And the other errors of L{signalfd}.  Then nothing is
        blocked that was not.
    """
    wanted = list(signals)
    before = sigprocmask(SIG_BLOCK, wanted)
    try:
        return signalfd(-1, wanted, flags)
    except BaseException:
        sigprocmask(SIG_SETMASK, before)
        raise


def read_signalfd(fd: Any) -> SigInfo:
    """
    Read one signal.  Blocks until there is one, unless C{fd} does not block.

    @param fd: A signalfd: its number, or an object with C{readinto} (a raw or
        a buffered file) or C{fileno}.
    @raise BlockingIOError: When C{fd} does not block and there is none.
    @raise ValueError: For C{fd} that gives no whole record: it is no signalfd.
    @raise OSError: For every other answer of read(2), such as C{EBADF}.
    """
    if hasattr(fd, "readinto"):
        buffer = bytearray(SIGINFO_SIZE)
        count = fd.readinto(buffer)
        if count is None:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        record = bytes(buffer[:count])
    else:
        record = os.read(_fileno(fd), SIGINFO_SIZE)
    if not record:
        raise ValueError("end of file: this is no signalfd")
    return parse(record)[0]


#: The name that PyPI's signalfd has for L{read_signalfd}.
read_siginfo = read_signalfd


def sigqueue(pid: int, signal: int, value: int = 0) -> None:
    """
    Send a signal with a value: sigqueue(3).  A realtime signal queues; of any
    other one at most is pending at a time.

    @param pid: The process.
    @param signal: The signal's number; 0 only asks whether it could be sent.
    @param value: What the receiver has as L{SigInfo.value}: an int of 32 bits
        with a sign.
    @raise OverflowError: For a value of more than 32 bits.
    @raise BlockingIOError: When the receiver's user has as many signals
        pending as RLIMIT_SIGPENDING allows.
    @raise ProcessLookupError: When there is no such process.
    @raise PermissionError: When it is not ours to signal.
    @raise InvalidArgument: For a number that is no signal.
    """
    if lib.txs_sigqueue(_index(pid), _index(signal), _index(value)) == -1:
        _raise(ffi.errno, "sigqueue")
