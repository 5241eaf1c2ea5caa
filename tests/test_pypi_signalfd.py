"""
L{txsignalfd.lowlevel} compared with PyPI's signalfd 1.0.0.

The same calls have the same results, and errors that the same code catches.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
from collections.abc import Callable
from signal import SIGKILL, SIGRTMIN, SIGUSR1, SIGUSR2
from typing import Any

import pytest
import signalfd as theirs

from tests.support.files import HasFileno, openBuffered, openRaw
from tests.support.kernel import inChild
from txsignalfd import lowlevel as ours

REALTIME = SIGRTMIN + 3


#: Their ssi_band is missing, because a comment before it is not closed.
FIELDS = (
    *("signo", "errno", "code", "uid", "fd", "tid", "overrun", "trapno", "status"),
    *("int", "ptr", "utime", "stime", "addr"),
)


def outcome(module: Any, call: Callable[[Any], Any]) -> Any:
    """
    Return the result or the exception of a call in its own process.
    """

    def run() -> Any:
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        try:
            return call(module)
        except Exception as error:
            # Errors of cffi cannot be pickled.
            return type(error), getattr(error, "errno", None)

    return inChild(run)


def update(module: Any, wrap: Callable[[int], Any]) -> bool:
    """
    Change the signals of a descriptor.
    """
    made = module.signalfd(-1, [SIGUSR1], 0)
    assert module.signalfd(wrap(made), [SIGUSR2], 0) == made
    with open(f"/proc/self/fdinfo/{made}", encoding="ascii") as info:
        return "sigmask:\t0000000000000800\n" in info.readlines()


def block(module: Any) -> list[list[int]]:
    """
    Change the mask in every way.
    """
    return [
        module.sigprocmask(how, signals)
        for how, signals in (
            (module.SIG_BLOCK, [SIGUSR1, SIGKILL]),
            (module.SIG_BLOCK, {SIGUSR2}),
            (module.SIG_UNBLOCK, iter([SIGUSR1])),
            (module.SIG_SETMASK, range(1, 4)),
            (module.SIG_SETMASK, []),
        )
    ]


def receive(module: Any, wrap: Callable[[int], Any]) -> list[tuple[Any, ...]]:
    """
    Receive two signals, and read the fields that both modules have.
    """
    module.sigprocmask(module.SIG_BLOCK, [SIGUSR1, SIGUSR2])
    made = module.signalfd(-1, [SIGUSR1, SIGUSR2], module.SFD_NONBLOCK)
    source = wrap(made)
    received = []
    for signo in (SIGUSR2, SIGUSR1):
        os.kill(os.getpid(), signo)
        info = module.read_siginfo(source)
        fields = (getattr(info, f"ssi_{name}") for name in FIELDS)
        received.append(tuple(fields))
        assert info.ssi_pid == os.getpid()
    return received


def receiveNothing(module: Any, wrap: Callable[[int], Any]) -> Any:
    """
    Read while no signal is pending.
    """
    made = module.signalfd(-1, [SIGUSR1], module.SFD_NONBLOCK)
    return module.read_siginfo(wrap(made))


def withoutDescriptors(module: Any) -> Any:
    """
    Make a signalfd without free descriptors.
    """
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 1024))
    return module.signalfd(-1, [SIGUSR1], 0)


def flagsOf(module: Any, flags: int) -> tuple[int, bool]:
    """
    Return the flags of a new descriptor.
    """
    made = module.signalfd(-1, [SIGUSR1], flags)
    return fcntl.fcntl(made, fcntl.F_GETFD), os.get_blocking(made)


def receiveFromPipe(module: Any) -> Any:
    """
    Read less than a record from a pipe.
    """
    reader, writer = os.pipe()
    os.write(writer, b"abc")
    return module.read_siginfo(reader)


RESULTS: dict[str, Callable[[Any], Any]] = {
    "no flags": lambda module: flagsOf(module, 0),
    "cloexec": lambda module: flagsOf(module, module.SFD_CLOEXEC),
    "nonblock": lambda module: flagsOf(module, module.SFD_NONBLOCK),
    "update a number": lambda module: update(module, int),
    "update an object": lambda module: update(module, HasFileno),
    "block": block,
    "read a number": lambda module: receive(module, int),
    "read a raw file": lambda module: receive(module, openRaw),
    "read a buffered file": lambda module: receive(module, openBuffered),
    "constants": lambda module: [
        module.SIGINFO_SIZE,
        module.SIG_BLOCK,
        module.SIG_UNBLOCK,
        module.SIG_SETMASK,
        module.SFD_CLOEXEC,
        module.SFD_NONBLOCK,
    ],
    "all signals": lambda module: sorted(set(module.ALL_SIGNALS)),
}


@pytest.mark.parametrize("call", RESULTS.values(), ids=list(RESULTS))
def test_resultsAreEqual(call: Callable[[Any], Any]) -> None:
    assert outcome(ours, call) == outcome(theirs, call)


ERRORS: dict[str, Callable[[Any], Any]] = {
    "closed": lambda module: module.signalfd(99, [SIGUSR1], 0),
    "no signalfd": lambda module: module.signalfd(0, [SIGUSR1], 0),
    "unknown flags": lambda module: module.signalfd(-1, [SIGUSR1], 1),
    "negative flags": lambda module: module.signalfd(-1, [SIGUSR1], -1),
    "descriptor is a text": lambda module: module.signalfd("1", [SIGUSR1], 0),
    "flags are a float": lambda module: module.signalfd(-1, [SIGUSR1], 1.2),
    "signals are a text": lambda module: module.signalfd(-1, "foo", 0),
    "signals are no iterable": lambda module: module.signalfd(-1, object(), 0),
    "no descriptors": withoutDescriptors,
    "unknown how": lambda module: module.sigprocmask(1700, [SIGUSR1]),
    "how is a text": lambda module: module.sigprocmask("block", [SIGUSR1]),
    "blocked is a text": lambda module: module.sigprocmask(0, "foo"),
    "blocked is no iterable": lambda module: module.sigprocmask(0, object()),
    "how is too large": lambda module: module.sigprocmask(2**40, []),
    "no signal by number": lambda module: receiveNothing(module, int),
    "no signal in a raw file": lambda module: receiveNothing(module, openRaw),
    "no signal in a buffered file": lambda module: receiveNothing(module, openBuffered),
    "read a closed one": lambda module: module.read_siginfo(99),
    "read a text": lambda module: module.read_siginfo("1"),
    "read a pipe": receiveFromPipe,
    "no arguments": lambda module: module.signalfd(),
    "too many arguments": lambda module: module.sigprocmask(0, [], 0),
}


@pytest.mark.parametrize("call", ERRORS.values(), ids=list(ERRORS))
def test_errorsCanBeCaughtTheSameWay(call: Callable[[Any], Any]) -> None:
    """
    The class is a subclass of theirs, and the errno is theirs if they have one.
    """
    theirClass, theirErrno = outcome(theirs, call)
    ourClass, ourErrno = outcome(ours, call)
    assert issubclass(ourClass, theirClass)
    assert theirErrno in (None, ourErrno)


def test_defectsOfTheOtherModule() -> None:
    """
    It forgets blocked realtime signals, and accepts unknown signals.
    """

    def blocked(module: Any) -> Any:
        module.sigprocmask(module.SIG_BLOCK, [REALTIME])
        return module.sigprocmask(module.SIG_BLOCK, [])

    assert outcome(theirs, blocked) == []
    assert outcome(ours, blocked) == [REALTIME]

    def wrong(module: Any) -> Any:
        return module.sigprocmask(module.SIG_BLOCK, [1700])

    assert outcome(theirs, wrong) == []
    assert outcome(ours, wrong) == (ValueError, None)
