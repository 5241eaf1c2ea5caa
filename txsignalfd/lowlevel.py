# -*- test-case-name: tests.test_lowlevel -*-
"""
The system calls around signalfd(2), by their own names.

This module is a drop-in replacement for Jean-Paul Calderone's python-signalfd,
for its branch with C{create_signalfd} and C{read_signalfd}, and for PyPI's
signalfd: only the import changes, to C{import txsignalfd.lowlevel as signalfd}.

These calls change only the mask of the calling thread.  Other threads of the
process can still receive the signals, and children inherit the mask.  A program
with threads or children should use L{txsignalfd.SignalDescriptor} or
L{txsignalfd.SignalDispatcher}.

Errors of the system are raised as C{OSError} with the errno.  PyPI's signalfd
raises C{ValueError} for two of them; L{InvalidArgument}, which these two raise
here, is both.
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
    The system refused an argument: C{EBADF} or C{EINVAL}.
    """


#: The exception that PyPI's signalfd raises for any other errno.
UnknownError = OSError


class SignalfdUnavailable(OSError):
    """
    This system has no signalfd(2) or refuses to run it: C{ENOSYS} or C{EPERM}.
    """


class HasFileno(Protocol):
    """
    An object with a file descriptor.
    """

    def fileno(self) -> int:
        """
        Return the number of the descriptor.
        """


def _raise(number: int, call: str) -> NoReturn:
    if number in (errno.EBADF, errno.EINVAL):
        raise InvalidArgument(number, f"{call}: {os.strerror(number)}")
    raise OSError(number, f"{call}: {os.strerror(number)}")


def _index(value: Any) -> int:
    try:
        return index(value)
    except TypeError as error:
        # This is python-signalfd's message; the cause names the type.
        raise TypeError("an integer is required") from error


def _fileno(fd: int | HasFileno) -> int:
    return _index(fd.fileno() if hasattr(fd, "fileno") else fd)


def sigset(signals: Iterable[int]) -> Any:
    """
    Make a C{sigset_t *}; the replaced modules do not have this function.

    @raise TypeError: For a value that is not an integer.
    @raise ValueError: For a number that the C library refuses.
    """
    mask = ffi.new("sigset_t *")
    lib.sigemptyset(mask)
    for signal in signals:
        signo = _index(signal)
        if not 0 < signo < lib.TXS_NSIG or lib.sigaddset(mask, signo) == -1:
            raise ValueError(f"signal number {signo} out of range")
    return mask


#: The signals that the C library accepts: all but those that it uses itself.
VALID_SIGNALS: Final = [
    signo
    for signo in range(1, lib.TXS_NSIG)
    if lib.sigaddset(ffi.new("sigset_t *"), signo) == 0
]


def signalfd(fd: int | HasFileno, signals: Iterable[int], flags: int = 0) -> int:
    """
    Make a signalfd, or change the signals of an existing one.

    The signals must also be blocked: see L{sigprocmask}.

    @param fd: -1 for a new signalfd, or an existing one: its number, or an object
        with C{fileno}.
    @param signals: The numbers of the signals.  SIGKILL and SIGSTOP are ignored.
    @param flags: C{SFD_CLOEXEC}, C{SFD_NONBLOCK}, both (with C{|}), or 0.
        The system ignores them when C{fd} is not -1.
    @return: The number of the new descriptor, or of C{fd}.
    @raise TypeError: For a value that is not an integer.
    @raise ValueError: C{signal number -2 out of range}.
    @raise InvalidArgument: If C{fd} is not a signalfd, and for unknown flags.
    @raise SignalfdUnavailable: On a system without signalfd(2).
    @raise OSError: For every other error of signalfd(2).
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
    @raise TypeError: For a value that is not an integer.
    @raise ValueError: C{signal number -2 out of range}, or C{value specified
        for how (1700) invalid}.
    """
    how, mask, old = _index(how), sigset(signals), ffi.new("sigset_t *")
    if lib.pthread_sigmask(how, mask, old) != 0:
        raise ValueError(f"value specified for how ({how}) invalid")
    return [signo for signo in VALID_SIGNALS if lib.sigismember(old, signo) == 1]


def create_signalfd(signals: Iterable[int], flags: int = 0) -> int:
    """
    Block signals in the calling thread, and make a signalfd for them.

    @param signals: The numbers of the signals.  SIGKILL and SIGSTOP are ignored.
    @param flags: As for L{signalfd}.
    @return: The descriptor's number.
    @raise OSError: Like the other errors of L{signalfd}; the mask of the thread is
        then unchanged.
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
    Read one signal; wait for it unless C{fd} is non-blocking.

    @param fd: A signalfd: its number, or an object with C{readinto} (a raw or
        a buffered file) or C{fileno}.
    @raise BlockingIOError: If C{fd} is non-blocking and no signal is pending.
    @raise ValueError: If C{fd} returns no whole record, and so is not a signalfd.
    @raise OSError: For every other error of read(2), such as C{EBADF}.
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
        raise ValueError("end of file: the descriptor is not a signalfd")
    return parse(record)[0]


#: PyPI's signalfd has L{read_signalfd} under this name.
read_siginfo = read_signalfd


def sigqueue(pid: int, signal: int, value: int = 0) -> None:
    """
    Send a signal with a value: sigqueue(3).

    Realtime signals queue.  A standard signal is merged with one that is already
    pending.

    @param pid: The receiving process.
    @param signal: The signal's number; 0 only checks whether it could be sent.
    @param value: The receiver's L{SigInfo.value}: a signed integer of 32 bits.
    @raise OverflowError: For a value of more than 32 bits.
    @raise BlockingIOError: If the receiver's user has as many signals pending as
        RLIMIT_SIGPENDING allows.
    @raise ProcessLookupError: If the process does not exist.
    @raise PermissionError: If this process may not signal it.
    @raise InvalidArgument: For a number that is not a signal.
    """
    if lib.txs_sigqueue(_index(pid), _index(signal), _index(value)) == -1:
        _raise(ffi.errno, "sigqueue")
