# -*- test-case-name: tests.reload.test_reload -*-
"""
L{ReloadService}: a service that can be made anew while it serves.

What a reload does is in C{succession.py}; when one is done is decided here.
Reloads do not overlap, but an old generation may still have connections when
the next one comes: else one client that keeps its connection would hold them
up.  However fast they are asked for, they leave most of the time to clients.

L{Pace}: how soon something may be done again that takes the reactor's time from
others.

Rejected: one interval for all (too short for what takes long, and felt where
nothing was resources); to measure CPU time (of one thread it cannot be told what
was done for whom while something waits).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, overload

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from txsignalfd._reload.generations import Generations
from txsignalfd._reload.inherited import unclaimed
from txsignalfd._reload.resources import Resources
from txsignalfd._reload.transaction import (
    Askers,
    Participants,
    Prepare,
    Reload,
    Watcher,
    Watchers,
)
from txsignalfd.siginfo import SigInfo

_log: Final = Logger("txsignalfd.reload.ReloadService")

#: The longest rest, in seconds: somebody waits for what comes after it.
LONGEST: Final = 0.5


class Pace:
    """
    After what took a while, a rest of many times as long.
    """

    def __init__(self, reactor: Any, share: float) -> None:
        """
        @param reactor: The reactor.
        @param share: The part of the time that it may take: 0.01 is a rest of
            99 times as long.
        """
        self._reactor = reactor
        self._rests = 1 / share - 1
        self._began = self._until = 0.0

    async def begin(self) -> None:
        """
        Wait until it may be done again, which begins then.
        """
        # A reactor's clock may be set back.
        left = min(self._until - self._reactor.seconds(), LONGEST)
        if left > 0:
            await deferLater(self._reactor, left)
        self._began = self._reactor.seconds()

    def end(self) -> None:
        """
        It is done.
        """
        now = self._reactor.seconds()
        self._until = now + min((now - self._began) * self._rests, LONGEST)


class NotServing(RuntimeError):
    """
    A reload was asked for of a L{ReloadService} that is being stopped.
    """


class ReloadService(Service):
    """
    Runs the service that a factory makes, and makes it anew on L{reload}::

        reloads = ReloadService(makeMyService)
        SignalService(handlers={SIGHUP: reloads.reload})

    While it runs, who listens on the reactor gets ports that two generations
    can share.  Use it from the thread in which the reactor runs.
    """

    #: Whether all that listens on the reactor is the service's, also what
    #: begins to when its C{startService} has returned.
    alone = False
    #: What was taken for the first generation when it was made, as twistd does.
    early: Resources | None = None
    #: The part of the time that reloads in a row may take: after one that took
    #: 2 ms, the next begins in 198 ms, but whatever took long, in half a second.
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
        @param stopTimeout: The same when all is stopped.
        @param stopFirst: Whether the old generation is stopped before the new
            one is made, for what two of them cannot have at the same time.  Who
            connects meanwhile waits.
        @param reactor: The reactor; by default the global one.
        """
        self._factory = factory
        self.drain = drain
        self.stopTimeout = stopTimeout
        self.stopFirst = stopFirst
        self._reactor = reactor
        self._participants = Participants()
        self._watchers = Watchers()
        self._generations: Generations | None = None
        #: Who wants one reload more.
        self._askers = Askers()
        #: The last that has begun.
        self._latest: Reload
        #: Whether a generation is being started, and what is waited for then.
        self._busy = False
        self._working: Deferred[None] = succeed(None)
        #: What is being stopped.
        self._ending: Generations | None = None
        self._atOnce = False

    def addParticipant(self, prepare: Prepare) -> None:
        """
        Have something else change with the service, or not at all.

        @param prepare: Called before the new service is made.  It returns two
            callables: what makes the change when the new one serves, and what
            gives it up when it will not.  Each may return an awaitable.  If
            C{prepare} fails, so does the reload.
        """
        self._participants.add(prepare)

    def addWatcher(self, before: Watcher, after: Watcher) -> None:
        """
        Be told of each L{Reload}, and of the first start.

        @param before: Called before the service is made, or the first started.
        @param after: Called when it serves, or has failed.
        """
        self._watchers.add(before, after)

    def describe(self) -> list[str]:
        """
        A line for each generation that is not stopped, the oldest first.
        """
        generations = self._generations.generations if self._generations else []
        return [one.describe() for one in generations]

    def privilegedStartService(self) -> None:
        """
        Make the first generation, and have it do what may need privileges.
        """
        if self._generations is not None:
            return
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = reactor
        self._ending, self._atOnce = None, False
        self._pace = Pace(self._reactor, self.share)
        succession = Generations(
            self._reactor, self._factory, self._participants, self.drain, self.stopFirst
        )
        early, self.early = self.early or Resources(unclaimed), None
        succession.privilegedBegin(self.alone, early)
        self._generations = succession

    def startService(self) -> None:
        """
        Start the first generation.
        """
        self.privilegedStartService()
        succession = self._generations
        assert succession is not None, "it was made"
        raised: list[Failure] = []
        self._busy = True
        self._working = Deferred.fromCoroutine(self._begin(succession))
        self._working.addErrback(raised.append)
        if raised:
            self._busy = False
            succession.giveUp()
            self._generations = None
            raised[0].raiseException()
        super().startService()
        self._working.addCallback(lambda _: self._begun(succession, raised))

    async def _begin(self, succession: Generations) -> None:
        reload = self._latest = Reload(succession.current.number, Askers())
        self._watchers.before(reload)
        try:
            await succession.begin()
        except BaseException:
            reload.ended(Failure())
            raise
        else:
            reload.ended()
        finally:
            self._watchers.after(reload)

    def _begun(self, succession: Generations, raised: list[Failure]) -> None:
        if raised and succession is self._generations:
            _log.failure("the service could not start", raised[0])
        self._worked(succession)

    @overload
    def reload(self) -> Deferred[None]: ...

    @overload
    def reload(self, info: SigInfo) -> None: ...

    def reload(self, info: SigInfo | None = None) -> Deferred[None] | None:
        """
        Make the service anew.  While that goes on, or before the service has
        started, any number of calls come to one more, after it.

        @param info: The signal that asks for it.  Then nothing is returned, so
            that a dispatcher, for which this is a handler, does not keep the
            next signal for later.
        @return: Fires when the new generation serves and the old one is
            stopped.  Fails with the reason when the old one serves on, or with
            L{NotServing}.
        """
        asked: Deferred[None] | None = None
        if info is None:
            asked = Deferred()
            self._askers.waiting.append(asked)
        else:
            self._askers.add(info)
        if self._ending is not None:
            self._refuse()
        elif self._busy:
            self._latest.tellThatItLasts(self._askers)
        else:
            self._work()
        return asked

    def _refuse(self) -> None:
        askers = self._takeAskers()
        if askers.infos:
            _log.info("no reload while it stops: asked for by {it}", it=askers)
        askers.refuse(Failure(NotServing("the service is being stopped")))

    def _takeAskers(self) -> Askers:
        resources, self._askers = self._askers, Askers()
        return resources

    def _work(self) -> None:
        if self.running and self._askers and not self._busy:
            succession = self._generations
            assert succession is not None, "it runs"
            self._busy = True
            self._working = Deferred.fromCoroutine(self._reload(succession))
            self._working.addBoth(lambda _: self._worked(succession))

    def _worked(self, succession: Generations) -> None:
        # Else it was stopped, and has perhaps been started again since.
        if succession is self._generations:
            self._busy = False
            self._work()

    async def _reload(self, succession: Generations) -> None:
        await self._pace.begin()
        askers = self._takeAskers()
        reload = self._latest = Reload(succession.next, askers)
        _log.info("reloading: asked for by {asker}", asker=reload.asker)
        self._watchers.before(reload)
        try:
            old = await succession.follow()
        except BaseException:
            failure = Failure()
            if succession is not self._generations:
                failure = Failure(NotServing("the service is being stopped"))
            reload.ended(failure)
            self._pace.end()
            self._failed(succession, reload)
            askers.refuse(failure)
            return
        reload.ended()
        self._pace.end()
        _log.info(
            "reloaded in {seconds:.3f} s: {it} serves",
            seconds=reload.seconds,
            it=succession.current,
        )
        self._watchers.after(reload)
        for deferred in askers.waiting:
            old.retired.wait().chainDeferred(deferred)
        if not old.isBusy:
            await succession.inTime(old)

    def _failed(self, succession: Generations, reload: Reload) -> None:
        assert reload.failure is not None, "it has failed"
        reload.remains = succession.remains
        _log.failure(
            "not reloaded, after {seconds:.3f} s: {remains}: {reason}",
            reload.failure,
            seconds=reload.seconds,
            remains=reload.remains,
            reason=reload.reason,
        )
        self._watchers.after(reload)

    def stopService(self) -> Deferred[None]:
        """
        Listen no more, let open connections come to their end, and stop.

        @return: Fires when that is done.
        """
        super().stopService()
        succession, self._generations = self._generations, None
        if succession is None:
            return succeed(None)
        self._ending = succession
        self._refuse()
        succession.end(self.stopTimeout)
        self._working.cancel()
        if self._atOnce:
            succession.cut()
        return succession.gone.wait()

    def cut(self) -> None:
        """
        Wait for nothing when the service is stopped, or is being: cut connections.
        """
        self._atOnce = True
        if self._ending is not None:
            self._ending.cut()
