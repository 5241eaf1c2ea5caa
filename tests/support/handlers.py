"""
Handlers for tests, and a program that sends signals.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import pytest
from twisted.internet.defer import Deferred

from tests.support.reactors import KINDS
from txsignalfd import SigInfo, SignalDispatcher

T = TypeVar("T")

everyReactor = pytest.mark.parametrize("kind", list(KINDS))


inEachThread = pytest.mark.parametrize("inThread", [False, True], ids=["main", "other"])


class Recorder:
    """
    A handler that records its signals, and returns Deferreds if it is busy.
    """

    def __init__(self, busy: bool = False) -> None:
        self.busy = busy
        self.infos: list[SigInfo] = []
        self.out: list[Deferred[None]] = []

    @property
    def values(self) -> list[int | None]:
        """
        The values of the signals.
        """
        return [info.value for info in self.infos]

    def __call__(self, info: SigInfo) -> Deferred[None] | None:
        self.infos.append(info)
        if not self.busy:
            return None
        self.out.append(Deferred())
        return self.out[-1]


def recording(
    dispatcher: SignalDispatcher, *signals: int, busy: bool = False
) -> Recorder:
    """
    Add a handler that records its signals.
    """
    got = Recorder(busy)
    for signo in signals:
        dispatcher.addHandler(signo, got)
    return got


def ignore(_: object) -> None:
    """
    Return C{None}, whatever an expression returns.
    """


class Handled(list[int]):
    """
    A handler of the signal module that records the signals.
    """

    def __call__(self, signo: int, frame: object) -> None:
        self.append(signo)


@contextmanager
def handling(signo: int, handler: T) -> Iterator[T]:
    """
    Install a handler of the signal module for a while.
    """
    before = signal.signal(signo, cast(Any, handler))
    try:
        yield handler
    finally:
        signal.signal(signo, before)


_SENDER = """
import sys
from txsignalfd.lowlevel import sigqueue
for value in range(int(sys.argv[3])):
    while True:
        try:
            sigqueue(int(sys.argv[1]), int(sys.argv[2]), value)
            break
        except BlockingIOError:  # RLIMIT_SIGPENDING: wait for the receiver
            pass
"""


def sender(
    signo: int, count: int, source: str = _SENDER, pid: int = 0, **how: Any
) -> subprocess.Popen[bytes]:
    """
    Start a process that sends a signal with the values 0, 1 and so on.

    @param source: Another program, which gets the pid, the signal and the count.
    @param pid: The receiver: this process by default.
    """
    arguments = map(str, (pid or os.getpid(), int(signo), count))
    return subprocess.Popen([sys.executable, "-c", source, *arguments], **how)
