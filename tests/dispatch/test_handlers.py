"""
L{HandlerTable}: the handlers of each signal, without a kernel and a reactor.
"""

from __future__ import annotations

from signal import SIGUSR1, SIGUSR2
from typing import cast

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, Logger

from txsignalfd._dispatch import handlerlog
from txsignalfd._dispatch.handlers import HandlerTable
from txsignalfd._dispatch.runs import LIMIT, Overlap
from txsignalfd.siginfo import SigInfo


def signals(*numbers: int) -> list[SigInfo]:
    """
    Return a distinct signal for each number.
    """
    return [SigInfo.make(each, pid=pid) for pid, each in enumerate(numbers, 1)]


def test_anInterruptLosesNoSignal(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    After a KeyboardInterrupt, which Python may raise anywhere, the rest of the
    signals is handled before the next ones.
    """

    def interrupt(event: LogEvent) -> None:
        raise KeyboardInterrupt

    log = Logger(observer=cast(ILogObserver, interrupt))
    monkeypatch.setattr(handlerlog, "_log", log)
    table = HandlerTable(lambda: None)
    received: list[SigInfo] = []
    table.add(SIGUSR1, received.append, Overlap.QUEUE, LIMIT)
    first, unhandled, *rest = signals(SIGUSR1, SIGUSR2, SIGUSR1, SIGUSR1)
    with pytest.raises(KeyboardInterrupt):
        table.receive([first, unhandled, *rest])
    assert received == [first]
    (later,) = signals(SIGUSR1)
    table.receive([later])
    assert received == [first, *rest, later]


def test_aLongQueueNeedsNoStack() -> None:
    """
    Signals that were queued for a coroutine function are handled one after the
    other, not one within the other.
    """
    table = HandlerTable(lambda: None)
    first: Deferred[None] = Deferred()
    received: list[SigInfo] = []

    async def handler(info: SigInfo) -> None:
        received.append(info)
        if len(received) == 1:
            await first

    table.add(SIGUSR1, handler, Overlap.QUEUE, LIMIT)
    infos = signals(*[SIGUSR1] * 5000)
    table.receive(infos)
    assert len(received) == 1
    first.callback(None)
    assert received == infos
    assert table.isIdle()


def test_aFailureOnAQueuedSignalIsLoggedWithIt(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The handler gets the next signal all the same.
    """
    events: list[LogEvent] = []
    log = Logger(observer=cast(ILogObserver, events.append))
    monkeypatch.setattr(handlerlog, "_log", log)
    table = HandlerTable(lambda: None)
    first: Deferred[None] = Deferred()
    received: list[SigInfo] = []

    def handler(info: SigInfo) -> Deferred[None] | None:
        received.append(info)
        if len(received) == 1:
            return first
        raise RuntimeError("the test raises this")

    table.add(SIGUSR1, handler, Overlap.QUEUE, LIMIT)
    infos = signals(SIGUSR1, SIGUSR1, SIGUSR1)
    table.receive(infos)
    first.callback(None)
    assert received == infos
    assert [event["info"] for event in events] == infos[1:]
