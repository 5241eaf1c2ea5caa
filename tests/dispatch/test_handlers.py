"""
Which handlers a signal goes to, without a kernel and a reactor.
"""

from __future__ import annotations

import struct
from signal import SIGUSR1, SIGUSR2
from typing import cast

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, Logger

from txsignalfd._dispatch import handlers
from txsignalfd._dispatch.handlers import HandlerTable, Overlap
from txsignalfd.siginfo import SIGINFO_SIZE, SigInfo, parse


def signals(*numbers: int) -> list[SigInfo]:
    """
    Signals that nobody has sent.
    """
    return parse(
        b"".join(struct.pack("=I", each).ljust(SIGINFO_SIZE, b"\0") for each in numbers)
    )


def test_anInterruptLosesNoSignal(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Python may raise KeyboardInterrupt anywhere, as while we log.  What was not
    handed out by then is handed out with the next that come, before them.
    """

    def interrupt(event: LogEvent) -> None:
        raise KeyboardInterrupt

    log = Logger(observer=cast(ILogObserver, interrupt))
    monkeypatch.setattr(handlers, "_log", log)
    table = HandlerTable(lambda: None)
    received: list[SigInfo] = []
    table.add(SIGUSR1, received.append, Overlap.QUEUE)
    interrupted = signals(SIGUSR1, SIGUSR2, SIGUSR1, SIGUSR1)
    with pytest.raises(KeyboardInterrupt):
        table.receive(interrupted)
    assert received == signals(SIGUSR1)
    later = signals(SIGUSR1)
    table.receive(later)
    assert list(map(id, received)) == [
        *(id(info) for info in interrupted if info.signo == SIGUSR1),
        id(later[0]),
    ]


def test_whatWasKeptForACoroutineNeedsNoStack() -> None:
    """
    Many signals that were kept for a coroutine function, which then ends each
    time at once, are handled in order, one after the other and not one within
    the other.
    """
    table = HandlerTable(lambda: None)
    first: Deferred[None] = Deferred()
    received: list[SigInfo] = []

    async def handler(info: SigInfo) -> None:
        received.append(info)
        if len(received) == 1:
            await first

    table.add(SIGUSR1, handler, Overlap.QUEUE)
    infos = signals(*[SIGUSR1] * 5000)
    table.receive(infos)
    assert len(received) == 1
    first.callback(None)
    assert list(map(id, received)) == list(map(id, infos))
    assert table.isIdle()


def test_whatWasKeptMayFail(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A handler that raises on a signal that was kept for it is logged with that
    signal, and gets the next.
    """
    events: list[LogEvent] = []
    log = Logger(observer=cast(ILogObserver, events.append))
    monkeypatch.setattr(handlers, "_log", log)
    table = HandlerTable(lambda: None)
    first: Deferred[None] = Deferred()
    received: list[SigInfo] = []

    def handler(info: SigInfo) -> Deferred[None] | None:
        received.append(info)
        if len(received) == 1:
            return first
        raise RuntimeError("as the test wants it")

    table.add(SIGUSR1, handler, Overlap.QUEUE)
    infos = signals(SIGUSR1, SIGUSR1, SIGUSR1)
    table.receive(infos)
    first.callback(None)
    assert list(map(id, received)) == list(map(id, infos))
    assert [id(event["info"]) for event in events] == list(map(id, infos[1:]))
