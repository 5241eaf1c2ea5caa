"""
Real reactors for tests, which are made, run and dismantled within one test.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.pollreactor import PollReactor
from twisted.internet.selectreactor import SelectReactor

#: Seconds after which a test that waits has failed.
DEADLINE = 120.0

Main = Callable[[Any], Coroutine[Any, Any, object]]


def _uvloop() -> AsyncioSelectorReactor:
    import uvloop

    return AsyncioSelectorReactor(uvloop.new_event_loop())


#: A function for each kind of reactor, which makes one.
KINDS: dict[str, Callable[[], Any]] = {
    "select": SelectReactor,
    "poll": PollReactor,
    "epoll": EPollReactor,
    "asyncio": lambda: AsyncioSelectorReactor(asyncio.new_event_loop()),
    "uvloop": _uvloop,
}


#: Its attribute C{current} is the reactor that this thread has made or runs.
_ofThread = threading.local()

#: The reactors of L{newReactor}, the last one last.
_made: list[Any] = []


@contextmanager
def _using(reactor: Any) -> Iterator[None]:
    """
    Make a reactor the current one of this thread.
    """
    before = getattr(_ofThread, "current", None)
    _ofThread.current = reactor
    try:
        yield
    finally:
        _ofThread.current = before


def currentReactor() -> Any:
    """
    Return the reactor that this thread runs or has made, or else the one that was made
    last, or that of a whole program.
    """
    reactor = getattr(_ofThread, "current", None) or (_made[-1] if _made else None)
    if reactor is None:
        from twisted.internet import reactor
    return reactor


@contextmanager
def newReactor(kind: str = "epoll") -> Iterator[Any]:
    """
    Make a reactor, and close its descriptors in the end.
    """
    reactor = KINDS[kind]()
    _made.append(reactor)
    try:
        with _using(reactor):
            yield reactor
    finally:
        _made.remove(reactor)
        for reader in list(reactor._internalReaders):
            reactor.removeReader(reader)
            reader.connectionLost(None)
        reactor._internalReaders.clear()
        if isinstance(reactor, EPollReactor):
            reactor._poller.close()
        if isinstance(reactor, AsyncioSelectorReactor):
            reactor._asyncioEventloop.close()


def runReactor(reactor: Any, main: Main, installSignalHandlers: bool = False) -> None:
    """
    Run C{main} in a reactor until it is done, and raise its exception.
    """
    outcome: list[object] = []
    running: list[Deferred[object]] = []

    def done(result: object) -> None:
        outcome.append(result)
        if deadline.active():
            deadline.cancel()
        if reactor.running:
            reactor.stop()

    def expired() -> None:
        running[0].cancel()
        raise AssertionError("the deadline has passed")

    def start() -> None:
        running.append(Deferred.fromCoroutine(main(reactor)))
        running[0].addBoth(done)

    deadline = reactor.callLater(DEADLINE, expired)
    reactor.callWhenRunning(start)
    with _using(reactor):
        reactor.run(installSignalHandlers=installSignalHandlers)
    (result,) = outcome
    if hasattr(result, "raiseException"):
        result.raiseException()


def spin(main: Main, kind: str = "epoll", inThread: bool = False) -> None:
    """
    Run C{main} in a new reactor, in this thread or in another.
    """
    with newReactor(kind) as reactor:
        if not inThread:
            runReactor(reactor, main)
            return
        with ThreadPoolExecutor(1) as pool:
            pool.submit(runReactor, reactor, main).result()


def sleep(seconds: float = 0.0) -> Deferred[None]:
    """
    Wait for some time on the reactor's clock.
    """
    deferred: Deferred[None] = Deferred()
    currentReactor().callLater(seconds, deferred.callback, None)
    return deferred


async def turn() -> None:
    """
    Let the reactor serve each of its descriptors at least once.
    """
    # A turn runs delayed calls first, and then serves descriptors.
    await sleep()
    await sleep()


async def until(condition: Callable[[], object]) -> None:
    """
    Let the reactor run until a condition is true.
    """
    while not condition():
        await sleep(0.001)


async def untilLength(sized: Sized, length: int) -> None:
    """
    Let the reactor run until something has a length.
    """
    await until(lambda: len(sized) == length)
