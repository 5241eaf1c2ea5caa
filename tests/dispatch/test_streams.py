"""
C{dispatcher.stream}: signals as an asynchronous iterator.
"""

from __future__ import annotations

from signal import SIGRTMIN, SIGUSR1
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent

from tests.support.handlers import Recorder
from tests.support.reactors import spin, turn, until
from tests.support.worlds import dispatcherFor, queue, send
from txsignalfd import SigInfo, SignalStream

pytestmark = pytest.mark.usefixtures("world")


def test_aStreamLosesNothingBetweenEnteringAndLeaving() -> None:
    """
    Not before the iteration starts, nor between its steps.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        values = []
        with dispatcher.stream(SIGRTMIN, SIGUSR1) as infos:
            queue(*range(100))
            await turn(reactor)
            async for info in infos:
                values.append(info.value)
                if info.value == 50:
                    queue(*range(100, 200))
                    await turn(reactor)
                if info.value == 199:
                    break
        assert values == list(range(200))
        assert dispatcher.watching == {SIGRTMIN, SIGUSR1}
        await dispatcher.close()

    spin(main)


def test_aStreamWaitsForTheNextSignal() -> None:
    """
    Beside handlers and other streams, of which each gets each signal.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        got = Recorder()
        dispatcher.addHandler(SIGUSR1, got)
        with dispatcher.stream(SIGUSR1) as one, dispatcher.stream(SIGUSR1) as two:
            reactor.callLater(0, send, SIGUSR1)
            assert (await one.__anext__()) is (await two.__anext__())
        assert len(got.infos) == 1
        await dispatcher.close()

    spin(main)


def test_aStreamThatIsLeftTellsWhatWasUnread(logged: list[LogEvent]) -> None:
    """
    In the log, so that it is not lost without a word.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        with dispatcher.stream(SIGRTMIN) as infos:
            queue(1, 2, 3)
            await turn(reactor)
            assert (await infos.__anext__()).value == 1
        (event,) = (event for event in logged if "unread" in event["log_format"])
        assert event["count"] == 2
        assert event["unread"].count("SIGRTMIN from pid") == 2
        await dispatcher.close()

    spin(main)


async def collect(stream: SignalStream) -> list[SigInfo]:
    """
    Read a stream to its end.
    """
    return [info async for info in stream]


def test_aStreamEndsWhenTheDispatcherIsClosed() -> None:
    """
    After the last signal, for each who iterates.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        with dispatcher.stream(SIGRTMIN) as infos:
            waiting = Deferred.fromCoroutine(collect(infos))
            late = dispatcher.stream(SIGRTMIN)
            with late as later:
                queue(1, 2)
                await dispatcher.close()
                assert [info.value for info in await waiting] == [1, 2]
                assert [info.value for info in await collect(later)] == [1, 2]
                assert await collect(later) == []

    spin(main)


def test_leavingAStreamEndsIt() -> None:
    """
    For who still iterates.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        with dispatcher.stream(SIGUSR1) as infos:
            waiting = Deferred.fromCoroutine(collect(infos))
            send(SIGUSR1)
            await until(reactor, lambda: not infos.unread())
        assert await waiting is not None
        await dispatcher.close()

    spin(main)


def test_whoWaitsHasWhatIsHeldAtTheClosing(logged: list[LogEvent]) -> None:
    """
    Closing waits for the end of the hold, and says so.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        waiting = dispatcher.whenReceived(SIGRTMIN)
        with dispatcher.stream(SIGRTMIN) as infos:
            reading = Deferred.fromCoroutine(collect(infos))
            with dispatcher.hold(SIGRTMIN):
                queue(1)
                await turn(reactor)
                closed = dispatcher.close()
                assert not waiting.called
            await closed
            assert (await waiting).value == 1
            assert [info.value for info in await reading] == [1]

    spin(main)
    assert any("closing waits" in event["log_format"] for event in logged)
    assert not any("log_failure" in event for event in logged)
