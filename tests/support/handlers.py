"""
Handlers for tests, and a program that sends signals.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, formatEvent
from twisted.python.failure import Failure

from tests.support.reactors import (
    DEADLINE,
    KINDS,
)
from txsignalfd import (
    SigInfo,
)

T = TypeVar("T")

everyReactor = pytest.mark.parametrize("kind", list(KINDS))


inEachThread = pytest.mark.parametrize("inThread", [False, True], ids=["main", "other"])


def failures(logged: list[LogEvent]) -> list[Failure]:
    """
    Return the logged failures.
    """
    return [event["log_failure"] for event in logged if "log_failure" in event]


def textsOf(logged: list[LogEvent], namespace: str = "") -> list[str]:
    """
    Return the messages that were logged, by one namespace and those below it.
    """
    return [
        str(formatEvent(event))
        for event in logged
        if event["log_namespace"].startswith(namespace)
    ]


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


SENDER = """
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


def runIn(inThread: bool, function: Callable[[], None]) -> None:
    """
    Call a function, in this thread or in another.
    """
    if not inThread:
        function()
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        pool.submit(function).result(DEADLINE)
