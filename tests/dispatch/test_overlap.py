"""
L{Overlap}: what happens to a signal while its handler is busy.
"""

from __future__ import annotations

from signal import SIGRTMIN, SIGUSR1
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.python.failure import Failure

from tests.support.handlers import Recorder
from tests.support.inreactor import inReactor
from tests.support.observers import Logged
from tests.support.reactors import turn, until
from tests.support.worlds import queue
from txsignalfd import Overlap, Registration, SigInfo, SignalDispatcher

pytestmark = pytest.mark.usefixtures("world")


class Busy:
    """
    A handler whose Deferreds have not fired.
    """

    def __init__(self, dispatcher: SignalDispatcher, overlap: Overlap) -> None:
        self.dispatcher = dispatcher
        self.got = Recorder(busy=True)
        self.registration: Registration = dispatcher.addHandler(
            SIGRTMIN, self.got, overlap
        )

    async def receive(self, *values: int) -> None:
        """
        Receive signals with these values.
        """
        queue(*values)
        await turn()

    def end(self, index: int) -> list[int | None]:
        """
        Fire a Deferred of the handler, and return the values received so far.
        """
        self.got.out[index].callback(None)
        return self.got.values

    async def close(self) -> None:
        """
        Finish all calls of the handler, and close.
        """
        closed = self.dispatcher.close()
        while not closed.called:
            for deferred in self.got.out:
                if not deferred.called:
                    deferred.callback(None)
        await closed


@inReactor
async def test_queueKeepsEachSignalInOrder(dispatcher: SignalDispatcher) -> None:
    """
    The handler handles one signal at a time.
    """
    busy = Busy(dispatcher, Overlap.QUEUE)
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


@inReactor
async def test_mergeCallsOnceMoreWithTheNewestSignal(
    dispatcher: SignalDispatcher,
) -> None:
    busy = Busy(dispatcher, Overlap.MERGE)
    await busy.receive(1, 2, 3, 4)
    assert busy.got.values == [1]
    assert busy.registration.waiting == 1
    assert busy.end(0) == [1, 4]
    assert busy.end(1) == [1, 4]
    await busy.receive(5)
    assert busy.got.values == [1, 4, 5]
    await busy.close()


@inReactor
async def test_dropCountsDroppedSignals(dispatcher: SignalDispatcher) -> None:
    """
    The handler gets the next signal that arrives when it has finished.
    """
    busy = Busy(dispatcher, Overlap.DROP)
    await busy.receive(1, 2, 3)
    assert busy.registration.dropped == 2
    assert busy.end(0) == [1]
    await busy.receive(4)
    assert busy.got.values == [1, 4]
    assert busy.registration.dropped == 2
    await busy.close()


@inReactor
async def test_concurrentCallsFinishInAnyOrder(dispatcher: SignalDispatcher) -> None:
    busy = Busy(dispatcher, Overlap.CONCURRENT)
    await busy.receive(1, 2, 3)
    assert busy.got.values == [1, 2, 3]
    assert len(busy.registration.runs) == 3
    busy.end(1)
    assert len(busy.registration.runs) == 2
    await busy.close()


@inReactor
async def test_restartCancelsTheLastCall(
    dispatcher: SignalDispatcher, logged: Logged
) -> None:
    """
    Its L{CancelledError} is not logged as a failure.
    """
    busy = Busy(dispatcher, Overlap.RESTART)
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
    assert cancelled == []  # the registration's callback handles the failure
    assert not logged.failures


@inReactor
async def test_restartCancelsACoroutineWhereItWaits(
    dispatcher: SignalDispatcher, logged: Logged
) -> None:
    """
    An exception other than L{CancelledError} that it raises for that is logged.
    """
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
    await until(lambda: len(began) == 3)
    (failure,) = logged.failures
    assert failure.check(ZeroDivisionError)
    never[-1].callback(None)


@inReactor
async def test_restartDoesNotWaitForACallThatIgnoresIt(
    dispatcher: SignalDispatcher,
) -> None:
    """
    Closing does.
    """
    stubborn: list[Deferred[None]] = []

    def handler(info: SigInfo) -> Deferred[None]:
        inner: Deferred[None] = Deferred(lambda _: None)
        outer: Deferred[None] = Deferred(lambda _: outer.callback(None))
        outer.addCallback(lambda _: inner)
        stubborn.append(inner)
        return outer

    registration = dispatcher.addHandler(SIGRTMIN, handler, Overlap.RESTART)
    queue(1, 2)
    await until(lambda: len(stubborn) == 2)
    assert len(registration.runs) == 2
    closed = dispatcher.close()
    for inner in stubborn:
        assert not closed.called
        inner.callback(None)
    for run in list(registration.runs):
        assert run.deferred is not None
        run.deferred.cancel()
    await closed


@pytest.mark.parametrize("overlap", list(Overlap))
@inReactor
async def test_aFiredDeferredDoesNotKeepAHandlerBusy(
    dispatcher: SignalDispatcher, overlap: Overlap
) -> None:
    """
    Nor does a coroutine that never suspends.  Many of them do not grow the stack.
    """
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
        await turn()
        first.callback(None)
    else:
        queue(*range(1, count + 1))
    await until(lambda: len(values) == count)
    registration = dispatcher.addHandler(SIGUSR1, coroutine, overlap)
    queue(7, signo=SIGUSR1)
    await until(lambda: registration.handled)
    assert values[-1] == 7
    assert not registration.runs
    assert registration.ready


@inReactor
async def test_aDeferredKeepsItsResultForOtherCallbacks(
    dispatcher: SignalDispatcher,
) -> None:
    busy = Busy(dispatcher, Overlap.QUEUE)
    await busy.receive(1)
    results: list[object] = []
    busy.got.out[0].addCallback(results.append)
    busy.got.out[0].callback(7)  # type: ignore[arg-type]
    assert results == [7]
    await busy.close()


@inReactor
async def test_aRemovedHandlerGetsNoQueuedSignals(dispatcher: SignalDispatcher) -> None:
    """
    Its call that has not finished goes on, and closing waits for it.
    """
    busy = Busy(dispatcher, Overlap.QUEUE)
    await busy.receive(1, 2)
    busy.registration.remove()
    closed = dispatcher.close()
    assert not closed.called
    assert busy.end(0) == [1]
    await closed


@inReactor
async def test_aRegistrationHasARepr(dispatcher: SignalDispatcher) -> None:
    busy = Busy(dispatcher, Overlap.MERGE)
    assert repr(busy.registration) == (
        "<Registration of tests.support.handlers.Recorder for SIGRTMIN, MERGE>"
    )


@inReactor
async def test_aCancellerThatRaisesIsLoggedAndStopsNoOther(
    dispatcher: SignalDispatcher, logged: Logged
) -> None:
    one, two = Recorder(), Recorder()

    def bad(_: object) -> None:
        raise ZeroDivisionError

    def handler(info: SigInfo) -> Deferred[None]:
        one(info)
        return Deferred(bad)

    registration = dispatcher.addHandler(SIGRTMIN, handler, Overlap.RESTART)
    dispatcher.addHandler(SIGRTMIN, two)
    queue(*range(5))
    await until(lambda: len(two.infos) == 5)
    assert one.values == two.values == list(range(5))
    assert all(failure.check(ZeroDivisionError) for failure in logged.failures)
    for run in list(registration.runs):
        assert run.deferred is not None
        run.deferred.callback(None)


@inReactor
async def test_aCancelledCallMayRemoveItsHandler(dispatcher: SignalDispatcher) -> None:
    """
    The handler is not called again.
    """
    got = Recorder()

    def handler(info: SigInfo) -> Deferred[None]:
        got(info)
        deferred: Deferred[None] = Deferred()
        deferred.addErrback(lambda _: registration.remove())
        return deferred

    registration = dispatcher.addHandler(SIGRTMIN, handler, Overlap.RESTART)
    queue(1, 2)
    await turn()
    assert got.values == [1]


@pytest.mark.parametrize("kind", ["asyncio"])
@inReactor
async def test_aCancelledFutureOfAsyncioIsNotLogged(
    reactor: Any, dispatcher: SignalDispatcher, kind: str, logged: Logged
) -> None:
    futures: list[Any] = []

    def handler(info: SigInfo) -> Any:
        futures.append(reactor._asyncioEventloop.create_future())
        return futures[-1]

    registration = dispatcher.addHandler(SIGRTMIN, handler, Overlap.RESTART)
    queue(1, 2)
    await until(lambda: len(futures) == 2)
    futures[1].set_result(None)
    await until(lambda: not registration.runs)
    assert futures[0].cancelled()
    assert not logged.failures
