# -*- test-case-name: tests.reload.test_reload -*-
"""
L{Generations}: the generations of a service, and how one follows another.

A new generation starts while the old one still serves; they share their
listening sockets (see L{txsignalfd._reload.ports}).  When the new one has
started, the old one stops accepting connections, drains, and stops.  At every
moment one of them accepts connections, and a new generation that cannot start
is stopped without any effect on the old one.

Rejected: to start the program again beside itself, as nginx does for a new
binary.  That would load new code too, but lose the pid, the children, the log,
the privileges and what the program has in memory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum, auto
from inspect import isawaitable
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import Logger

from txsignalfd._dispatch.runs import toDeferred
from txsignalfd._proc.quoting import counted
from txsignalfd._reload.draining import DrainingService
from txsignalfd._reload.failedlistens import checkListens
from txsignalfd._reload.generation import (
    FLUSH,
    Generation,
    Resources,
    State,
    Triggers,
    checkService,
    whereIs,
)
from txsignalfd._reload.sharing import Handover, PortSharing, unshareInherited
from txsignalfd._reload.stored import SocketStore
from txsignalfd._reload.transaction import (
    OneShotEvent,
    Prepare,
    Timer,
    Transaction,
    attempt,
    firesWithin,
    resultOf,
)

_log: Final = Logger("txsignalfd.reload.ReloadService")

#: The shortest time, in seconds, in which a new generation may open the ports of
#: the old one.  New connections wait in the listen queue meanwhile.
LATE: Final = 30.0

#: Seconds that services have for a stop that cuts connections.
AT_ONCE: Final = 0.25


class Phase(Enum):
    """
    The phases of L{Generations}::

        ========= ================================== =========
        phase     event                              new phase
        ========= ================================== =========
        NEW       the first generation is started    STARTING
        STARTING  it serves, or has failed           READY
        READY     a reload begins                    RELOADING
        RELOADING the new generation serves, or      READY
                  has failed
        any       stop() is called                   STOPPING
        STOPPING  the last generation has stopped    STOPPED
        ========= ================================== =========
    """

    NEW = auto()
    STARTING = auto()
    READY = auto()
    RELOADING = auto()
    STOPPING = auto()
    STOPPED = auto()


class Generations:
    """
    The generations of a service, from its start to its stop.

    @ivar phase: Their phase.
    @ivar task: The start or the reload that is under way, or was the last.
    @ivar generations: Those that have not stopped, the oldest first.
    @ivar current: The one that serves, or was started last.
    @ivar stopped: Fires when all have stopped, after L{stop}.
    """

    current: Generation

    def __init__(
        self,
        reactor: Any,
        factory: Callable[[], Any],
        participants: list[Prepare],
        drain: float,
        stopFirst: bool,
    ) -> None:
        """
        @param reactor: The reactor.
        @param factory: Makes an C{IService}, or an awaitable of one.
        @param participants: Prepare changes that belong to the reload.
        @param drain: How long connections of an old generation may stay open,
            in seconds.
        @param stopFirst: Whether to stop the old generation before the new one
            is made.
        """
        self._reactor = reactor
        self._factory = factory
        self._participants = participants
        self._drain = drain
        self._stopFirst = stopFirst
        #: The sockets of the process before, for ports that the first generation opens
        #: while it starts, and later.
        self._restored: list[Handover] = []
        self._awaitedService: Awaitable[Any] | None = None
        #: The number of the generation that is made next.
        self.next = 1
        self._timer: Timer | None = None
        self.phase = Phase.NEW
        self.task: Deferred[None] = succeed(None)
        self.generations: list[Generation] = []
        self.stopped = OneShotEvent()
        #: Called when the first generation has started: it accepts no connection
        #: until the Deferred fires.
        self.beforeServing: Callable[[], Deferred[Any]] | None = None
        #: Whether to log that a generation has ended.
        self.logsEnd: bool = True

    @property
    def isStopping(self) -> bool:
        """
        Whether L{stop} was called.
        """
        return self.phase in (Phase.STOPPING, Phase.STOPPED)

    @property
    def remains(self) -> str:
        """
        The state after a reload that has failed, such as C{generation 1 serves on}.
        """
        isDown = self.isStopping or self.current.state is State.FAILED
        return f"{self.current} {'does not serve any more' if isDown else 'serves on'}"

    def privilegedStart(
        self, alone: bool, resources: Resources, store: SocketStore | None = None
    ) -> None:
        """
        Make the first generation, and start what may need privileges.

        If this fails, it leaves nothing.

        @param alone: Whether nothing else listens on the reactor.
        @param resources: The resources that were opened for it before.
        @param store: Where listening sockets are stored for the next process.
        """
        self._sharing = PortSharing(self._reactor, alone)
        if store is not None:
            self._sharing.store = store
            seconds = max(self._drain, LATE)
            self._restored = [
                Handover(self._sharing, Resources(), False, seconds) for _ in range(2)
            ]
            for listener, isLate in store.claim():
                self._restored[isLate].keepOpen(listener)
        self.current = first = self._new(resources)
        try:
            with self._sharing.starting(first.resources):
                service = self._factory()
                if isawaitable(service):
                    self._awaitedService = service
                else:
                    self._use(service, first)
        except BaseException:
            self.giveUp()
            raise

    async def start(self) -> None:
        """
        Start the first generation.
        """
        first = self.current
        try:
            with self._sharing.starting(first.resources):
                if self._awaitedService is not None:
                    self._use(await toDeferred(self._awaitedService), first)
                await first.start()
                if first.resources.failedListens:
                    checkListens(first.resources, None)
                if self.beforeServing is not None:
                    await self.beforeServing()
                first.serve()
        except BaseException:
            first.fail()
            raise
        if self._restored:
            early, late = self._restored
            early.close()
            late.commit()

    async def reload(self) -> Generation:
        """
        Start a new generation, and retire the current one.

        If this fails, the current one goes on serving.

        @return: The old generation, which has stopped accepting connections.
        """
        old = self.current
        addresses = {
            port.listener.key: whereIs(port)
            for port in old.resources.ports
            if not port.late
        }
        addresses |= old.missing
        triggers = Triggers()
        seconds = max(self._drain, LATE)
        transaction = Transaction(self._participants, seconds, self._reactor)
        try:
            await transaction.prepare()
        except BaseException:
            await transaction.rollback()
            raise
        handover = Handover(self._sharing, old.resources, self._stopFirst, seconds)
        try:
            if self._stopFirst:
                # If it is started again it needs what the triggers would stop.
                triggers, old.resources.triggers = old.resources.triggers, triggers
                await self._stopOld(old)
            self.current = await self._startNew(handover)
        except BaseException:
            await transaction.rollback()
            if self._stopFirst and not self.isStopping:
                await self._startAgain(old, handover, triggers, addresses)
            attempt(handover.rollBack)
            raise
        # From here on nothing may fail, or keep the old generation alive.
        attempt(handover.commit)
        await transaction.commit()
        old.retire(self._drain, handover.stopLate)
        await triggers.fire(self._reactor)
        return old

    async def _stopOld(self, old: Generation) -> None:
        old.suspend()
        # No other generation serves until it has stopped.
        old.retire(self._drain, None)
        await self.waitUntilRetired(old, max(self._drain, LATE))
        self._checkNotStopping()

    async def _startAgain(
        self,
        old: Generation,
        handover: Handover,
        triggers: Triggers,
        addresses: dict[Any, str],
    ) -> None:
        again = self._add(Generation(old.number, Resources(), self._reactor))
        self.current = again
        again.service = old.service
        if isinstance(old.service, DrainingService):
            # Its processes would load the new code, which has just failed.
            again.fail()
            return
        again.resources.triggers = triggers
        again.missing = addresses
        try:
            with handover.starting(again.resources):
                again.service.privilegedStartService()
                await again.start()
                again.serve()
        except BaseException:
            again.fail()
            _log.failure("{it} cannot be started again: nothing serves", it=old)
            return
        for port in again.resources.ports:
            addresses.pop(port.listener.key, None)
        if addresses:
            # A systemd endpoint listens once, and does not raise the second time.
            again.fail()
            where = ", ".join(addresses.values())
            _log.error("{it} no longer listens on {where}", it=old, where=where)

    async def _startNew(self, handover: Handover) -> Generation:
        new = self._new(Resources())
        try:
            with handover.starting(new.resources):
                self._use(await resultOf(self._factory), new)
                await new.start()
                if new.resources.failedListens:
                    checkListens(new.resources, self.current.resources)
                new.serve()
        except BaseException:
            new.retire(0, handover.stopLate)
            await self.waitUntilRetired(new)
            raise
        return new

    def _use(self, made: Any, generation: Generation) -> None:
        """
        Start what may need privileges, such as listening.

        @param made: The service that the factory has made for a generation.
        @raise TypeError: If it is no service.
        @raise ValueError: If it serves already: it would be stopped with the old
            generation.
        @raise CancelledError: If everything is being stopped, and the factory has
            ignored its cancellation.
        """
        checkService(made, self._factory)
        self._checkNotStopping()
        if any(generation.service is made for generation in self.generations):
            raise ValueError(
                f"{self._factory!r} has made the service that serves already: make"
                " a new one for each reload, or use stop-first"
            )
        generation.service = made
        made.privilegedStartService()

    def _checkNotStopping(self) -> None:
        # The code that was cancelled may have ignored that.
        if self.isStopping:
            raise CancelledError

    async def waitUntilRetired(self, old: Generation, more: float = FLUSH) -> None:
        """
        Wait until a generation has stopped, but not for ever.

        @param more: How long to wait when its connections are closed.
        """
        seconds = self._drain + more
        isInTime = await firesWithin(seconds, old.retired.wait(), self._reactor)
        if not (isInTime or self.isStopping):
            _log.warn("{it} does not stop: no longer waiting for it", it=old)

    def _new(self, resources: Resources) -> Generation:
        number, self.next = self.next, self.next + 1
        return self._add(Generation(number, resources, self._reactor))

    def _add(self, generation: Generation) -> Generation:
        self.generations.append(generation)
        generation.retired.wait().addCallback(lambda _: self._remove(generation))
        return generation

    def _remove(self, generation: Generation) -> None:
        self.generations.remove(generation)
        if generation.state is not State.STOPPED:
            _log.warn("{it} does not stop: no longer waiting for it", it=generation)
            return
        closed = ""
        if count := generation.closed:
            connections = counted(count, "connection")
            verb = "was" if count == 1 else "were"
            limit = generation.limit
            closed = f"; closed {connections} that {verb} still open after {limit}"
        if self.logsEnd and generation.hasServed:
            _log.info("{it} has ended{closed}", it=generation, closed=closed)
        if self.phase is Phase.STOPPING and not self.generations:
            self._finish()

    def _finish(self) -> None:
        if self.phase is Phase.STOPPED:
            return
        if self._timer is not None:
            self._timer.cancel()
        self.phase = Phase.STOPPED
        attempt(self._sharing.close)
        unshareInherited()
        self.stopped.fire()

    def stop(self, seconds: float) -> None:
        """
        Stop accepting connections, drain those that are open, and stop.

        @param seconds: How long connections may stay open.
        """
        self.phase = Phase.STOPPING
        if self._sharing.store is not None:
            self._sharing.store.isStopping = True
        if self.current.state is State.DRAINING:
            # The new generation of a stop-first reload does not exist yet.
            self.current.acceptPending()
        attempt(self._sharing.closeHandovers)
        # The last one to be suspended accepts the pending connections: the oldest,
        # which has started.
        for generation in reversed(list(self.generations)):
            generation.suspend()
        for generation in list(self.generations):
            generation.retire(seconds, None, "--stop-timeout")
        if not self.generations:
            # It was retired before.
            self._finish()

    def giveUp(self) -> None:
        """
        Stop, and wait for nothing: the first generation cannot start.
        """
        self.logsEnd = False
        self.stop(0)
        self._cut()
        self._finish()

    def cut(self) -> None:
        """
        Abort all connections, and do not wait for services, after L{stop}.
        """
        self._cut()
        if self.phase is Phase.STOPPING and self._timer is None:
            self._timer = Timer(self._reactor, AT_ONCE, self._abandon)

    def _abandon(self) -> None:
        self._finish()
        for generation in list(self.generations):
            generation.retired.fire()

    def _cut(self) -> None:
        for generation in list(self.generations):
            generation.cut()
