"""
L{ReloadService}: a service that is reloaded while it serves.
"""

from __future__ import annotations

import asyncio
import builtins
import importlib
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from signal import SIGHUP, SIGUSR1
from typing import Any

import pytest
from twisted.application.service import IService, MultiService, Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import LogLevel, formatEvent
from zope.interface.verify import verifyObject

from tests.support.clients import tcp
from tests.support.daemons import python
from tests.support.freeports import freePort
from tests.support.generations import (
    Listening,
    NumberedFactory,
    ServiceFactory,
    connectTo,
    explode,
    makeDue,
    servedBy,
    serving,
    start,
)
from tests.support.inreactor import inEveryReactor, inReactor
from tests.support.observers import Logged
from tests.support.reactors import newReactor, runReactor, turn, until, untilLength
from txsignalfd import NotServing, ReloadService, SigInfo, SignalService
from txsignalfd._reload import generations

pytestmark = pytest.mark.usefixtures("withoutPause")


def test_aReloadServiceIsAService() -> None:
    assert verifyObject(IService, ReloadService(Service))


@inEveryReactor
async def test_theNewServiceServesWhileTheOldOneDrains() -> None:
    """
    Both have the same port, although any free port was requested.
    """
    async with serving() as (reloads, factory):
        old = await factory.connect()
        assert await old.line() == b"1"
        port = factory.services[0].port.getHost()
        reloaded = reloads.reload()
        assert factory.services[1].port.getHost() == port
        assert await factory.served() == b"2"
        # The old service is not stopped while it has a connection.
        assert await old.ask(b"are you there?") == b"are you there?"
        assert not factory.factories[0].stopped
        assert not reloaded.called
        where = f"tcp:127.0.0.1:{port.port}"
        assert reloads.describe() == [
            f"generation 1 drains: 1 connection, {where}",
            f"generation 2 serves: 0 connections, {where}",
        ]
        await old.end()
        await reloaded
        assert factory.factories[0].stopped
        assert len(reloads.describe()) == 1


@inReactor
async def test_aReloadMayBeRequestedBeforeTheStart(reactor: Any) -> None:
    """
    It follows the start; a stop before the start does nothing.
    """
    factory = ServiceFactory()
    reloads = ReloadService(factory, reactor=reactor)
    await reloads.stopService()
    reloaded = reloads.reload()
    start(reloads)
    await reloaded
    assert await factory.served() == b"2"
    await reloads.stopService()


@inReactor
async def test_connectionsDuringManyReloadsAreServed() -> None:
    """
    Also those that wait in the listen queue during a reload.
    """
    async with serving() as (reloads, factory):
        for number in range(1, 20):
            connecting = Deferred.fromCoroutine(factory.connect())
            await reloads.reload()
            client = await connecting
            assert await client.line() == b"%d" % (number + 1)
            await client.end()


@inReactor
async def test_manyReloadsLeaveNoDescriptorsAndNoGenerations() -> None:
    async with serving() as (reloads, _):
        await reloads.reload()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            await reloads.reload()
        assert len(os.listdir("/proc/self/fd")) == before
        assert len(reloads.describe()) == 1


class Slow(Service):
    """
    A service whose starts end when a test ends them.
    """

    starts: list[Deferred[None]]

    def startService(self) -> Deferred[None]:
        super().startService()
        self.starts.append(Deferred())
        return self.starts[-1]


@inReactor
async def test_callsDuringAReloadAreOneMoreReload() -> None:
    """
    Each caller waits for a reload that began after its call.
    """
    starts = Slow.starts = []
    async with serving(Slow) as (reloads, _):
        duringStart = [reloads.reload(), reloads.reload()]
        assert len(starts) == 1
        starts[0].callback(None)
        assert len(starts) == 2
        duringReload = [reloads.reload() for _ in range(5)]
        starts[1].callback(None)
        for deferred in duringStart:
            await deferred
        assert len(starts) == 3
        assert not any(deferred.called for deferred in duringReload)
        starts[2].callback(None)
        for deferred in duringReload:
            await deferred
        assert len(starts) == 3


@inReactor
async def test_noReloadBeginsWhileTheyArePostponed() -> None:
    """
    As before the next program of a supervisor is executed.
    """
    starts = Slow.starts = []
    async with serving(Slow) as (reloads, _):
        idle = reloads.postpone()
        assert not idle.called
        starts[0].callback(None)
        await idle
        reloaded = reloads.reload()
        reloads.request("an upgrade")
        assert (len(starts), reloads.postponed) == (1, "an upgrade")
        reloads.resume()
        assert len(starts) == 2
        reloads.resume()
        starts[1].callback(None)
        await reloaded
        await reloads.postpone()


@inReactor
async def test_signalsDuringAReloadAreOneMoreReload(
    reactor: Any, logged: Logged
) -> None:
    """
    The log names the requester, the duration and the outcome of each reload.
    """
    starts = Slow.starts = []
    async with serving(Slow) as (reloads, _):
        signals = SignalService({SIGHUP: reloads.reload}, reactor=reactor)
        start(signals)
        starts[0].callback(None)
        os.kill(os.getpid(), SIGHUP)
        await untilLength(starts, 2)
        for _ in range(3):
            os.kill(os.getpid(), SIGHUP)
            await turn()
        starts[1].callback(None)
        await untilLength(starts, 3)
        starts[2].callback(None)
        await turn()
        assert len(starts) == 3
        signals.stopService()
    lines = logged.texts
    (requested, _) = [line for line in lines if line.startswith("reloading: requested")]
    assert f"SIGHUP from pid {os.getpid()} (" in requested
    assert f"uid {os.getuid()}) by kill" in requested
    assert any(
        line.startswith("reloaded in 0.") and line.endswith("s: generation 2 serves")
        for line in lines
    )


@inReactor
async def test_aSignalThatSeveralHandlersReceiveReloadsOnce() -> None:
    """
    As when a service of the program has a handler of its own.
    """
    info = SigInfo.make(SIGHUP)
    async with serving() as (reloads, _):
        for _ in range(2):
            assert reloads.reload(info) is None
        await reloads.reload()
        assert reloads.number == 3


class Explosive(Listening):
    def startService(self) -> Any:
        explode()


class LateExplosive(Listening):
    def startService(self) -> Any:
        return deferLater(self.port.reactor, 0, explode)


@pytest.mark.parametrize("where", ["factory", "start", "late start"])
@pytest.mark.parametrize("stopFirst", [False, True])
@inReactor
async def test_aReloadThatFailsChangesNothing(
    reactor: Any, where: str, stopFirst: bool, logged: Logged
) -> None:
    """
    The old service goes on at the same port, and the next reload may succeed.
    """
    listened: list[Any] = []

    def listen() -> Any:
        listened.append(reactor.listenTCP(0, NumberedFactory(99)))
        return reactor.listenTCP(0, NumberedFactory(99), interface="127.0.0.1")

    services = {"start": Explosive, "late start": LateExplosive}
    async with serving(stopFirst=stopFirst) as (reloads, factory):
        port = factory.address
        old = None if stopFirst else await factory.connect()
        service = services.get(where)
        factory.instead = partial(service, listen) if service else explode
        with pytest.raises(ZeroDivisionError):
            await reloads.reload()
        assert not any(port.connected for port in listened)
        assert len(reloads.describe()) == 1
        assert await servedBy(port) == b"1"
        if old is not None:
            assert await old.line() == b"1"
            await old.end()
        factory.instead = None
        await reloads.reload()
        assert await servedBy(port) == b"2"
    (failed,) = [event for event in logged if "not reloaded" in str(formatEvent(event))]
    assert "generation 1 serves on: " in str(formatEvent(failed))
    assert failed["log_failure"].check(ZeroDivisionError)
    assert "generation 2 has ended" not in logged.texts


def forgetful() -> None:
    """
    A factory without a C{return}.
    """


async def forgetfulLater() -> None:
    """
    The same as a coroutine function.
    """


@pytest.mark.parametrize("factory", [forgetful, forgetfulLater])
@inReactor
async def test_aFactoryThatReturnsNothingIsNamed(reactor: Any, factory: Any) -> None:
    why = f"{factory.__name__} at .* has made None, which is no IService"
    with pytest.raises(TypeError, match=why):
        start(ReloadService(factory, reactor=reactor))
    async with serving(Service) as (reloads, _):
        assert reloads._generations is not None
        reloads._generations._factory = factory
        with pytest.raises(TypeError, match=why):
            await reloads.reload()
        assert len(reloads.describe()) == 1


@inReactor
async def test_aFactoryThatReturnsTheSameServiceFails() -> None:
    """
    The service would be stopped with the old generation.
    """
    made = ServiceFactory()
    only = made()
    async with serving(lambda: only) as (reloads, _):
        with pytest.raises(ValueError, match="the service that serves already"):
            await reloads.reload()
        assert await made.served() == b"1"


@inReactor
async def test_oneServiceMayBeStoppedAndStartedAgain() -> None:
    made = ServiceFactory()
    only = made()
    async with serving(lambda: only, stopFirst=True) as (reloads, _):
        await reloads.reload()
        assert await made.served() == b"1"


class Awaitable:
    """
    An awaitable that is no coroutine, Deferred or future.
    """

    def __init__(self, coroutine: Any) -> None:
        self.coroutine = coroutine

    def __await__(self) -> Any:
        return self.coroutine.__await__()


@pytest.mark.parametrize("wrap", [lambda coroutine: coroutine, Awaitable])
@inReactor
async def test_aFactoryMayReturnAnAwaitable(reactor: Any, wrap: Any) -> None:
    """
    Observers are called before and after the first start and each reload.
    """
    made = ServiceFactory()
    seen: list[tuple[str, int]] = []

    async def factory() -> Any:
        await turn()
        return made()

    reloads = ReloadService(lambda: wrap(factory()), reactor=reactor)
    reloads.addObserver(
        lambda reload: seen.append(("before", reload.number)),
        lambda reload: seen.append(("after", reload.number)),
    )
    start(reloads)
    assert made.services == []
    await reloads.reload()
    assert await made.served() == b"2"
    assert seen == [("before", 1), ("after", 1), ("before", 2), ("after", 2)]
    await reloads.stopService()


@pytest.mark.parametrize("kind", ["asyncio"])
@inReactor
async def test_everyAwaitableMayBeAFutureOfAsyncio(reactor: Any, kind: str) -> None:
    made: list[str] = []

    def later(what: str, value: Any) -> asyncio.Future[Any]:
        async def wait() -> Any:
            await asyncio.sleep(0)
            made.append(what)
            return value

        return asyncio.ensure_future(wait(), loop=reactor._asyncioEventloop)

    reloads = ReloadService(lambda: later("made", Service()), reactor=reactor)
    commit = partial(later, "committed", None)
    reloads.addParticipant(lambda: later("prepared", (commit, int)))
    start(reloads)
    await reloads.reload()
    assert made == ["made", "prepared", "made", "committed"]
    await reloads.stopService()


@pytest.mark.parametrize("where", ["factory", "privileged start", "start"])
@inReactor
async def test_aFirstStartThatFailsRaisesAndLeavesNothing(
    reactor: Any, where: str
) -> None:
    ports: list[Any] = []

    def listen() -> Any:
        ports.append(reactor.listenTCP(0, NumberedFactory(1)))
        return explode() if where == "privileged start" else ports[0]

    factory = explode if where == "factory" else partial(Explosive, listen)
    reloads = ReloadService(factory, reactor=reactor)
    with pytest.raises(ZeroDivisionError):
        start(reloads)
    assert not reloads.running
    assert "listenTCP" not in vars(reactor)
    await until(lambda: not any(port.connected for port in ports))
    await turn()


@inReactor
async def test_aFirstStartThatFailsLaterIsLogged(logged: Logged) -> None:
    """
    A reload may succeed then.
    """
    made = ServiceFactory()
    deferred: Deferred[Any] = Deferred()
    made.instead = lambda: deferred
    async with serving(made) as (reloads, _):
        deferred.errback(ZeroDivisionError("no database"))
        assert reloads.describe() == [
            "generation 1 does not serve: 0 connections, no port"
        ]
        made.instead = None
        await reloads.reload()
        assert await made.served() == b"1"
    assert "the service could not start" in logged.texts


@inReactor
async def test_aStopRefusesNewConnectionsAndDrainsOpenOnes(reactor: Any) -> None:
    """
    A reload is refused meanwhile; the service can be started again.
    """
    factory = ServiceFactory()
    reloads = ReloadService(factory, reactor=reactor)
    start(reloads)
    client = await factory.connect()
    port = factory.address
    stopped = reloads.stopService()
    with pytest.raises(Refused):
        await connectTo(port)
    assert await client.line() == b"1"
    assert await client.ask(b"still") == b"still"
    assert not stopped.called
    with pytest.raises(NotServing):
        await reloads.reload()
    await client.end()
    await stopped
    assert not factory.services[0].running
    start(reloads)
    assert await factory.served() == b"2"
    await reloads.stopService()


@inReactor
async def test_cutStopsAnOldGenerationAtOnce() -> None:
    async with serving() as (reloads, factory):
        client = await factory.connect()
        await client.line()
        reloads.reload()
        stopped = reloads.stopService()
        await turn()
        assert not stopped.called
        reloads.cut()
        await stopped
        await until(lambda: client.lost)


@pytest.mark.parametrize(
    ("argument", "option"), [("drain", "--drain"), ("stopTimeout", "--stop-timeout")]
)
@inReactor
async def test_connectionsAreClosedAfterTheirTimeLimit(
    argument: str, option: str, logged: Logged
) -> None:
    limit: dict[str, Any] = {argument: 0.05}
    async with serving(**limit) as (reloads, factory):
        client = await factory.connect()
        assert await client.line() == b"1"
        await (reloads.reload() if argument == "drain" else reloads.stopService())
        await until(lambda: client.lost)
    closed = f"closed 1 connection that was still open after {option} (0.05 s)"
    assert f"generation 1 has ended; {closed}" in logged.texts


@inReactor
async def test_aClockThatIsSetForwardCutsNoConnection(
    reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Time limits are measured by the monotonic clock.
    """
    async with serving(drain=15) as (reloads, factory):
        client = await factory.connect()
        assert await client.line() == b"1"
        (old,) = reloads.generations
        reloaded = reloads.reload()
        monkeypatch.setattr(reactor, "seconds", lambda: time.time() + 20)
        await turn()
        assert await client.ask(b"still") == b"still"
        makeDue(old._timers[1])
        await reloaded


@inReactor
async def test_aStopEndsAReload(logged: Logged) -> None:
    """
    Also the one that was requested after it.
    """
    async with serving() as (reloads, factory):
        factory.instead = Deferred
        deferreds = reloads.reload(), reloads.reload()
        await reloads.stopService()
        for deferred in deferreds:
            with pytest.raises(NotServing):
                await deferred
    text = "generation 1 does not serve any more: NotServing: the service is being"
    assert logged.contains(text)
    assert not any(event["log_level"] is LogLevel.critical for event in logged)


class Hanging(ServiceFactory):
    """
    A factory whose second service is never made, or never starts.
    """

    def __init__(self, where: str) -> None:
        super().__init__(freePort())
        self.where = where

    def __call__(self) -> Any:
        if self.where == "factory" and self.services:
            return Deferred()
        service: Any = super().__call__()
        if len(self.services) == 2:
            service.startService = Deferred
        return service


@pytest.mark.parametrize("where", ["factory", "start"])
@inReactor
async def test_pendingConnectionsAreServedWhenAStopEndsAReload(where: str) -> None:
    """
    By the generation that has started.
    """
    async with serving(Hanging(where)) as (reloads, factory):
        reloaded = reloads.reload()
        with tcp(factory.port)() as client:
            stopped = reloads.stopService()
            client.setblocking(False)
            received = b""
            while not received:
                await turn()
                with suppress(BlockingIOError):
                    received = client.recv(10)
            assert received == b"1\n"
        with pytest.raises(NotServing):
            await reloaded
        await stopped


class Obstinate(ServiceFactory):
    """
    A factory, or services, that ignore their cancellation.
    """

    def __init__(self, where: str, isFirst: bool) -> None:
        super().__init__(freePort())
        self.where = where
        self.isFirst = isFirst

    def __call__(self) -> Any:
        service: Any = super().__call__()
        if not self.isFirst and len(self.services) == 1:
            return service
        if self.where == "factory":
            return self.ignoreCancellation(service)
        service.privilegedStartService = lambda: None
        service.startService = lambda: self.listenLater(service)
        return service

    async def ignoreCancellation(self, service: Any) -> Any:
        never: Deferred[None] = Deferred()
        with suppress(CancelledError):
            await never
        return service

    async def listenLater(self, service: Any) -> None:
        await self.ignoreCancellation(service)
        service.port = self.listen()


@pytest.mark.parametrize("where", ["factory", "start"])
@pytest.mark.parametrize("isFirst", [True, False])
@inReactor
async def test_aStartThatIgnoresItsCancellationIsStopped(
    where: str, isFirst: bool
) -> None:
    factory = Obstinate(where, isFirst)
    async with serving(factory) as (reloads, _):
        reloaded = reloads.reload()
        await reloads.stopService()
        with pytest.raises(NotServing):
            await reloaded
        with pytest.raises(Refused):
            await connectTo(factory.port)


@inReactor
async def test_aReloadThatAStopHasEndedDisturbsNoLaterStart(reactor: Any) -> None:
    """
    Its rollback may take longer than the stop.
    """
    made: list[Deferred[Any]] = []
    rolledBack: Deferred[None] = Deferred()

    def factory() -> Any:
        made.append(Deferred())
        return made[-1]

    reloads = ReloadService(factory, reactor=reactor)
    reloads.addParticipant(lambda: (int, lambda: rolledBack))
    start(reloads)
    made[0].callback(Service())
    ended = reloads.reload()
    await reloads.stopService()
    start(reloads)
    again = reloads.reload()
    assert len(made) == 3
    rolledBack.callback(None)
    with pytest.raises(NotServing):
        await ended
    assert len(made) == 3
    made[2].callback(Service())
    made[3].callback(Service())
    await again
    await reloads.stopService()


@inReactor
async def test_aStopEndsAFirstStartWithoutAnError(logged: Logged) -> None:
    async with serving(lambda: Deferred(lambda _: None)) as (reloads, _):
        await reloads.stopService()
        await reloads.stopService()
        assert reloads.describe() == []
    assert not logged.failures


class Stubborn(Service):
    """
    A service whose stops end when a test ends them.
    """

    stops: list[Deferred[None]]

    def stopService(self) -> Deferred[None]:
        self.stops.append(Deferred())
        return self.stops[-1]


@inReactor
async def test_aServiceThatDoesNotStopDelaysNoReloadForEver(
    logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generations, "FLUSH", 0.01)
    stops = Stubborn.stops = []
    async with serving(Stubborn, drain=0.01) as (reloads, _):
        first, second = reloads.reload(), reloads.reload()
        await untilLength(stops, 2)
        assert not first.called
        for deferred in stops:
            deferred.callback(None)
        await first
        await second
        stopped = reloads.stopService()
        await untilLength(stops, 3)
        stops[-1].errback(ZeroDivisionError("it cannot"))
        await stopped
    lines = logged.texts
    assert "generation 1 does not stop: no longer waiting for it" in lines
    assert any("has failed" in line for line in lines)


@inReactor
async def test_participantsChangeWithTheServiceOrNotAtAll() -> None:
    story: list[str] = []

    async def prepareLater() -> Any:
        await turn()
        story.append("prepare later")
        return lambda: succeed(None), lambda: story.append("roll back later")

    async with serving() as (reloads, factory):

        def prepare() -> Any:
            story.append(f"prepare before {len(factory.services)}")
            return (
                lambda: story.append(f"commit after {len(factory.services)}"),
                lambda: story.append("roll back"),
            )

        reloads.addParticipant(prepare)
        reloads.addParticipant(prepareLater)
        await reloads.reload()
        assert story == ["prepare before 1", "prepare later", "commit after 2"]
        rolledBack = [
            "prepare before 2",
            "prepare later",
            "roll back later",
            "roll back",
        ]
        factory.instead = explode
        reloads.addParticipant(lambda: (int, int))
        for participant in (lambda: (int, int), explode):
            reloads.addParticipant(participant)
            story.clear()
            with pytest.raises(ZeroDivisionError):
                await reloads.reload()
            assert story == rolledBack
        assert len(factory.services) == 2


@inReactor
async def test_aParticipantThatReturnsNothingIsNamed() -> None:
    async with serving() as (reloads, factory):
        reloads.addParticipant(forgetful)
        with pytest.raises(TypeError, match="forgetful has returned None, and not two"):
            await reloads.reload()
        assert len(factory.services) == 1


@inReactor
async def test_aCommitOrRollbackThatFailsIsLogged(logged: Logged) -> None:
    async with serving() as (reloads, factory):
        reloads.addParticipant(lambda: (explode, explode))
        await reloads.reload()
        factory.instead = explode
        with pytest.raises(ZeroDivisionError):
            await reloads.reload()
    assert sum("explode" in line for line in logged.texts) == 2


@inReactor
async def test_aServiceThatCannotBeStartedAgainIsLogged(logged: Logged) -> None:
    """
    With C{stopFirst}, when neither the new service nor the old one starts.  A
    later reload may succeed.
    """

    class Once(Listening):
        started = False

        def startService(self) -> None:
            if self.started:
                explode()
            self.started = True
            super().startService()

    made = ServiceFactory()
    made.instead = lambda: Once(made.listen)
    async with serving(made, stopFirst=True) as (reloads, _):
        made.instead = explode
        with pytest.raises(ZeroDivisionError):
            await reloads.reload()
        assert "generation 1 does not serve: 0" in reloads.describe()[0]
        made.instead = None
        await reloads.reload()
        assert await made.served() == b"1"
    lines = logged.texts
    assert any("cannot be started again" in line for line in lines)
    (failed,) = [line for line in lines if "not reloaded" in line]
    assert "generation 1 does not serve any more: " in failed


@inReactor
async def test_withStopFirstTriggersFireWhenTheNewServiceServes(reactor: Any) -> None:
    """
    The old service needs what they would stop, when it is started again.
    """
    ended: list[int] = []
    made = ServiceFactory()

    def factory() -> Any:
        service = made()
        number = len(made.services)
        reactor.addSystemEventTrigger("after", "shutdown", ended.append, number)
        return explode() if number in (3, 5) else service

    async with serving(factory, stopFirst=True) as (reloads, _):
        await reloads.reload()
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                await reloads.reload()
            await reloads.reload()
        assert ended == [1, 3, 2, 5, 4]


@pytest.mark.parametrize("event", ["shutdown", "startup", "thread", "file"])
@inReactor
async def test_triggersFireWhenTheirGenerationEnds(reactor: Any, event: str) -> None:
    """
    Also those of the first generation, and those that are added at the start.
    """
    ended: list[int] = []
    number = itertools.count(1)

    def add() -> None:
        reactor.addSystemEventTrigger("during", "shutdown", ended.append, next(number))

    def factory() -> Service:
        if event == "shutdown":
            add()
        elif event == "startup":
            reactor.callWhenRunning(add)
        elif event == "file":
            # As twistd executes an application file.
            exec("add()", {"add": add})
        else:
            thread = threading.Thread(target=add)
            thread.start()
            thread.join()
        return Service()

    async with serving(factory) as (reloads, _):
        await reloads.reload()
        assert ended == [1]
        await reloads.reload()
        assert ended == [1, 2]


def test_triggersOfTheReactorsStartBelongToTheirGeneration() -> None:
    """
    Database pools add a trigger when the reactor starts.
    """
    ended: list[int] = []
    number = itertools.count(1)

    async def main(reactor: Any) -> None:
        await reloads.reload()
        assert ended == [2]
        await reloads.stopService()

    with newReactor() as reactor:

        def add() -> None:
            reactor.addSystemEventTrigger(
                "after", "shutdown", ended.append, next(number)
            )

        def factory() -> Service:
            reactor.callWhenRunning(add)
            return Service()

        reloads = ReloadService(factory, reactor=reactor)
        start(reloads)
        # The first generation has ended when the reactor starts.
        reloads.reload()
        runReactor(reactor, main)
    assert ended == [2, 1, 3]


@inReactor
async def test_triggersOfAnImportBelongToAllGenerations(
    reactor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A module is imported once, and what it makes then is used by all of them.
    """
    (tmp_path / "importedOnce.py").write_text("addShared()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    ended: list[int] = []

    def add() -> None:
        reactor.addSystemEventTrigger("during", "shutdown", ended.append, 1)

    def addShared() -> None:
        add()
        reactor.callWhenRunning(add)

    monkeypatch.setattr(builtins, "addShared", addShared, raising=False)

    def factory() -> Service:
        importlib.import_module("importedOnce")
        return Service()

    async with serving(factory) as (reloads, _):
        await reloads.reload()
        assert ended == []
    monkeypatch.delitem(sys.modules, "importedOnce")


@inReactor
async def test_theReactorsThreadPoolBelongsToAllGenerations(reactor: Any) -> None:
    class Threaded(Service):
        def startService(self) -> Any:
            super().startService()
            return deferToThreadPool(reactor, reactor.getThreadPool(), int)

    async with serving(Threaded) as (reloads, _):
        for _ in range(3):
            await reloads.reload()
        assert reactor.getThreadPool().started


@inReactor
async def test_aDispatcherBelongsToAllGenerations(reactor: Any) -> None:
    """
    Although the service of the first one has made it.
    """
    received: list[int] = []

    def factory() -> Service:
        return SignalService(
            {SIGUSR1: lambda info: received.append(1)}, reactor=reactor
        )

    async with serving(factory) as (reloads, _):
        await reloads.reload()
        os.kill(os.getpid(), SIGUSR1)
        await untilLength(received, 1)


@inReactor
async def test_aReloadMayBeRequestedWhenPortsAreOpen(reactor: Any) -> None:
    """
    It follows when the first service serves.
    """
    factory = ServiceFactory()
    reloads = ReloadService(factory, reactor=reactor)
    reloads.privilegedStartService()
    reloaded = reloads.reload()
    reloads.startService()
    await reloaded
    assert await factory.served() == b"2"
    await reloads.stopService()


@inReactor
async def test_twoServicesOfOneReactorKeepTheirPorts(reactor: Any) -> None:
    """
    A port of another part of the program stays open.
    """
    factories = [ServiceFactory(), ServiceFactory()]
    services = [ReloadService(factory, reactor=reactor) for factory in factories]
    for service in services:
        service.privilegedStartService()
    for service in services:
        service.startService()
    other = reactor.listenTCP(0, NumberedFactory(7), interface="127.0.0.1")
    await services[0].reload()
    for factory, expected in zip(factories, (b"2", b"1"), strict=True):
        assert await factory.served() == expected
    assert await servedBy(other.getHost().port) == b"7"
    for service in services:
        assert "listenTCP" in vars(reactor)
        await service.stopService()
    assert "listenTCP" not in vars(reactor)
    await other.stopListening()


class Waiting(ServiceFactory):
    """
    A factory of services that wait before they listen.
    """

    def __init__(self, how: str, begun: list[Deferred[None]]) -> None:
        super().__init__(freePort())
        self._how = how
        self._begun = begun

    def __call__(self) -> Any:
        waiting: Deferred[None] = Deferred()
        self._begun.append(waiting)
        if self._how == "factory":
            return self._later(waiting, super().__call__)
        service: Any = super().__call__()

        def listen() -> None:
            service.port = self.listen()

        service.privilegedStartService = lambda: None
        if self._how == "callback":
            service.startService = lambda: waiting.addCallback(lambda _: listen())
        else:
            service.startService = lambda: self._later(waiting, listen)
        return service

    async def _later(self, waiting: Deferred[None], function: Callable[[], Any]) -> Any:
        await waiting
        return function()


@pytest.mark.parametrize("how", ["factory", "coroutine", "callback"])
@inReactor
async def test_servicesThatStartAtTheSameTimeKeepTheirPorts(
    reactor: Any, how: str
) -> None:
    """
    They wait for something, and then listen in any order.
    """
    begun: list[Deferred[None]] = []

    async def go(order: int, count: int = 2) -> None:
        await untilLength(begun, count)
        waiting = begun[::order]
        begun.clear()
        for deferred in waiting:
            deferred.callback(None)

    factories = [Waiting(how, begun) for _ in range(2)]
    services = [ReloadService(factory, reactor=reactor) for factory in factories]
    for service in services:
        start(service)
    await go(1)
    for order in (-1, 1):
        reloads = [service.reload() for service in services]
        await go(order)
        for reloaded in reloads:
            await reloaded
    last = services[1].reload()
    await go(1, count=1)
    await last
    for factory, expected in zip(factories, (b"3", b"4"), strict=True):
        assert await factory.served() == expected
    await services[1].stopService()
    assert await factories[0].served() == b"3"
    await services[0].stopService()


@inReactor
async def test_aPartOfAProgramReloadsTheWhole(reactor: Any, logged: Logged) -> None:
    """
    Once for each signal, although both may have a handler.
    """
    made, parts = ServiceFactory(freePort()), []

    def makeWhole() -> Service:
        part = ReloadService(made, reactor=reactor)
        parts.append(part)
        whole = MultiService()
        for each in (part, SignalService({SIGUSR1: part.reload}, (), reactor=reactor)):
            each.setServiceParent(whole)
        return whole

    reloads = ReloadService(makeWhole, reactor=reactor)
    reloads.alone = True
    signals = SignalService({SIGUSR1: reloads.reload}, (), reactor=reactor)
    for service in (signals, reloads):
        start(service)
    os.kill(os.getpid(), SIGUSR1)
    await until(lambda: len(parts) == 2)
    await turn()
    await parts[1].reload()
    assert await made.served() == b"3"
    await reloads.stopService()
    signals.stopService()
    assert sum("reloaded in" in text for text in logged.texts) == 2
    assert sum("has ended" in text for text in logged.texts) == 3


def test_theGlobalReactorIsTheDefault(tmp_path: Path) -> None:
    source = """
from twisted.application.service import Service
from twisted.internet import reactor
from txsignalfd import ReloadService

service = ReloadService(Service)

def begin():
    service.startService()
    service.reload().addCallback(lambda _: print("reloaded", flush=True))
    service.stopService().addCallback(lambda _: reactor.stop())

reactor.callWhenRunning(begin)
reactor.run()
"""
    with python(tmp_path, source) as running:
        running.waitForOutput("reloaded")
        assert running.wait() == 0
