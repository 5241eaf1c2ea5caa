"""
Results of handlers: no result, and no exception, stops other handlers or C{close}.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from signal import SIGRTMIN
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import formatEvent

from tests.support.handlers import Recorder
from tests.support.inreactor import inReactor
from tests.support.observers import Logged
from tests.support.reactors import turn, until
from txsignalfd import Overlap, SigInfo, SignalDispatcher
from txsignalfd.testing import MemorySignals

INFO = SigInfo.make(SIGRTMIN)


def raising(name: str, base: type = object) -> Any:
    """
    Return an object with an attribute that raises, also when it is called.
    """

    def error(self: Any, *_: Any) -> Any:
        raise SystemExit(name)

    isMethod = name.startswith("__") and name != "__class__"
    return type("Raising", (base,), {name: error if isMethod else property(error)})()


def firedDeferred(name: str) -> Any:
    """
    Return a Deferred that has fired, with an attribute that raises.
    """

    class Raising(Deferred[None]):
        def __getattribute__(self, wanted: str) -> Any:
            if wanted == name and armed:
                raise SystemExit(name)
            return super().__getattribute__(wanted)

    armed: list[bool] = []
    deferred = Raising()
    deferred.callback(None)
    armed.append(True)
    return deferred


class BadFuture:
    """
    It pretends to be a future of asyncio.
    """

    _asyncio_future_blocking = False

    def __await__(self) -> Any:
        raise AssertionError

    def add_done_callback(self, _: object) -> None:
        raise SystemExit("add_done_callback")


class Reluctant(Deferred[None]):
    """
    It raises although it has called the callback.
    """

    def addBoth(self, *args: Any, **kwargs: Any) -> Any:
        super().addBoth(*args, **kwargs)
        super().callback(None)
        raise SystemExit("addBoth")


#: Results that raise when they are inspected, or when their result is awaited.
RAISING: dict[str, Callable[[], Any]] = {
    "__class__": lambda: raising("__class__"),
    "__await__": lambda: raising("__await__"),
    "__await__ of another type": type("Wrong", (), {"__await__": 1}),
    "__class__ of a Deferred": lambda: raising("__class__", Deferred),
    "called": lambda: firedDeferred("called"),
    "paused": lambda: firedDeferred("paused"),
    "result": lambda: firedDeferred("result"),
    "addBoth": lambda: raising("addBoth", Deferred),
    "addBoth after a call": Reluctant,
    "a future": BadFuture,
}


@pytest.mark.parametrize("overlap", list(Overlap))
@pytest.mark.parametrize("result", RAISING)
def test_aResultThatRaisesIsLogged(
    result: str, overlap: Overlap, logged: Logged
) -> None:
    """
    Other handlers get every signal, and close does not wait for it.
    """
    signals, after = MemorySignals(), Recorder()
    signals.addHandler(SIGRTMIN, lambda _: RAISING[result](), overlap)
    signals.addHandler(SIGRTMIN, after)
    for _ in range(2):
        signals.deliver(INFO, INFO)
    assert len(after.infos) == 4
    assert signals.close().called
    assert len(logged.failures) == 4


@pytest.mark.parametrize("name", ["__bool__", "__eq__", "__repr__", "__hash__", None])
def test_aResultThatCannotBeAwaitedIsIgnored(name: str | None, logged: Logged) -> None:
    """
    A lambda may return anything, such as a number.
    """
    signals, after = MemorySignals(), Recorder()
    result: Any = raising(name) if name else 7
    registration = signals.addHandler(SIGRTMIN, lambda _: result)
    signals.addHandler(SIGRTMIN, after)
    signals.deliver(INFO, INFO)
    assert len(after.infos) == 2
    assert not registration.runs
    assert signals.close().called
    assert not logged.failures


EXCEPTIONS = [
    ZeroDivisionError,
    SystemExit,
    KeyboardInterrupt,
    GeneratorExit,
    StopIteration,
    asyncio.CancelledError,
]


def raiseIt(error: type[BaseException]) -> Any:
    """
    Raise in the handler itself.
    """
    raise error


def failIt(error: type[BaseException]) -> Any:
    """
    Return a Deferred that has failed.
    """
    return fail(error())


async def raiseInCoroutine(error: type[BaseException]) -> None:
    """
    Raise before the coroutine suspends.
    """
    raise error


@pytest.mark.parametrize("way", [raiseIt, failIt, raiseInCoroutine])
@pytest.mark.parametrize("error", EXCEPTIONS)
def test_anyExceptionOfAHandlerIsLogged(
    way: Callable[[type[BaseException]], Any],
    error: type[BaseException],
    logged: Logged,
) -> None:
    """
    With the signal.  It does not end the process, and stops neither other handlers nor
    close.
    """
    signals, after = MemorySignals(), Recorder()
    signals.addHandler(SIGRTMIN, lambda _: way(error))
    signals.addHandler(SIGRTMIN, after)
    signals.deliver(INFO, INFO)
    assert len(after.infos) == 2
    assert signals.close().called
    assert len(logged.failures) == 2
    assert all(each.check(error, RuntimeError) for each in logged.failures)
    assert [each["info"] for each in logged] == [INFO, INFO]


@pytest.mark.parametrize("wrap", [lambda coroutine: coroutine, Deferred.fromCoroutine])
@pytest.mark.parametrize("error", EXCEPTIONS)
def test_anyLaterExceptionIsLogged(
    error: type[BaseException], wrap: Callable[[Any], Any], logged: Logged
) -> None:
    """
    Of a suspended coroutine, and of a Deferred, with the signal.
    """
    signals = MemorySignals()
    waiting: Deferred[None] = Deferred()

    async def fails() -> None:
        await waiting
        raise error

    signals.addHandler(SIGRTMIN, lambda _: wrap(fails()))
    signals.deliver(INFO)
    closed = signals.close()
    assert not closed.called
    waiting.callback(None)
    assert closed.called
    (failure,) = logged.failures
    assert failure.check(error, RuntimeError)  # for StopIteration
    assert [each["info"] for each in logged] == [INFO]


@pytest.mark.parametrize("suspends", [False, True])
@pytest.mark.parametrize("makeValue", [Deferred, partial(raising, "__class__"), int])
def test_theValueThatACoroutineReturnsIsDiscarded(
    suspends: bool, makeValue: Callable[[], Any], logged: Logged
) -> None:
    """
    With a Deferred as its result, Twisted's own Deferred would never fire.
    """
    signals = MemorySignals()
    waiting: Deferred[None] = Deferred()

    async def handler(info: SigInfo) -> Any:
        if suspends:
            await waiting
        return makeValue()

    signals.addHandler(SIGRTMIN, handler)
    signals.deliver(INFO)
    waiting.callback(None)
    assert signals.close().called
    assert not logged.failures


def test_aCoroutineMaySuspendOften(logged: Logged) -> None:
    """
    It gets the results and the failures of what it awaits.
    """
    signals = MemorySignals()
    results: list[object] = []
    first: Deferred[int] = Deferred()
    second: Deferred[int] = Deferred()

    async def handler(info: SigInfo) -> None:
        results.append(await first)
        results.append(await succeed(2))
        try:
            await second
        except ZeroDivisionError as error:
            results.append(type(error))
        results.append(await succeed(3))

    signals.addHandler(SIGRTMIN, handler)
    signals.deliver(INFO)
    first.callback(1)
    closed = signals.close()
    assert not closed.called
    second.errback(ZeroDivisionError())
    assert closed.called
    assert results == [1, 2, ZeroDivisionError, 3]
    assert not logged.failures


@pytest.mark.parametrize("kind", ["asyncio"])
@inReactor
async def test_theResultOfAFutureIsDiscarded(
    reactor: Any, dispatcher: SignalDispatcher, kind: str, logged: Logged
) -> None:
    """
    The exception of a future is logged.
    """
    first, second = (reactor._asyncioEventloop.create_future() for _ in range(2))
    signals = MemorySignals()
    signals.addHandler(SIGRTMIN, lambda _: first)
    signals.addHandler(SIGRTMIN, lambda _: second)
    signals.deliver(INFO)
    closed = signals.close()
    await turn()
    assert not closed.called
    first.set_result(Deferred())
    second.set_exception(ZeroDivisionError())
    await until(lambda: closed.called)
    (failure,) = logged.failures
    assert failure.check(ZeroDivisionError)


def test_aFailureNamesItsHandlerWithoutRepr(logged: Logged) -> None:
    class Server:
        def reload(self, info: SigInfo) -> None:
            raise ZeroDivisionError

        def __repr__(self) -> str:
            raise AssertionError

    signals = MemorySignals()
    signals.addHandler(SIGRTMIN, Server().reload)
    signals.deliver(INFO)
    (event,) = (event for event in logged if "log_failure" in event)
    assert "Server.reload failed on SIGRTMIN" in (formatEvent(event) or "")
    assert "Server.reload QUEUE: 1 handled" in str(signals.describe())
