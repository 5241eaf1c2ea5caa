"""
Reloads and stops when the user's code or the system fails.

Before the new generation serves, every failure is rolled back.  From then on no
failure keeps the old generation alive.  Every Deferred fires.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, maybeDeferred

from tests.support.generations import (
    Listening,
    NumberedDatagrams,
    NumberedFactory,
    ServiceFactory,
    serving,
)
from tests.support.inreactor import inReactor
from tests.support.observers import Logged
from tests.support.reactors import turn, until
from txsignalfd import NotServing, Reload
from txsignalfd._reload import generations
from txsignalfd._reload.listener import SharedSocket
from txsignalfd._reload.ports import SharedPort

pytestmark = pytest.mark.usefixtures("withoutPause")

#: Exceptions that C{except Exception} does not catch, and one that it does.
ERRORS = [asyncio.CancelledError, SystemExit, KeyboardInterrupt, RuntimeError]

everyError = pytest.mark.parametrize("error", ERRORS)


def raising(error: type[BaseException]) -> Callable[..., Any]:
    """
    Make a function that raises an error.
    """

    def function(*args: Any) -> Any:
        raise error("it fails")

    return function


def failing(error: type[BaseException]) -> Callable[..., Any]:
    """
    Make a function that returns a Deferred that has failed.
    """
    return lambda *args: fail(error("it fails"))


WAYS = {"raise": raising, "fail": failing}

everyWay = pytest.mark.parametrize("way", list(WAYS))


async def untilOneGeneration(reloads: Any) -> None:
    """
    Wait until only one generation has not stopped.
    """
    await until(lambda: len(reloads.describe()) == 1)


@everyError
@everyWay
@inReactor
async def test_aServiceThatFailsToStopHasEnded(
    error: type[BaseException], way: str
) -> None:
    async with serving() as (reloads, factory):
        factory.services[0].stopService = WAYS[way](error)
        await reloads.reload()
        assert await factory.served() == b"2"
        factory.services[1].stopService = WAYS[way](error)
        await reloads.stopService()


@inReactor
async def test_aServiceNeedNotWaitForItsPorts(reactor: Any, logged: Logged) -> None:
    """
    Many services do not return the Deferred of C{stopListening}.
    """

    class Careless(Service):
        def __init__(self) -> None:
            self.ports = [
                reactor.listenTCP(0, NumberedFactory(1)),
                reactor.listenUDP(0, NumberedDatagrams(1)),
            ]

        def stopService(self) -> None:
            super().stopService()
            for port in self.ports:
                port.stopListening()

    async with serving(Careless) as (reloads, _):
        await reloads.reload()
        await turn()
    assert not logged.failures


@everyError
@everyWay
@inReactor
async def test_aCommitThatFailsKeepsNoGeneration(
    error: type[BaseException], way: str
) -> None:
    """
    And the other participants commit.
    """
    committed: list[int] = []
    async with serving() as (reloads, factory):
        reloads.addParticipant(lambda: (WAYS[way](error), int))
        reloads.addParticipant(lambda: (lambda: committed.append(1), int))
        await reloads.reload()
        assert committed == [1]
        assert len(reloads.describe()) == 1
        assert await factory.served() == b"2"


@inReactor
async def test_aCommitThatNeverEndsKeepsNoGeneration(
    monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    monkeypatch.setattr(generations, "LATE", 0.01)
    async with serving(drain=0.01) as (reloads, factory):
        reloads.addParticipant(lambda: (Deferred, int))
        await reloads.reload()
        assert await factory.served() == b"2"
    assert logged.contains("no longer waiting for it")


@everyError
@inReactor
async def test_anObserverThatFailsEndsNoReload(
    error: type[BaseException], logged: Logged
) -> None:
    """
    And disturbs no other.
    """
    seen: list[Reload] = []
    async with serving() as (reloads, factory):
        reloads.addObserver(raising(error), raising(error))
        reloads.addObserver(lambda reload: None, seen.append)
        await reloads.reload()
        assert [reload.number for reload in seen] == [2]
        assert seen[0].requester == "the program"
        assert sum("has failed" in line for line in logged.texts) == 2
        factory.instead = raising(ZeroDivisionError)
        with pytest.raises(ZeroDivisionError):
            await reloads.reload()
        assert await factory.served() == b"2"


class Faulty(Listening):
    """
    A service with a port that fails to start.
    """

    def __init__(self, factory: ServiceFactory, start: Callable[..., Any]) -> None:
        super().__init__(
            lambda: factory.reactor.listenTCP(
                0, NumberedFactory(0), interface="127.0.0.1"
            )
        )
        self.startService = start  # type: ignore[method-assign]


@everyError
@everyWay
@pytest.mark.parametrize("where", ["prepare", "factory", "start"])
@pytest.mark.parametrize("stopFirst", [False, True])
@inReactor
async def test_aFailureBeforeTheNewServiceServesIsRolledBack(
    error: type[BaseException], way: str, where: str, stopFirst: bool
) -> None:
    """
    Also when a rollback fails.
    """
    bad = WAYS[way](error)
    rolledBack: list[int] = []
    async with serving(stopFirst=stopFirst) as (reloads, factory):
        reloads.addParticipant(lambda: (int, lambda: rolledBack.append(1)))
        reloads.addParticipant(lambda: (int, bad))
        port = factory.address
        if where == "prepare":
            reloads.addParticipant(bad)
        else:
            makers = {"factory": bad, "start": lambda: Faulty(factory, bad)}
            factory.instead = makers[where]
        with pytest.raises(error):
            await reloads.reload()
        assert rolledBack == [1]
        assert len(reloads.describe()) == 1
        assert factory.address == port
        assert await factory.served() == b"1"


@everyError
@everyWay
@inReactor
async def test_aTriggerThatFailsKeepsNoGeneration(
    reactor: Any, error: type[BaseException], way: str
) -> None:
    made = ServiceFactory()

    def factory() -> Any:
        if len(made.services) == 1:
            reactor.addSystemEventTrigger("during", "shutdown", WAYS[way](error))
        return made()

    async with serving(factory) as (reloads, _):
        await reloads.reload()
        await reloads.reload()
        assert len(reloads.describe()) == 1
        assert await made.served() == b"3"


@everyError
@everyWay
@inReactor
async def test_anOldServiceThatCannotStartAgainIsReloaded(
    error: type[BaseException], way: str
) -> None:
    """
    The reload fails with the reason of the new service.
    """
    async with serving(stopFirst=True) as (reloads, factory):
        factory.services[0].startService = WAYS[way](error)
        factory.instead = raising(ZeroDivisionError)
        with pytest.raises(ZeroDivisionError):
            await reloads.reload()
        factory.instead = None
        await reloads.reload()
        assert await factory.served() == b"2"


@everyError
@inReactor
async def test_aProtocolOrFactoryThatFailsKeepsNoGeneration(
    error: type[BaseException],
) -> None:
    async with serving(drain=0.05) as (reloads, factory):
        client = await factory.connect()
        await client.line()
        assert reloads._generations is not None
        (connection,) = reloads._generations.current.resources.connections
        connection.protocol.connectionLost = raising(error)
        connection.loseConnection = raising(error)
        factory.factories[0].stopFactory = raising(error)
        await reloads.reload()
        await until(lambda: client.lost)
        assert await factory.served() == b"2"


@pytest.mark.parametrize("where", ["prepare", "factory", "start"])
@everyError
@inReactor
async def test_aCancellerThatFailsDelaysNoStop(
    where: str, error: type[BaseException]
) -> None:
    def hang(*args: Any) -> Any:
        return Deferred(raising(error))

    async with serving() as (reloads, factory):
        if where == "prepare":
            reloads.addParticipant(hang)
        else:
            makers = {"factory": hang, "start": lambda: Faulty(factory, hang)}
            factory.instead = makers[where]
        reloaded = reloads.reload()
        await reloads.stopService()
        with pytest.raises(NotServing):
            await reloaded


@inReactor
async def test_aReloadEndsWithAStopThatDoesNotWait() -> None:
    """
    Also when the old service never stops.
    """

    class Stuck(Service):
        def stopService(self) -> Deferred[None]:
            super().stopService()
            return Deferred()

    async with serving(Stuck) as (reloads, _):
        reloaded = reloads.reload()
        assert not reloaded.called
        reloads.cut()
        await reloads.stopService()
        await reloaded


def failingSocket(name: str) -> Callable[..., Any]:
    """
    Make a method of a socket that does its work, and then reports an error.
    """
    original = getattr(SharedSocket, name)

    def method(self: Any, *args: Any) -> Any:
        original(self, *args)
        raise OSError(errno.EIO, "it fails")

    return method


class FailingPoller:
    """
    An epoll object that unregisters descriptors, and then reports an error.
    """

    def __init__(self, poller: Any) -> None:
        self._poller = poller

    def __getattr__(self, name: str) -> Any:
        return getattr(self._poller, name)

    def unregister(self, fd: int) -> None:
        self._poller.unregister(fd)
        raise OSError(errno.ENOENT, "it fails")


def test_aPortThatStaysInTheReactorAcceptsNothing(logged: Logged) -> None:
    class BadPort:
        reactor = None

        def stopReading(self) -> None:
            raise OSError(errno.EBADF, "it fails")

        def doRead(self) -> None:
            raise AssertionError

    class Port(SharedPort, BadPort):
        pass

    port = Port()
    port.suspended = True
    port.stopReading()
    port.doRead()
    assert logged.contains("could not be removed")


@pytest.mark.parametrize("call", ["close", "listen", "getsockname", "epoll_ctl"])
@pytest.mark.parametrize("stopFirst", [False, True])
@inReactor
async def test_aSystemErrorKeepsNoGeneration(
    reactor: Any, call: str, stopFirst: bool
) -> None:
    """
    While the old generation retires.
    """

    def inject() -> None:
        if call == "epoll_ctl":
            faults.setattr(reactor, "_poller", FailingPoller(reactor._poller))
        else:
            faults.setattr(SharedSocket, call, failingSocket(call))

    faults = pytest.MonkeyPatch()
    async with serving(stopFirst=stopFirst) as (reloads, factory):
        old = factory.services[0]

        async def stopService() -> None:
            inject()
            await maybeDeferred(Listening.stopService, old)
            faults.undo()

        if stopFirst:
            old.stopService = stopService
        else:
            reloads.addParticipant(lambda: (inject, int))
        reloaded = reloads.reload()
        await untilOneGeneration(reloads)
        await reloaded
        faults.undo()
        for _ in range(5):
            assert await factory.served() == b"2"


@pytest.mark.parametrize("call", ["listen", "getsockname"])
@inReactor
async def test_aSystemErrorBeforeTheOldServiceStopsFailsNoReload(call: str) -> None:
    faults = pytest.MonkeyPatch()
    async with serving(stopFirst=True) as (reloads, factory):
        old = factory.services[0]

        def stopService() -> Any:
            faults.undo()
            return Listening.stopService(old)

        old.stopService = stopService
        faults.setattr(SharedSocket, call, failingSocket(call))
        await reloads.reload()
        assert await factory.served() == b"2"


@inReactor
async def test_withStopFirstAServiceThatDoesNotStopDelaysNoReloadForEver(
    monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    monkeypatch.setattr(generations, "LATE", 0.01)
    async with serving(stopFirst=True, drain=0.01) as (reloads, factory):
        old = factory.services[0]
        # A Deferred without a reference would be collected, and end the coroutine.
        never: Deferred[None] = Deferred()

        async def stopService() -> None:
            await maybeDeferred(Listening.stopService, old)
            await never

        old.stopService = stopService
        reloaded = reloads.reload()
        await until(lambda: len(factory.services) == 2)
        assert await factory.served() == b"2"
        assert not reloaded.called
        reloaded.addErrback(lambda _: None)
    assert "generation 1 does not stop: no longer waiting for it" in logged.texts


@pytest.mark.parametrize("call", ["close", "epoll_ctl"])
@inReactor
async def test_aSystemErrorDelaysNoStop(
    monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    async with serving() as (reloads, factory):
        port = factory.services[0].port
        if call == "epoll_ctl":
            port.stopReading = raising(OSError)
        else:
            monkeypatch.setattr(SharedSocket, call, failingSocket(call))
        await reloads.stopService()
        monkeypatch.undo()
        with suppress(AttributeError):
            del port.stopReading
        await turn()
