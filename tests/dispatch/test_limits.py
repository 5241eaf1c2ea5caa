"""
Limits of what waits in memory: for handlers, holds and readers of streams.
"""

from __future__ import annotations

from contextlib import suppress
from signal import SIGRTMIN, SIGUSR1
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import formatEvent

from tests.support.handlers import Recorder
from tests.support.observers import Logged
from txsignalfd import Overlap, SigInfo
from txsignalfd._dispatch.runs import LIMIT
from txsignalfd.testing import MemorySignals


def infos(count: int, signo: int = SIGRTMIN) -> list[SigInfo]:
    """
    Return signals with the values 0, 1 and so on.
    """
    return [SigInfo.make(signo, "SI_QUEUE", int=value) for value in range(count)]


def messages(logged: Logged) -> list[str]:
    """
    Return the logged lines about dropped signals.
    """
    lines = [formatEvent(event) or "" for event in logged]
    return [line for line in lines if "is dropped" in line]


@pytest.mark.parametrize(
    ("overlap", "received", "dropped"),
    [
        (Overlap.QUEUE, [0, 1, 2, 3], 6),
        (Overlap.MERGE, [0, 9], 0),
        (Overlap.CONCURRENT, [0, 1, 2], 7),
    ],
)
def test_aBusyHandlerDropsSignalsAtItsLimit(
    overlap: Overlap, received: list[int], dropped: int, logged: Logged
) -> None:
    """
    The oldest signals are handled.  Dropped ones are counted, and the first is logged.
    """
    signals, got = MemorySignals(), Recorder(busy=True)
    registration = signals.addHandler(SIGRTMIN, got, overlap, limit=3)
    signals.deliver(*infos(10))
    for deferred in got.out:
        deferred.callback(None)
    assert got.values == received
    assert registration.dropped == dropped
    assert f"{dropped} dropped" in str(signals.describe())
    assert len(messages(logged)) == bool(dropped)
    signals.deliver(*infos(1))
    assert got.values == [*received, 0]


def test_restartDropsSignalsWhenTooManyCallsIgnoreIt(logged: Logged) -> None:
    signals = MemorySignals()
    values: list[int | None] = []

    async def handler(info: SigInfo) -> None:
        values.append(info.value)
        while True:
            with suppress(CancelledError):
                await Deferred()

    registration = signals.addHandler(SIGRTMIN, handler, Overlap.RESTART, limit=3)
    signals.deliver(*infos(10))
    assert values == [0, 1, 2]
    assert registration.dropped == 7
    assert len(messages(logged)) == 1


def test_aHoldDropsSignalsAtItsLimit(logged: Logged) -> None:
    """
    They are counted as dropped by each handler of the signal.
    """
    signals, got, other = MemorySignals(), Recorder(), Recorder()
    signals.addHandler(SIGRTMIN, got)
    signals.addHandler(SIGRTMIN, other)
    with signals.hold(SIGRTMIN, limit=3):
        signals.deliver(*infos(10))
    assert got.values == other.values == [0, 1, 2]
    assert [each.dropped for each in signals.handlersOf(SIGRTMIN)] == [7, 7]
    assert len(messages(logged)) == 1


def test_nestedHoldsHaveTheirOwnLimits() -> None:
    """
    A signal counts for each hold that defers it.
    """
    signals, got = MemorySignals(), Recorder()
    signals.addHandler(SIGRTMIN, got)
    signals.addHandler(SIGUSR1, got)
    with signals.hold(limit=4):
        with signals.hold(SIGRTMIN, limit=2):
            signals.deliver(*infos(3))
        signals.deliver(*infos(3, SIGUSR1))
        assert not got.infos
    assert got.values == [0, 1, 0, 1]


def test_heldSignalsWithoutAHandlerAreCountedAtTheLimit() -> None:
    signals = MemorySignals()
    signals.watch(SIGRTMIN)
    with signals.hold(SIGRTMIN, limit=1):
        signals.deliver(*infos(3))
        (watched,) = signals.describe().watched
    assert (watched.deferred, watched.unhandled) == (1, 2)


def test_aStreamDropsSignalsAtItsLimit(logged: Logged) -> None:
    """
    A reader gets the oldest signals, and new ones when it has read some.
    """
    signals = MemorySignals()
    values: list[Any] = []

    async def read(count: int) -> None:
        values.extend([(await stream.__anext__()).value for _ in range(count)])

    with signals.stream(SIGRTMIN, SIGUSR1, limit=3) as stream:
        signals.deliver(*infos(2), *infos(8, SIGUSR1))
        Deferred.fromCoroutine(read(2))
        signals.deliver(*infos(5))
        Deferred.fromCoroutine(read(3))
        dropped = [signals.handlersOf(each)[0].dropped for each in (SIGRTMIN, SIGUSR1)]
    assert values == [0, 1, 0, 0, 1]
    assert dropped == [3, 7]
    assert len(messages(logged)) == 2


def test_theDefaultLimitIsHigh() -> None:
    """
    Only a handler that never finishes, or a reader that never reads, reaches it.
    """
    signals = MemorySignals()
    registration = signals.addHandler(SIGRTMIN, Recorder(busy=True))
    assert registration.limit == LIMIT == 100_000


@pytest.mark.parametrize("limit", [0, -1])
def test_aLimitIsAtLeastOne(limit: int) -> None:
    """
    Nothing is watched otherwise.
    """
    signals = MemorySignals()
    for call in (
        lambda: signals.addHandler(SIGRTMIN, Recorder(), limit=limit),
        lambda: signals.hold(SIGRTMIN, limit=limit),
        lambda: signals.stream(SIGRTMIN, limit=limit).__enter__(),
    ):
        with pytest.raises(ValueError, match=f"limit: expected 1 or more, got {limit}"):
            call()
    assert not signals.watching
