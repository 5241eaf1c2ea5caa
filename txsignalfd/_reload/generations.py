# -*- test-case-name: tests.reload.test_reload -*-
"""
L{Generations}: the generations of a service, and how one follows another.

A new generation starts where the old one still listens (C{ports.py} tells
how).  Only when it has started does the old one accept no more; it serves its
connections to their end, and is stopped.  So there is no moment in which nobody
listens, and until the new one serves nothing is lost by giving it up: the old
one goes on as if nothing had been::

    serving --reload--> starting --started--> draining --no connections--> stopped
       ^                   |                 (the new one serves)
       +------failed-------+

Rejected: to start the program anew beside itself, as nginx does for a new
binary.  It would have new code as well, but what it has in memory, its children
and its pid would be gone, and twistd's log, pidfile and privileges with them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any, Final

from twisted.internet.defer import CancelledError
from twisted.internet.defer import TimeoutError as NotInTime
from twisted.logger import Logger

from txsignalfd._reload.generation import FLUSH, Generation, checkService, whereIs
from txsignalfd._reload.inherited import unshareInherited
from txsignalfd._reload.resources import OneShotEvent, Resources
from txsignalfd._reload.sharing import Handover, PortSharing
from txsignalfd._reload.transaction import Participants, result

_log: Final = Logger("txsignalfd.reload.ReloadService")

#: Seconds in which a new generation may begin to listen where the old one did,
#: at least: who connects meanwhile waits.
LATE: Final = 30.0

#: Seconds in which a service may stop when it is to do so at once.
AT_ONCE: Final = 0.25


class Generations:
    """
    The generations of a service, from its start to its stop.
    """

    def __init__(
        self,
        reactor: Any,
        factory: Callable[[], Any],
        participants: Participants,
        drain: float,
        stopFirst: bool,
    ) -> None:
        """
        @param reactor: The reactor.
        @param factory: Makes an C{IService}, or an awaitable of one.
        @param participants: What changes with it.
        @param drain: How long connections of an old generation may stay open,
            in seconds.
        @param stopFirst: Whether the old one is stopped before the new is made.
        """
        self._reactor = reactor
        self._factory = factory
        self._participants = participants
        self._drain = drain
        self._stopFirst = stopFirst
        self._late: Awaitable[Any] | None = None
        self._count = 0
        #: All that are not stopped, the oldest first.
        self.generations: list[Generation] = []
        #: The one that serves.
        self.current: Generation
        #: That none is left, after L{end}.
        self.gone = OneShotEvent()
        self._ending = False
        self._leaving: Any = None

    @property
    def remains(self) -> str:
        """
        What holds after a reload that has failed.
        """
        over = self.current.failed or self._ending
        return f"{self.current} {'does not serve any more' if over else 'serves on'}"

    @property
    def next(self) -> int:
        """
        The number of the generation that is made next.
        """
        return self._count + 1

    def privilegedBegin(self, alone: bool, resources: Resources) -> None:
        """
        Make the first generation, and have it do what may need privileges.
        If it cannot, all is undone.

        @param alone: Whether nobody else listens on the reactor.
        @param resources: What was taken for it already.
        """
        self._sharing = PortSharing(self._reactor, alone)
        self.current = first = self._new(resources)
        try:
            with self._sharing.starting(first.resources):
                service = self._factory()
                if isawaitable(service):
                    self._late = service
                else:
                    first.service = self._checked(service)
                    first.privilegedStart()
        except BaseException:
            self.giveUp()
            raise

    async def begin(self) -> None:
        """
        Start the first generation.
        """
        first = self.current
        with self._sharing.starting(first.resources):
            if self._late is not None:
                late, self._late = self._late, None
                first.service = self._checked(await result(late))
                first.privilegedStart()
            await first.start()
        # What was made once, when a module was imported, is all generations'.
        first.resources.triggers.leave()

    async def follow(self) -> Generation:
        """
        Have a new generation follow the one that serves.  If it cannot, that
        serves on.

        @return: The old one, which accepts no more.
        """
        old = self.current
        listened = {
            p.listener.key: whereIs(p) for p in old.resources.ports if not p.late
        }
        listened |= old.missing
        try:
            await self._participants.prepare()
        except BaseException:
            await self._participants.rollback()
            raise
        handover = Handover(
            self._sharing, old.resources, self._stopFirst, max(self._drain, LATE)
        )
        try:
            if self._stopFirst:
                await self._stop(old)
            self.current = await self._start(handover)
        except BaseException:
            await self._participants.rollback()
            if old.isRetired and not self._ending:
                await self._startAgain(old, handover, listened)
            handover.rollBack()
            raise
        handover.commit()
        await self._participants.commit()
        old.retire(self._drain, handover.stopLate)
        if old.mayServeAgain:
            await old.resources.triggers.fire(self._reactor)
        return old

    async def _stop(self, old: Generation) -> None:
        # It needs what it has then, such as a pool of threads.
        old.mayServeAgain = True
        old.suspend()
        # Nobody serves until it has ended.
        old.retire(self._drain, None)
        await old.retired.wait()

    async def _startAgain(
        self, old: Generation, handover: Handover, listened: dict[Any, str]
    ) -> None:
        again = self._enter(Generation(old.number, Resources(), self._reactor))
        self.current = again
        again.service = old.service
        again.resources.triggers = old.resources.triggers
        again.missing = listened
        try:
            with handover.starting(again.resources):
                again.privilegedStart()
                await again.start()
        except Exception:
            again.failed = True
            _log.failure("{it} cannot be started again: nothing serves", it=old)
            return
        for port in again.resources.ports:
            listened.pop(port.listener.key, None)
        if listened:
            # An endpoint of systemd's listens once, and does not raise.
            again.failed = True
            where = ", ".join(listened.values())
            _log.error("{it} no longer listens on {where}", it=old, where=where)

    async def _start(self, handover: Handover) -> Generation:
        new = self._new(Resources())
        try:
            with handover.starting(new.resources):
                new.service = self._checked(await result(self._factory()))
                new.privilegedStart()
                await new.start()
        except BaseException:
            new.retire(0, handover.stopLate)
            await self.inTime(new)
            raise
        return new

    def _checked(self, made: Any) -> Any:
        """
        @return: What the factory has made.
        @raise TypeError: It is no service.
        @raise ValueError: It serves already, and would be stopped with the old
            generation.
        @raise CancelledError: All is stopped, and the factory has gone on.
        """
        checkService(made, self._factory)
        if self._ending:
            raise CancelledError
        if any(generation.service is made for generation in self.generations):
            raise ValueError(
                f"{self._factory!r} has made the service that serves already, and"
                " not another one, which only stop-first could start again"
            )
        return made

    async def inTime(self, old: Generation) -> None:
        """
        Wait until a generation has stopped, but not for ever.
        """
        try:
            await old.retired.wait().addTimeout(self._drain + FLUSH, self._reactor)
        except NotInTime:
            _log.warn("{it} does not stop: no longer waiting for it", it=old)

    def _new(self, resources: Resources) -> Generation:
        self._count += 1
        return self._enter(Generation(self._count, resources, self._reactor))

    def _enter(self, generation: Generation) -> Generation:
        self.generations.append(generation)
        generation.retired.wait().addCallback(lambda _: self._left(generation))
        return generation

    def _left(self, generation: Generation) -> None:
        self.generations.remove(generation)
        closed = generation.closed
        over = f"; its time was over for {closed} connections" if closed else ""
        _log.info("{it} has ended{over}", it=generation, over=over)
        if self._ending and not self.generations:
            self._leave()

    def _leave(self) -> None:
        if self._leaving is not None and self._leaving.active():
            self._leaving.cancel()
        self._sharing.close()
        unshareInherited()
        self.gone.fire()

    def end(self, seconds: float) -> None:
        """
        Listen no more, let open connections come to their end, and stop.

        @param seconds: How long they may stay open.
        """
        self._ending = True
        self._sharing.closeHandovers()
        # Who waits is accepted by the last, which is to be one that has started.
        for generation in reversed(list(self.generations)):
            generation.suspend()
        for generation in list(self.generations):
            generation.retire(seconds, None)

    def giveUp(self) -> None:
        """
        Stop, with no time for anything.
        """
        self.end(0)
        self._cut()
        self._leave()

    def cut(self) -> None:
        """
        Cut all connections, and do not wait for services, after L{end}.
        """
        self._cut()
        if not self.gone.fired and self._leaving is None:
            self._leaving = self._reactor.callLater(AT_ONCE, self._leave)

    def _cut(self) -> None:
        for generation in list(self.generations):
            generation.cut()
