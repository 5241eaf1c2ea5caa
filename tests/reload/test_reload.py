"""
L{ReloadService}: a service that is made anew while it serves.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from signal import SIGHUP
from typing import Any

import pytest
from twisted.application.service import IService, Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.logger import LogEvent, formatEvent
from zope.interface.verify import verifyObject

from tests.support.clients import tcp
from tests.support.freeports import freePort
from tests.support.generations import (
    Listening,
    NumberedFactory,
    ServiceFactory,
    connectTo,
    explode,
    start,
)
from tests.support.reactors import KINDS, sleep, spin, turn, until, untilLength
from txsignalfd import NotServing, Reload, ReloadService, SignalService
from txsignalfd._reload import generations

pytestmark = pytest.mark.usefixtures("withoutRest")


Story = Callable[[Any, ReloadService, ServiceFactory], Any]


def served(story: Story, kind: str = "epoll", **options: Any) -> None:
    """
    Tell a story of a service that runs, and stop it.
    """

    async def main(reactor: Any) -> None:
        made = ServiceFactory(reactor)
        reloads = ReloadService(made, reactor=reactor, **options)
        start(reloads)
        try:
            await story(reactor, reloads, made)
        finally:
            reloads.cut()
            await reloads.stopService()
            assert not {"listenTCP", "adoptStreamPort"} & set(vars(reactor))
            await turn(reactor)

    spin(main, kind)


def test_itIsAService() -> None:
    """
    For an application to have.
    """
    assert verifyObject(IService, ReloadService(Service))


@pytest.mark.parametrize("kind", KINDS)
def test_theNewOneServesAndTheOldOneEndsItsConnections(kind: str) -> None:
    """
    On the same port, although it was any that was free.
    """

    async def story(reactor: Any, reloads: ReloadService, made: ServiceFactory) -> None:
        old = await made.connect()
        assert await old.line() == b"1"
        port = made.services[0].port.getHost()
        ended = reloads.reload()
        assert made.services[1].port.getHost() == port
        new = await made.connect()
        assert await new.line() == b"2"
        # The old service is not stopped while it has somebody to serve.
        assert await old.ask(b"are you there?") == b"are you there?"
        assert not made.factories[0].stopped
        assert not ended.called
        where = f"tcp:127.0.0.1:{port.port}"
        assert reloads.describe() == [
            f"generation 1 drains: 1 connections, {where}",
            f"generation 2 serves: 1 connections, {where}",
        ]
        await old.end()
        await ended
        assert made.factories[0].stopped
        assert len(reloads.describe()) == 1
        await new.end()

    served(story, kind)


def test_whoConnectsDuringManyReloadsIsServed() -> None:
    """
    Those that were not accepted yet too.
    """

    async def story(reactor: Any, reloads: ReloadService, made: ServiceFactory) -> None:
        for number in range(1, 20):
            # It is in the socket's queue when the next one takes over.
            waiting = made.connect()
            connecting = Deferred.fromCoroutine(waiting)
            await reloads.reload()
            client = await connecting
            assert await client.line() == b"%d" % (number + 1)
            await client.end()

    served(story)


def test_manyReloadsLeaveNoDescriptors() -> None:
    """
    Nor generations.
    """

    async def story(reactor: Any, reloads: ReloadService, made: ServiceFactory) -> None:
        await reloads.reload()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            await reloads.reload()
        assert len(os.listdir("/proc/self/fd")) == before
        assert len(reloads.describe()) == 1

    served(story)


def test_whateverComesMeanwhileIsOneMoreReload() -> None:
    """
    Each caller waits for one that began after it asked.
    """

    async def main(reactor: Any) -> None:
        starts: list[Deferred[None]] = []

        class Slow(Service):
            def startService(self) -> Deferred[None]:
                super().startService()
                starts.append(Deferred())
                return starts[-1]

        reloads = ReloadService(Slow, reactor=reactor)
        start(reloads)
        # Asked for before it has started: once, after that.
        early = [reloads.reload(), reloads.reload()]
        assert len(starts) == 1
        starts[0].callback(None)
        assert len(starts) == 2
        late = [reloads.reload() for _ in range(5)]
        starts[1].callback(None)
        for deferred in early:
            await deferred
        assert len(starts) == 3
        assert not any(deferred.called for deferred in late)
        starts[2].callback(None)
        for deferred in late:
            await deferred
        assert len(starts) == 3
        await reloads.stopService()

    spin(main)


def test_signalsAskForIt(logged: list[LogEvent]) -> None:
    """
    As a handler it keeps no signal for later; the log tells who has asked, how
    long it took, and what came of it.
    """

    async def main(reactor: Any) -> None:
        made: list[Service] = []
        starts: list[Deferred[None]] = []

        def begin() -> Any:
            starts.append(Deferred())
            return starts[-1]

        def factory() -> Service:
            service = Service()
            if made:
                service.startService = begin  # type: ignore[method-assign]
            made.append(service)
            return service

        reloads = ReloadService(factory, reactor=reactor)
        signals = SignalService({SIGHUP: reloads.reload}, reactor=reactor)
        start(signals)
        start(reloads)
        os.kill(os.getpid(), SIGHUP)
        await until(reactor, lambda: len(starts) == 1)
        for _ in range(3):
            os.kill(os.getpid(), SIGHUP)
            await turn(reactor)
        starts[0].callback(None)
        await until(reactor, lambda: len(starts) == 2)
        starts[1].callback(None)
        await turn(reactor)
        assert len(made) == 3
        await reloads.stopService()
        signals.stopService()

    spin(main)
    lines = [formatEvent(event) for event in logged]
    (asked, _) = [line for line in lines if line.startswith("reloading: requested")]
    assert f"SIGHUP from pid {os.getpid()} (" in asked
    assert f"uid {os.getuid()}) by kill" in asked
    assert any(
        line.startswith("reloaded in 0.") and line.endswith("s: generation 2 serves")
        for line in lines
    )


class Explosive(Listening):
    def startService(self) -> Any:
        explode()


class LateExplosive(Listening):
    def startService(self) -> Any:
        deferred: Deferred[None] = Deferred()
        self.port.reactor.callLater(0, deferred.errback, ZeroDivisionError("bad"))
        return deferred


@pytest.mark.parametrize("kind", ["factory", "start", "late"])
@pytest.mark.parametrize("stopFirst", [False, True])
def test_aReloadThatFailsChangesNothing(
    kind: str, stopFirst: bool, logged: list[LogEvent]
) -> None:
    """
    The old one serves on, on the same port; nothing half-started stays.
    """

    async def story(reactor: Any, reloads: ReloadService, made: ServiceFactory) -> None:
        (first,) = made.services
        where = first.port.getHost().port
        old = None if stopFirst else await made.connect()
        listened: list[Any] = []

        def listen() -> Any:
            listened.append(made.reactor.listenTCP(0, NumberedFactory(99)))
            return made.reactor.listenTCP(0, NumberedFactory(99), interface="127.0.0.1")

        def bad() -> Any:
            types = {"start": Explosive, "late": LateExplosive}
            return types[kind](listen) if kind in types else explode()

        reloads._factory = bad
        reloads._generations._factory = bad  # type: ignore[union-attr]
        with pytest.raises(ZeroDivisionError):
            await reloads.reload()
        assert not any(port.connected for port in listened)
        assert len(reloads.describe()) == 1
        client = await connectTo(reactor, where)
        assert await client.line() == b"1"
        await client.end()
        if old is not None:
            assert await old.line() == b"1"
            await old.end()
        # And it can be tried again.
        reloads._generations._factory = made  # type: ignore[union-attr]
        await reloads.reload()
        client = await connectTo(reactor, where)
        assert await client.line() == b"2"
        await client.end()

    served(story, stopFirst=stopFirst)
    (failed,) = [event for event in logged if "not reloaded" in str(formatEvent(event))]
    assert "generation 1 serves on: " in str(formatEvent(failed))
    assert failed["log_failure"].check(ZeroDivisionError)


def forgetful() -> None:
    """
    Do what is to be done, and return nothing.
    """


async def forgetfulLater() -> None:
    """
    The same, which takes its time.
    """


def test_aFactoryThatReturnsNothingIsNamed() -> None:
    """
    At the start, and at a reload, where the old one serves on.
    """

    async def main(reactor: Any) -> None:
        for factory in (forgetful, forgetfulLater):
            why = f"{factory.__name__} at .* has made None, which is no IService"
            reloads = ReloadService(factory, reactor=reactor)
            with pytest.raises(TypeError, match=why):
                start(reloads)
            reloads = ReloadService(ServiceFactory(reactor), reactor=reactor)
            start(reloads)
            reloads._generations._factory = factory  # type: ignore[union-attr]
            with pytest.raises(TypeError, match=why):
                await reloads.reload()
            assert len(reloads.describe()) == 1
            await reloads.stopService()

    spin(main)


def test_aFactoryThatReturnsTheSameServiceIsNamed() -> None:
    """
    It would be stopped with the old generation.  One that stops first is
    started again.
    """

    async def main(reactor: Any) -> None:
        made = ServiceFactory(reactor)
        only = made()
        reloads = ReloadService(lambda: only, reactor=reactor)
        start(reloads)
        with pytest.raises(ValueError, match="the service that serves already"):
            await reloads.reload()
        client = await made.connect()
        assert await client.line() == b"1"
        await client.end()
        await reloads.stopService()
        reloads = ReloadService(lambda: only, stopFirst=True, reactor=reactor)
        start(reloads)
        await reloads.reload()
        client = await made.connect()
        await client.end()
        await reloads.stopService()

    spin(main)


def test_aFactoryMayTakeItsTime() -> None:
    """
    So may the first start; who waits for it is told.
    """

    async def main(reactor: Any) -> None:
        made = ServiceFactory(reactor)
        seen: list[tuple[str, int, bool]] = []

        async def factory() -> Any:
            await sleep(reactor)
            return made()

        reloads = ReloadService(factory, reactor=reactor)
        reloads.addWatcher(
            lambda reload: seen.append(("before", reload.number, True)),
            lambda reload: seen.append(("after", reload.number, not reload.failure)),
        )
        start(reloads)
        assert made.services == []
        await reloads.reload()
        client = await made.connect()
        assert await client.line() == b"2"
        await client.end()
        assert seen == [
            ("before", 1, True),
            ("after", 1, True),
            ("before", 2, True),
            ("after", 2, True),
        ]
        await reloads.stopService()

    spin(main)


def test_whatIsAwaitedMayBeAFutureOfAsyncio() -> None:
    """
    As what a handler of a signal returns may be.
    """

    async def main(reactor: Any) -> None:
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

    spin(main, "asyncio")


@pytest.mark.parametrize("kind", ["factory", "privileged", "start"])
def test_aFirstStartThatFailsIsRaised(kind: str) -> None:
    """
    As by the service itself, and nothing stays of it.
    """

    async def main(reactor: Any) -> None:
        ports: list[Any] = []

        def listen() -> Any:
            ports.append(reactor.listenTCP(0, NumberedFactory(1)))
            if kind == "privileged":
                explode()
            return ports[0]

        def factory() -> Any:
            return Explosive(listen) if kind != "factory" else explode()

        reloads = ReloadService(factory, reactor=reactor)
        with pytest.raises(ZeroDivisionError):
            start(reloads)
        assert not reloads.running
        assert "listenTCP" not in vars(reactor)
        await until(reactor, lambda: not any(port.connected for port in ports))
        await turn(reactor)

    spin(main)


def test_aFirstStartThatFailsLaterIsLogged(logged: list[LogEvent]) -> None:
    """
    And a reload may mend it.
    """

    async def main(reactor: Any) -> None:
        made = ServiceFactory(reactor)
        deferred: Deferred[Any] = Deferred()
        results: list[Any] = [made, lambda: deferred]
        reloads = ReloadService(lambda: results.pop()(), reactor=reactor)  # noqa: PLW0108
        start(reloads)
        deferred.errback(ZeroDivisionError("no database"))
        await reloads.reload()
        client = await made.connect()
        assert await client.line() == b"1"
        await client.end()
        await reloads.stopService()

    spin(main)
    assert any("the service could not start" in str(formatEvent(e)) for e in logged)


def test_stoppingLetsConnectionsComeToTheirEnd() -> None:
    """
    But for no longer than it is given, and nobody else may connect.
    """

    async def main(reactor: Any) -> None:
        made = ServiceFactory(reactor)
        reloads = ReloadService(made, reactor=reactor)
        start(reloads)
        client = await made.connect()
        where = made.services[0].port.getHost().port
        stopped = reloads.stopService()
        with pytest.raises(Refused):
            await connectTo(reactor, where)
        assert await client.line() == b"1"
        assert await client.ask(b"still") == b"still"
        assert not stopped.called
        # Whoever asks for a reload now is told, or it is a signal.
        with pytest.raises(NotServing):
            await reloads.reload()
        await client.end()
        await stopped
        assert not made.services[0].running
        # It can be started again.
        start(reloads)
        client = await made.connect()
        assert await client.line() == b"2"
        # Now it is an old generation that still serves.
        reloads.reload()
        stopped = reloads.stopService()
        await turn(reactor)
        assert not stopped.called
        reloads.cut()
        await stopped
        await until(reactor, lambda: client.lost)
        await turn(reactor)

    spin(main)


@pytest.mark.parametrize("what", ["drain", "stopTimeout"])
def test_connectionsAreClosedWhenTheirTimeIsOver(
    what: str, logged: list[LogEvent]
) -> None:
    """
    That of a reload, and that of a stop.
    """

    async def main(reactor: Any) -> None:
        made = ServiceFactory(reactor)
        short: dict[str, Any] = {what: 0.05}
        reloads = ReloadService(made, reactor=reactor, **short)
        start(reloads)
        client = await made.connect()
        assert await client.line() == b"1"
        await (reloads.reload() if what == "drain" else reloads.stopService())
        await until(reactor, lambda: client.lost)
        await reloads.stopService()

    spin(main)
    lines = [formatEvent(event) for event in logged]
    assert (
        "generation 1 has ended; closed 1 connection still open after 0.05 s" in lines
    )


def test_aStopEndsAReloadThatIsUnderWay(logged: list[LogEvent]) -> None:
    """
    Neither generation stays.
    """

    async def main(reactor: Any) -> None:
        made = ServiceFactory(reactor)
        never: Deferred[Any] = Deferred()
        reloads = ReloadService(made, reactor=reactor)
        start(reloads)
        reloads._generations._factory = lambda: never  # type: ignore[union-attr]
        deferred, later = reloads.reload(), reloads.reload()
        await reloads.stopService()
        for asked in (deferred, later):
            with pytest.raises(NotServing):
                await asked

    spin(main)
    text = "generation 1 does not serve any more: NotServing: the service is being"
    assert any(text in str(formatEvent(event)) for event in logged)


@pytest.mark.parametrize("what", ["factory", "start"])
def test_whoWaitsToBeAcceptedWhenAStopEndsAReloadIsServed(what: str) -> None:
    """
    By the generation that serves, and not by one that has not started.
    """

    async def main(reactor: Any) -> None:
        never: Deferred[Any] = Deferred()

        class Hanging(ServiceFactory):
            def __call__(self) -> Any:
                if what == "factory" and self.services:
                    return never
                service: Any = super().__call__()
                if len(self.services) == 2:
                    service.startService = lambda: never
                return service

        made = Hanging(reactor, freePort())
        reloads = ReloadService(made, reactor=reactor)
        start(reloads)
        asked = reloads.reload()
        with tcp(made.port)() as client:
            stopped = reloads.stopService()
            client.setblocking(False)
            received = b""
            while not received:
                await turn(reactor)
                with suppress(BlockingIOError):
                    received = client.recv(10)
            assert received == b"1\n"
        with pytest.raises(NotServing):
            await asked
        await stopped

    spin(main)


@pytest.mark.parametrize("what", ["factory", "start"])
@pytest.mark.parametrize("isFirst", [True, False])
def test_whatGoesOnWhenItIsCancelledDoesNotServe(what: str, isFirst: bool) -> None:
    """
    Such as a factory that takes whatever fails for a missing configuration.
    """

    async def main(reactor: Any) -> None:
        never: Deferred[None] = Deferred()

        class Obstinate(ServiceFactory):
            def __call__(self) -> Any:
                service: Any = super().__call__()
                if not isFirst and len(self.services) == 1:
                    return service
                if what == "factory":
                    return goOn(service)
                service.privilegedStartService = lambda: None
                service.startService = lambda: listenAfterAll(service)
                return service

        async def goOn(service: Any) -> Any:
            with suppress(CancelledError):
                await never
            return service

        async def listenAfterAll(service: Any) -> None:
            await goOn(service)
            service.port = made.listen()

        made = Obstinate(reactor, freePort())
        reloads = ReloadService(made, reactor=reactor)
        start(reloads)
        asked = reloads.reload()
        await reloads.stopService()
        with pytest.raises(NotServing):
            await asked
        with pytest.raises(Refused):
            await connectTo(reactor, made.port)

    spin(main)


def test_aReloadThatAStopHasEndedDisturbsNoLaterStart() -> None:
    """
    Though it may take longer than the stop.
    """

    async def main(reactor: Any) -> None:
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

    spin(main)


def test_aStopEndsAFirstStartThatIsUnderWay(logged: list[LogEvent]) -> None:
    """
    That is no error.
    """

    async def main(reactor: Any) -> None:
        never: Deferred[Any] = Deferred(lambda deferred: None)
        reloads = ReloadService(lambda: never, reactor=reactor)
        start(reloads)
        await reloads.stopService()
        await reloads.stopService()
        assert reloads.describe() == []

    spin(main)
    assert not any(event.get("log_failure") for event in logged)


def test_aServiceThatDoesNotStopHoldsUpNoReload(
    logged: list[LogEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    For longer than connections have.
    """

    async def main(reactor: Any) -> None:
        never: list[Deferred[None]] = []

        class Stubborn(Service):
            def stopService(self) -> Deferred[None]:
                never.append(Deferred())
                return never[-1]

        reloads = ReloadService(Stubborn, drain=0.01, reactor=reactor)
        start(reloads)
        first = reloads.reload()
        second = reloads.reload()
        await until(reactor, lambda: len(never) == 2)
        assert not first.called
        for deferred in never:
            deferred.callback(None)
        await first
        await second
        stopped = reloads.stopService()
        await until(reactor, lambda: len(never) == 3)
        never[-1].errback(ZeroDivisionError("it cannot"))
        await stopped

    monkeypatch.setattr(generations, "FLUSH", 0.01)
    spin(main)
    text = [str(formatEvent(event)) for event in logged]
    assert "generation 1 does not stop: no longer waiting for it" in text
    assert any("has failed" in line for line in text)


def test_participantsChangeWithTheService() -> None:
    """
    Or not at all.
    """
    story: list[str] = []

    async def main(reactor: Any) -> None:
        made = ServiceFactory(reactor)
        reloads = ReloadService(made, reactor=reactor)

        def prepare() -> Any:
            story.append(f"prepare before {len(made.services)}")
            return (
                lambda: story.append(f"commit after {len(made.services)}"),
                lambda: story.append("roll back"),
            )

        async def prepareLater() -> Any:
            await sleep(reactor)
            story.append("prepare later")
            return lambda: succeed(None), lambda: story.append("roll back later")

        reloads.addParticipant(prepare)
        reloads.addParticipant(prepareLater)
        start(reloads)
        await reloads.reload()
        reloads._generations._factory = explode  # type: ignore[union-attr]
        with pytest.raises(ZeroDivisionError):
            await reloads.reload()
        reloads._generations._factory = made  # type: ignore[union-attr]
        reloads.addParticipant(explode)
        with pytest.raises(ZeroDivisionError):
            await reloads.reload()
        assert len(made.services) == 2
        await reloads.stopService()

    spin(main)
    assert story == [
        "prepare before 1",
        "prepare later",
        "commit after 2",
        "prepare before 2",
        "prepare later",
        "roll back later",
        "roll back",
        "prepare before 2",
        "prepare later",
        "roll back later",
        "roll back",
    ]


def test_aParticipantThatReturnsNothingIsNamed() -> None:
    """
    And the old service serves on.
    """

    async def story(reactor: Any, reloads: ReloadService, made: ServiceFactory) -> None:
        reloads.addParticipant(forgetful)
        with pytest.raises(TypeError, match=r"forgetful at .* has returned None, and"):
            await reloads.reload()
        assert len(made.services) == 1

    served(story)


def test_aParticipantThatFailsTooLateIsNamed(logged: list[LogEvent]) -> None:
    """
    When the new service serves already, or the old one serves on.
    """

    async def story(reactor: Any, reloads: ReloadService, made: ServiceFactory) -> None:
        reloads.addParticipant(lambda: (explode, explode))
        await reloads.reload()
        assert reloads._generations is not None
        reloads._generations._factory = explode
        with pytest.raises(ZeroDivisionError):
            await reloads.reload()

    served(story)
    assert sum("explode" in str(formatEvent(event)) for event in logged) == 2


def test_whatCannotBeStartedAgainIsNamed(logged: list[LogEvent]) -> None:
    """
    With C{stopFirst}, when neither the new service nor the old one starts.  A
    later reload may mend it.
    """

    class Once(Listening):
        started = False

        def startService(self) -> None:
            if self.started:
                explode()
            self.started = True
            super().startService()

    async def main(reactor: Any) -> None:
        made = ServiceFactory(reactor)
        results: list[Any] = [made, explode, lambda: Once(made.listen)]
        reloads = ReloadService(
            lambda: results.pop()(),  # noqa: PLW0108
            stopFirst=True,
            reactor=reactor,
        )
        start(reloads)
        with pytest.raises(ZeroDivisionError):
            await reloads.reload()
        await reloads.reload()
        client = await made.connect()
        assert await client.line() == b"1"
        await client.end()
        await reloads.stopService()

    spin(main)
    assert any("cannot be started again" in str(formatEvent(e)) for e in logged)
    (failed,) = [e for e in logged if "not reloaded" in str(formatEvent(e))]
    assert "generation 1 does not serve any more: " in str(formatEvent(failed))


def test_whatEndsWithTheReactorStaysUntilTheNewServiceServes() -> None:
    """
    With C{stopFirst}: the old one needs its pool of threads when it is started
    again.
    """
    ended: list[int] = []

    async def main(reactor: Any) -> None:
        made = ServiceFactory(reactor)

        def factory() -> Any:
            service = made()
            number = len(made.services)
            reactor.addSystemEventTrigger(
                "after", "shutdown", lambda: ended.append(number)
            )
            if number in (3, 5):
                explode()
            return service

        reloads = ReloadService(factory, stopFirst=True, reactor=reactor)
        start(reloads)
        await reloads.reload()
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                await reloads.reload()
            await reloads.reload()
        assert ended == [3, 2, 5, 4]
        await reloads.stopService()

    spin(main)
    assert ended == [3, 2, 5, 4, 1, 6]


def test_watchersMayFail(logged: list[LogEvent]) -> None:
    """
    The reload goes on, and so do others who watch.
    """
    seen: list[Reload] = []

    async def story(reactor: Any, reloads: ReloadService, made: ServiceFactory) -> None:
        reloads.addWatcher(explode, explode)  # type: ignore[arg-type]
        reloads.addWatcher(lambda reload: None, seen.append)
        await reloads.reload()

    served(story)
    assert [reload.number for reload in seen] == [2]
    assert seen[0].asker == "the program"
    assert sum("has failed" in str(formatEvent(event)) for event in logged) == 2


def test_twoServicesOnOneReactorAreReloadedApart() -> None:
    """
    Each keeps its own ports.
    """

    async def main(reactor: Any) -> None:
        mades = [ServiceFactory(reactor), ServiceFactory(reactor)]
        services = [ReloadService(made, reactor=reactor) for made in mades]
        for service in services:
            service.privilegedStartService()
        for service in services:
            service.startService()
        # Whose this is nobody can tell, so nobody takes it away.
        other = reactor.listenTCP(0, NumberedFactory(7), interface="127.0.0.1")
        await services[0].reload()
        for made, expected in zip(mades, (b"2", b"1"), strict=True):
            client = await made.connect()
            assert await client.line() == expected
            await client.end()
        client = await connectTo(reactor, other.getHost().port)
        assert await client.line() == b"7"
        await client.end()
        for service in services:
            assert "listenTCP" in vars(reactor)
            await service.stopService()
        assert "listenTCP" not in vars(reactor)
        await other.stopListening()

    spin(main)


class Waiting(ServiceFactory):
    """
    A factory of services that wait before they listen.
    """

    def __init__(self, reactor: Any, how: str, begun: list[Deferred[None]]) -> None:
        super().__init__(reactor, freePort())
        self._how = how
        self._begun = begun

    def __call__(self) -> Any:
        waiting: Deferred[None] = Deferred()
        self._begun.append(waiting)
        if self._how == "factory":

            async def make() -> Any:
                await waiting
                return ServiceFactory.__call__(self)

            return make()
        service: Any = super().__call__()
        service.privilegedStartService = lambda: None
        service.startService = partial(self._start, service, waiting)
        return service

    def _start(self, service: Any, waiting: Deferred[None]) -> Any:
        def listen(_: object) -> None:
            service.port = self.listen()

        if self._how == "callback":
            return waiting.addCallback(listen)

        async def wait() -> None:
            await waiting
            listen(None)

        return Deferred.fromCoroutine(wait())


@pytest.mark.parametrize("how", ["factory", "coroutine", "callback"])
def test_servicesThatStartAtTheSameTimeAreToldApart(how: str) -> None:
    """
    Where they wait for something and then listen, in whatever order.  One that
    is reloaded, or stopped, takes no port of the other's away.
    """

    async def main(reactor: Any) -> None:
        begun: list[Deferred[None]] = []

        async def go(order: int) -> None:
            await untilLength(reactor, begun, 2)
            waiting = begun[::order]
            begun.clear()
            for deferred in waiting:
                deferred.callback(None)

        mades = [Waiting(reactor, how, begun) for _ in range(2)]
        services = [ReloadService(made, reactor=reactor) for made in mades]
        for service in services:
            start(service)
        await go(1)
        for order in (-1, 1):
            reloads = [service.reload() for service in services]
            await go(order)
            for reloaded in reloads:
                await reloaded
        reloads = [services[1].reload()]
        await untilLength(reactor, begun, 1)
        begun.pop().callback(None)
        await reloads.pop()
        for made, expected in zip(mades, (b"3", b"4"), strict=True):
            client = await made.connect()
            assert await client.line() == expected
            await client.end()
        await services[1].stopService()
        client = await mades[0].connect()
        assert await client.line() == b"3"
        await client.end()
        await services[0].stopService()

    spin(main)


def test_theGlobalReactorIsTheDefault(tmp_path: Any) -> None:
    """
    In a program of one's own.
    """
    from tests.support.daemons import python

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
