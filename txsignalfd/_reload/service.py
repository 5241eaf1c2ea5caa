# -*- test-case-name: tests.reload.test_reload -*-
"""
L{ReloadService}: a service that can be reloaded while it serves.

L{Generations} do the reload; this module decides when one begins.  Reloads do
not overlap, but an old generation may still drain when the next reload begins:
otherwise one client could hold up all reloads by keeping its connection.

L{Pace} leaves most of the time to clients, however fast reloads are requested.

Rejected: one fixed interval (too short after a slow reload, and a needless wait
after a quick one); measuring CPU time (a thread's CPU time is not that of the
reload while the reload waits).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, overload

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from txsignalfd._kernel.callables import checkCallable
from txsignalfd._proc.reason import RemoteError
from txsignalfd._reload.generation import Generation, Resources
from txsignalfd._reload.generations import Generations, Phase
from txsignalfd._reload.sharing import unclaimed
from txsignalfd._reload.stored import SocketStore
from txsignalfd._reload.transaction import (
    OneShotEvent,
    Prepare,
    Reload,
    ReloadObserver,
    ReloadRequest,
    attempt,
)
from txsignalfd.siginfo import SigInfo

_log: Final = Logger("txsignalfd.reload.ReloadService")

#: The longest pause between two reloads, in seconds.
LONGEST: Final = 0.5


#: The service that is alone on a reactor.  Another one there is a part of it.
_whole: Final[dict[Any, ReloadService]] = {}


def _leavePorts(ports: list[Any]) -> None:
    """
    Do nothing: another process listens.
    """


class Pace:
    """
    Pauses an action for a multiple of the time that it has taken.
    """

    def __init__(self, reactor: Any, share: float) -> None:
        """
        @param reactor: The reactor.
        @param share: The part of the time that the action may take: with 0.01 it
            pauses 99 times as long.
        """
        self._reactor = reactor
        self._factor = 1 / share - 1
        self._began = self._until = 0.0

    async def begin(self) -> None:
        """
        Wait for the end of the pause, and note the beginning of the action.
        """
        # The clock of a reactor may be set back.
        left = min(self._until - self._reactor.seconds(), LONGEST)
        if left > 0:
            await deferLater(self._reactor, left)
        self._began = self._reactor.seconds()

    def end(self) -> None:
        """
        Note the end of the action.
        """
        now = self._reactor.seconds()
        self._until = now + min((now - self._began) * self._factor, LONGEST)


class NotServing(RuntimeError):
    """
    A reload was requested of a L{ReloadService} that is being stopped.
    """


class ReloadService(Service):
    """
    Runs the service that a factory makes, and another one after L{reload}::

        reloads = ReloadService(makeMyService)
        SignalService(handlers={SIGHUP: reloads.reload})

    While it runs, the reactor opens ports that two generations can share.  Use
    it in the reactor's thread.

    @cvar alone: Whether every port of the reactor belongs to the service, also
        one that is opened when C{startService} has returned.
    @cvar logsStart: Whether to log a start that fails after C{startService} has
        returned.  Otherwise an observer does so.
    @cvar logsEnd: Whether to log that a generation has ended.
    @cvar startup: The resources that the first generation has opened before its
        start, when the service was made.
    @cvar beforeServing: Called when the first generation has started.  It accepts no
        connection until the Deferred that this returns fires.
    @cvar first: The number of the first generation.
    @cvar store: Where listening sockets are stored for the next process.
    @cvar share: The part of the time that successive reloads may take: the next
        one begins 198 ms after one that took 2 ms, and always within half a
        second.
    """

    alone: bool = False
    logsStart: bool = True
    logsEnd: bool = True
    startup: Resources | None = None
    first: int = 1
    store: SocketStore | None = None
    beforeServing: Callable[[], Deferred[Any]] | None = None
    share: float = 0.01

    def __init__(
        self,
        factory: Callable[[], Any],
        drain: float = 30.0,
        stopTimeout: float = 30.0,
        stopFirst: bool = False,
        reactor: Any = None,
    ) -> None:
        """
        @param factory: Makes an C{IService}, or an awaitable of one.
        @param drain: How long connections of an old generation may stay open,
            in seconds.
        @param stopTimeout: The same for L{stopService}.
        @param stopFirst: Whether to stop the old service before the new one is
            made, for resources that two of them cannot share.  New connections
            wait in the listen queue.
        @param reactor: The reactor; by default the global one.
        @raise TypeError: For a factory that cannot be called.
        """
        checkCallable(factory, "factory")
        self._factory = factory
        self.drain = drain
        self.stopTimeout = stopTimeout
        self.stopFirst = stopFirst
        self._reactor = reactor
        self._participants: list[Prepare] = []
        self._observers: list[tuple[ReloadObserver, ReloadObserver]] = []
        #: C{None} until the first start.
        self._generations: Generations | None = None
        #: The request for the next reload.
        self._request = ReloadRequest()
        #: The reload that has begun last, and the request for it.
        self._latest: Reload
        self._reloading = ReloadRequest()
        self._cutsAtStop = self._hasRefused = False
        #: The service of which this is a part, and which is reloaded in its place.
        self._outer: ReloadService | None = None
        self._newest: SigInfo | None = None
        #: Fires when no reload is under way, while L{postpone} lets none begin.
        self._idle: OneShotEvent | None = None

    def addParticipant(self, prepare: Prepare) -> None:
        """
        Join a two-phase commit with every reload.

        @param prepare: Called before the new service is made.  It returns two
            callables: the first commits the change when the new service serves,
            the second rolls it back when it will not.  Each of the three may
            return an awaitable.  If C{prepare} fails, so does the reload.
        """
        self._participants.append(prepare)

    def addObserver(self, before: ReloadObserver, after: ReloadObserver) -> None:
        """
        Call functions before and after each L{Reload}, and the first start.

        @param before: Called before the service is made, or the first started.
        @param after: Called when it serves, or has failed.
        """
        self._observers.append((before, after))

    def _callBefore(self, reload: Reload) -> None:
        for before, _ in list(self._observers):
            attempt(before, reload)

    def _callAfter(self, reload: Reload) -> None:
        for _, after in list(self._observers):
            attempt(after, reload)

    @property
    def generations(self) -> list[Generation]:
        """
        The generations that have not stopped, the oldest first.
        """
        return list(self._generations.generations) if self._generations else []

    @property
    def number(self) -> int:
        """
        The number of the generation that serves, or was started last.
        """
        assert self._generations is not None, "the service was started"
        return self._generations.current.number

    def describe(self) -> list[str]:
        """
        Describe each generation that has not stopped, the oldest first.
        """
        return [generation.describe() for generation in self.generations]

    def privilegedStartService(self) -> None:
        """
        Make the first generation, and start what may need privileges.
        """
        if self._generations is not None and not self._generations.isStopping:
            return
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = reactor
        self._cutsAtStop = self._hasRefused = False
        self._pace = Pace(self._reactor, self.share)
        generations = Generations(
            self._reactor, self._factory, self._participants, self.drain, self.stopFirst
        )
        self._outer = None if self.alone else _whole.get(self._reactor)
        if self.alone:
            _whole[self._reactor] = self
            forget = partial(_whole.pop, self._reactor)
            generations.stopped.wait().addCallback(forget)
        generations.beforeServing = self.beforeServing
        generations.logsEnd = self.logsEnd and self._outer is None
        generations.next = self.first
        startup, self.startup = self.startup or Resources(unclaimed), None
        generations.privilegedStart(self.alone, startup, self.store)
        self._generations = generations

    def startService(self) -> None:
        """
        Start the first generation.
        """
        self.privilegedStartService()
        generations = self._generations
        assert generations is not None, "privilegedStartService has made it"
        failures: list[Failure] = []
        generations.phase = Phase.STARTING
        generations.task = Deferred.fromCoroutine(self._start(generations))
        generations.task.addErrback(failures.append)
        if failures:
            generations.giveUp()
            self._generations = None
            failures[0].raiseException()
        super().startService()
        generations.task.addCallback(lambda _: self._started(generations, failures))

    async def _start(self, generations: Generations) -> None:
        reload = self._latest = Reload(generations.current.number, ReloadRequest())
        reload.isStart = True
        self._callBefore(reload)
        try:
            await generations.start()
        except BaseException:
            reload.end(Failure())
            raise
        else:
            reload.end()
        finally:
            self._callAfter(reload)

    def _started(self, generations: Generations, failures: list[Failure]) -> None:
        if failures and self.logsStart and not generations.isStopping:
            _log.failure("the service could not start", failures[0])
        self._finished(generations)

    @overload
    def reload(self) -> Deferred[None]: ...

    @overload
    def reload(self, info: SigInfo) -> None: ...

    def reload(self, info: SigInfo | None = None) -> Deferred[None] | None:
        """
        Start a new service, and stop the old one when its connections have ended.

        Any number of calls during a reload, or before the service has started,
        request one more reload after it.  In a program that C{twistd signalfd} or
        C{txsignalfd.run} reloads as a whole, this reloads the whole.

        @param info: The signal that requests it.  Then nothing is returned, so
            that a dispatcher that has this as a handler does not defer the next
            signal.
        @return: A Deferred that fires when the new service serves and the old one
            has stopped.  It fails with the reason when the old one goes on
            serving, or with L{NotServing}.
        """
        if (outer := self._outer) is not None:
            return outer.reload() if info is None else outer.reload(info)
        waiting: Deferred[None] | None = None
        if info is None:
            waiting = Deferred()
            self._request.waiting.append(waiting)
        elif info is self._newest:
            # A part of the program handles the signal, too.
            return None
        else:
            self._newest = info
            self._request.add(info)
        self._requested()
        return waiting

    def request(self, requester: str) -> None:
        """
        Reload for a requester that is no signal, as soon as the service has started.

        @param requester: The requester for the log.
        """
        self._request.addText(requester)
        self._requested()

    def _requested(self) -> None:
        match self._phase:
            case Phase.STARTING | Phase.RELOADING:
                self._latest.logLong(self._request)
            case Phase.READY:
                self._proceed()
            case Phase.STOPPING | Phase.STOPPED:
                self._refuse()

    @property
    def _phase(self) -> Phase:
        return Phase.NEW if self._generations is None else self._generations.phase

    def postpone(self) -> Deferred[None]:
        """
        Let no reload begin until L{resume}.

        @return: A Deferred that fires when none is under way.
        """
        self._idle = idle = OneShotEvent()
        self._proceed()
        return idle.wait()

    @property
    def postponed(self) -> str:
        """
        The requesters of the reload that L{postpone} delays, or an empty string.
        """
        return str(self._request)

    def resume(self) -> None:
        """
        Undo L{postpone}, and begin a reload that was requested meanwhile.
        """
        self._idle = None
        self._proceed()

    def _refuse(self) -> None:
        request = self._takeRequest()
        if request.infos and not self._hasRefused:
            self._hasRefused = True
            _log.info(
                "no reload: the service is being stopped; requested by {requester}"
                " (further requests are not logged)",
                requester=request,
            )
        request.fail(Failure(NotServing("the service is being stopped")))

    def _takeRequest(self) -> ReloadRequest:
        request, self._request = self._request, ReloadRequest()
        return request

    def _proceed(self) -> None:
        """
        Begin the reload that was requested, unless one is under way or postponed.
        """
        generations = self._generations
        if generations is None or generations.phase is not Phase.READY:
            return
        if self._idle is not None:
            self._idle.fire()
        elif self._request:
            generations.phase = Phase.RELOADING
            generations.task = Deferred.fromCoroutine(self._reload(generations))
            generations.task.addBoth(lambda _: self._finished(generations))

    def _finished(self, generations: Generations) -> None:
        if not generations.isStopping:
            generations.phase = Phase.READY
            self._proceed()

    async def _reload(self, generations: Generations) -> None:
        await self._pace.begin()
        request = self._reloading = self._takeRequest()
        reload = self._latest = Reload(generations.next, request)
        _log.info("reloading: requested by {requester}", requester=reload.requester)
        self._callBefore(reload)
        try:
            old = await generations.reload()
        except BaseException:
            failure = Failure()
            if generations.isStopping:
                failure = Failure(NotServing("the service is being stopped"))
            reload.end(failure)
            self._pace.end()
            self._failed(generations, reload)
            request.fail(failure)
            return
        reload.end()
        self._pace.end()
        _log.info("{outcome}", outcome=reload.outcome)
        self._callAfter(reload)
        for deferred in request.takeWaiting():
            old.retired.wait().chainDeferred(deferred)
        if not old.isBusy:
            await generations.waitUntilRetired(old)

    def _failed(self, generations: Generations, reload: Reload) -> None:
        assert reload.failure is not None, "the reload has failed"
        reload.remains = generations.remains
        if generations.isStopping:
            _log.info("{outcome}", outcome=reload.outcome)
        elif isinstance(reload.failure.value, RemoteError):
            # The traceback of this process would only show how it has waited.
            text = f"{reload.outcome}\n{reload.failure.value.traceback}".rstrip()
            _log.critical("{text}", text=text)
        else:
            _log.failure("{outcome}", reload.failure, outcome=reload.outcome)
        self._callAfter(reload)

    def suspend(self) -> None:
        """
        Stop accepting connections: another process will accept them.
        """
        for generation in self.generations:
            generation.suspend()

    def retire(self, seconds: float) -> Deferred[list[Any]]:
        """
        Drain open connections, and stop the service: another process serves.

        @param seconds: How long connections may stay open.
        @return: A Deferred that fires when it has stopped.
        """
        for generation in self.generations:
            generation.retire(seconds, _leavePorts)
        return gatherResults([each.retired.wait() for each in self.generations])

    def stopService(self) -> Deferred[None]:
        """
        Stop accepting connections, drain those that are open, and stop.

        @return: A Deferred that fires when the service has stopped.
        """
        super().stopService()
        generations = self._generations
        if generations is None:
            return succeed(None)
        if not generations.isStopping:
            generations.stop(self.stopTimeout)
            self._refuse()
            # The code that is cancelled may fail, or go on.
            attempt(generations.task.cancel)
            self._reloading.fail(Failure(NotServing("the service is being stopped")))
            if self._cutsAtStop:
                generations.cut()
        return generations.stopped.wait()

    def cut(self) -> None:
        """
        Abort open connections, and wait for nothing: now, if the service is being
        stopped, else when it will be.
        """
        self._cutsAtStop = True
        if self._generations is not None and self._generations.isStopping:
            self._generations.cut()
