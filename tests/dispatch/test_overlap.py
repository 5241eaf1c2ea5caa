"""
L{Overlap}: what becomes of a signal while its handler is still busy.
"""

from __future__ import annotations

from signal import SIGRTMIN, SIGUSR1
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import LogEvent
from twisted.python.failure import Failure

from tests.support.handlers import Recorder, failures
from tests.support.reactors import spin, turn, until
from tests.support.worlds import dispatcherFor, queue
from txsignalfd import Overlap, Registration, SigInfo, SignalDispatcher

pytestmark = pytest.mark.usefixtures("world")


class Busy:
    """
    A dispatcher, and a handler whose Deferreds have not fired.
    """

    def __init__(self, reactor: Any, overlap: Overlap) -> None:
        self.reactor = reactor
        self.dispatcher: SignalDispatcher = dispatcherFor(reactor)
        self.got = Recorder(busy=True)
        self.registration: Registration = self.dispatcher.addHandler(
            SIGRTMIN, self.got, overlap
        )

    async def receive(self, *values: int) -> None:
        """
        Receive signals with these values.
        """
        queue(*values)
        await turn(self.reactor)

    def end(self, index: int) -> list[int | None]:
        """
        Fire a Deferred of the handler, and tell what it got till then.
        """
        self.got.out[index].callback(None)
        return self.got.values

    async def close(self) -> None:
        """
        Let the handler finish, and close.
        """
        closed = self.dispatcher.close()
        while not closed.called:
            for deferred in self.got.out:
                if not deferred.called:
                    deferred.callback(None)
        await closed


def test_aQueueKeepsEachInOrder() -> None:
    """
    And the handler runs once at a time.
    """

    async def main(reactor: Any) -> None:
        busy = Busy(reactor, Overlap.QUEUE)
        await busy.receive(1, 2, 3)
        assert busy.got.values == [1]
        assert busy.registration.waiting == 2
        assert busy.end(0) == [1, 2]
        await busy.receive(4)
        assert busy.end(1) == [1, 2, 3]
        assert busy.end(2) == [1, 2, 3, 4]
        assert busy.end(3) == [1, 2, 3, 4]
        await busy.receive(5)
        assert busy.got.values == [1, 2, 3, 4, 5]
        assert busy.registration.handled == 5
        await busy.close()

    spin(main)


def test_mergeKeepsOneMoreRunWithTheNewest() -> None:
    """
    However many come.
    """

    async def main(reactor: Any) -> None:
        busy = Busy(reactor, Overlap.MERGE)
        await busy.receive(1, 2, 3, 4)
        assert busy.got.values == [1]
        assert busy.registration.waiting == 1
        assert busy.end(0) == [1, 4]
        assert busy.end(1) == [1, 4]
        await busy.receive(5)
        assert busy.got.values == [1, 4, 5]
        await busy.close()

    spin(main)


def test_dropCountsWhatItDrops() -> None:
    """
    The handler gets the next one that comes when it is done.
    """

    async def main(reactor: Any) -> None:
        busy = Busy(reactor, Overlap.DROP)
        await busy.receive(1, 2, 3)
        assert busy.registration.dropped == 2
        assert busy.end(0) == [1]
        await busy.receive(4)
        assert busy.got.values == [1, 4]
        assert busy.registration.dropped == 2
        await busy.close()

    spin(main)


def test_concurrentRunsThemBesideEachOther() -> None:
    """
    They end in any order.
    """

    async def main(reactor: Any) -> None:
        busy = Busy(reactor, Overlap.CONCURRENT)
        await busy.receive(1, 2, 3)
        assert busy.got.values == [1, 2, 3]
        assert len(busy.registration.runs) == 3
        busy.end(1)
        assert len(busy.registration.runs) == 2
        await busy.close()

    spin(main)


def test_restartCancelsTheLastRun(logged: list[LogEvent]) -> None:
    """
    Its L{CancelledError} is no failure.
    """

    async def main(reactor: Any) -> None:
        busy = Busy(reactor, Overlap.RESTART)
        cancelled: list[Failure] = []
        await busy.receive(1)
        busy.got.out[0].addErrback(cancelled.append)
        await busy.receive(2, 3)
        assert busy.got.values == [1, 2, 3]
        assert [deferred.called for deferred in busy.got.out] == [True, True, False]
        assert len(busy.registration.runs) == 1
        busy.end(2)
        await busy.receive(4)
        assert busy.got.values == [1, 2, 3, 4]
        assert not busy.got.out[3].called
        await busy.close()
        assert cancelled == []  # we were there first, and took the failure

    spin(main)
    assert not failures(logged)


def test_restartCancelsACoroutineWhereItWaits(logged: list[LogEvent]) -> None:
    """
    What it raises for that other than L{CancelledError} is logged.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        began: list[int | None] = []
        never: list[Deferred[None]] = []

        async def handler(info: SigInfo) -> None:
            began.append(info.value)
            never.append(Deferred())
            try:
                await never[-1]
            except CancelledError:
                if info.value == 2:
                    raise ZeroDivisionError from None
                raise

        dispatcher.addHandler(SIGRTMIN, handler, Overlap.RESTART)
        queue(1, 2, 3)
        await until(reactor, lambda: len(began) == 3)
        assert [type(failure.value) for failure in failures(logged)] == [
            ZeroDivisionError
        ]
        never[-1].callback(None)
        await dispatcher.close()

    spin(main)


def test_restartNeedNotWaitForARunThatIgnoresIt() -> None:
    """
    But closing does.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        stubborn: list[Deferred[None]] = []

        def handler(info: SigInfo) -> Deferred[None]:
            inner: Deferred[None] = Deferred(lambda _: None)
            outer: Deferred[None] = Deferred(lambda _: outer.callback(None))
            outer.addCallback(lambda _: inner)
            stubborn.append(inner)
            return outer

        registration = dispatcher.addHandler(SIGRTMIN, handler, Overlap.RESTART)
        queue(1, 2)
        await until(reactor, lambda: len(stubborn) == 2)
        assert len(registration.runs) == 2
        closed = dispatcher.close()
        registration.runs.copy().pop()
        for inner in stubborn:
            assert not closed.called
            inner.callback(None)
        await until(reactor, lambda: not registration.runs or cancelAll(registration))
        await closed

    def cancelAll(registration: Registration) -> bool:
        for run in list(registration.runs):
            assert run.deferred is not None
            run.deferred.cancel()
        return not registration.runs

    spin(main)


@pytest.mark.parametrize("overlap", list(Overlap))
def test_aFiredDeferredKeepsNobodyBusy(overlap: Overlap) -> None:
    """
    Nor does a coroutine that does not wait.  A long queue of them does not
    grow the stack.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        values: list[int | None] = []
        first: Deferred[None] = Deferred()

        def fired(info: SigInfo) -> Deferred[None]:
            values.append(info.value)
            return first if info.value == 0 else succeed(None)

        async def coroutine(info: SigInfo) -> None:
            values.append(info.value)

        count = 3000
        dispatcher.addHandler(SIGRTMIN, fired, overlap)
        if overlap in (Overlap.QUEUE, Overlap.CONCURRENT):
            queue(*range(count))
            await turn(reactor)
            first.callback(None)
        else:
            queue(*range(1, count + 1))
        await until(reactor, lambda: len(values) == count)
        registration = dispatcher.addHandler(SIGUSR1, coroutine, overlap)
        queue(7, signo=SIGUSR1)
        await until(reactor, lambda: registration.handled)
        assert values[-1] == 7
        assert not registration.runs
        assert registration.ready
        await dispatcher.close()

    spin(main)


def test_aHandlersResultIsLeftToWhoElseWaitsForIt() -> None:
    """
    The Deferred that it returns may have other callbacks.
    """

    async def main(reactor: Any) -> None:
        busy = Busy(reactor, Overlap.QUEUE)
        await busy.receive(1)
        results: list[object] = []
        busy.got.out[0].addCallback(results.append)
        busy.got.out[0].callback(7)  # type: ignore[arg-type]
        assert results == [7]
        await busy.close()

    spin(main)


def test_removeForgetsWhatIsQueued() -> None:
    """
    The run that is out goes on, and is waited for by close.
    """

    async def main(reactor: Any) -> None:
        busy = Busy(reactor, Overlap.QUEUE)
        await busy.receive(1, 2)
        busy.registration.remove()
        closed = busy.dispatcher.close()
        assert not closed.called
        assert busy.end(0) == [1]
        await closed

    spin(main)


def test_aRegistrationTellsWhatItIs() -> None:
    """
    In a log or at a prompt.
    """

    async def main(reactor: Any) -> None:
        busy = Busy(reactor, Overlap.MERGE)
        assert repr(busy.registration) == (
            f"<Registration of {busy.got!r} for SIGRTMIN, MERGE>"
        )
        await busy.close()

    spin(main)


def test_aCancellerThatRaisesStopsNoOther(logged: list[LogEvent]) -> None:
    """
    It is logged, with the signal whose handling it was to end.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        one, two = Recorder(), Recorder()

        def bad(_: object) -> None:
            raise ZeroDivisionError

        def handler(info: SigInfo) -> Deferred[None]:
            one(info)
            return Deferred(bad)

        registration = dispatcher.addHandler(SIGRTMIN, handler, Overlap.RESTART)
        dispatcher.addHandler(SIGRTMIN, two)
        queue(*range(5))
        await until(reactor, lambda: len(two.infos) == 5)
        assert one.values == two.values == list(range(5))
        assert all(failure.check(ZeroDivisionError) for failure in failures(logged))
        closed = dispatcher.close()
        for run in list(registration.runs):
            assert run.deferred is not None
            run.deferred.callback(None)
        await closed

    spin(main)


def test_whatIsCancelledMayRemoveItsHandler() -> None:
    """
    It is then called no more.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        got = Recorder()

        def handler(info: SigInfo) -> Deferred[None]:
            got(info)
            deferred: Deferred[None] = Deferred()
            deferred.addErrback(lambda _: registration.remove())
            return deferred

        registration = dispatcher.addHandler(SIGRTMIN, handler, Overlap.RESTART)
        queue(1, 2)
        await turn(reactor)
        assert got.values == [1]
        await dispatcher.close()

    spin(main)


def test_aFutureOfAsyncioIsCancelledWithoutAWord(logged: list[LogEvent]) -> None:
    """
    Its own CancelledError is no failure either.
    """

    async def main(reactor: Any) -> None:
        dispatcher = dispatcherFor(reactor)
        futures: list[Any] = []

        def handler(info: SigInfo) -> Any:
            futures.append(reactor._asyncioEventloop.create_future())
            return futures[-1]

        registration = dispatcher.addHandler(SIGRTMIN, handler, Overlap.RESTART)
        queue(1, 2)
        await until(reactor, lambda: len(futures) == 2)
        futures[1].set_result(None)
        await until(reactor, lambda: not registration.runs)
        assert futures[0].cancelled()
        await dispatcher.close()

    spin(main, "asyncio")
    assert not failures(logged)
