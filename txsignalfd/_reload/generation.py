# -*- test-case-name: tests.reload.test_reload -*-
"""
L{Generation}: one run of a service.

L{Resources}: the ports, connections, descriptors and triggers that it owns.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any, Final, TypeAlias
from weakref import WeakSet

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.udp import Port as DatagramPort
from twisted.logger import Logger

from txsignalfd._proc.quoting import counted
from txsignalfd._reload.draining import DrainingService
from txsignalfd._reload.httpdraining import HTTPDraining, goAway, urgeEnd
from txsignalfd._reload.transaction import (
    OneShotEvent,
    Timer,
    attempt,
    attemptLater,
    resultOf,
)

_log: Final = Logger("txsignalfd.reload.ReloadService")

#: Seconds in which a connection may send what was written to it, after its time
#: limit.  Then it is aborted.
FLUSH: Final = 1.0

#: Seconds in which a WebSocket that is cut may send why.
FAREWELL: Final = 0.05

#: Seconds in which an idle HTTP connection may still send a request, when the
#: server will close it: one may be on its way.
IDLE: Final = 0.5

#: Seconds for the answers to received datagrams.  Nothing shows which answer is
#: the last one.
ANSWERS: Final = 1.0

#: Receives the ports whose addresses another generation may open later.
Successor: TypeAlias = Callable[[list[Any]], None]


class Triggers:
    """
    The shutdown triggers that a generation has added to the reactor.

    A plugin may make something for as long as the reactor runs, and stop it by a
    shutdown trigger, as C{web --wsgi} does with its thread pool.  A generation
    ends before the reactor does, and its triggers fire then.
    """

    def __init__(self) -> None:
        self._added: list[tuple[str, Any, Callable[[], Any]]] = []

    def add(self, phase: str, identity: Any, call: Callable[[], Any]) -> None:
        """
        Note a trigger that was added to the reactor.

        @param phase: C{before}, C{during} or C{after}.
        @param identity: The result of C{addSystemEventTrigger}.
        @param call: The function of the trigger, with its arguments.
        """
        self._added.append((phase, identity, call))

    def leave(self) -> None:
        """
        Leave all triggers to the reactor.
        """
        self._added.clear()

    async def fire(self, reactor: Any) -> None:
        """
        Fire the triggers in the reactor's order, and remove them there.
        """
        added, self._added = self._added, []
        for wanted in ("before", "during", "after"):
            for phase, identity, call in added:
                if phase == wanted and self._remove(reactor, identity):
                    await attemptLater(call)

    def _remove(self, reactor: Any, identity: Any) -> bool:
        """
        @return: Whether the reactor still had the trigger.
        """
        try:
            reactor.removeSystemEventTrigger(identity)
        except ValueError:
            return False
        return True


class Resources:
    """
    The resources of one generation.

    @ivar ports: Its open ports, in the order in which they were opened.
    @ivar connections: The open connections that its ports have accepted.  The set
        is weak: code that passes a connection to a child process drops it without
        ending it.
    @ivar triggers: Its shutdown triggers.
    @ivar descriptors: Duplicates of inherited sockets that are not adopted yet.
    @ivar failedListens: The ports that it could not open while it started.
    @ivar starting: Whether the generation has not started yet.
    """

    def __init__(self, descriptors: set[int] | None = None) -> None:
        """
        @param descriptors: Duplicates that were made before.
        """
        self.ports: list[Any] = []
        self.connections: WeakSet[Any] = WeakSet()
        self.triggers: Triggers = Triggers()
        self.descriptors: set[int] = set() if descriptors is None else descriptors
        self.failedListens: list[Any] = []
        self.starting: bool = True
        #: Fires when the first port listens.
        self.listening: OneShotEvent = OneShotEvent()
        self._quiet: OneShotEvent | None = None

    def listens(self, port: Any) -> None:
        """
        Note a port that was opened.
        """
        self.ports.append(port)
        self.listening.fire()

    def started(self) -> None:
        """
        Accept connections, also on sockets that another generation shares.
        """
        self.starting = False
        for port in self.ports:
            port.startReading()

    def opened(self, connection: Any) -> None:
        """
        Note a connection that a port has accepted.
        """
        self.connections.add(connection)

    def ended(self, connection: Any) -> None:
        """
        Note the end of a connection.
        """
        self.connections.discard(connection)
        self._check()

    def suspended(self) -> None:
        """
        Note that a port no longer accepts connections.
        """
        self._check()

    def _check(self) -> None:
        if self._quiet is not None and self.isQuiet:
            quiet, self._quiet = self._quiet, None
            quiet.fire()

    def collect(self) -> None:
        """
        Collect dropped connections that are in a reference cycle.
        """
        if self.connections:
            gc.collect()
        # An earlier collection may have emptied the set without a check.
        self._check()

    @property
    def awaitingSuccessor(self) -> list[Any]:
        """
        The ports whose address a new generation may still open.
        """
        return [port for port in self.ports if port.awaitsSuccessor]

    @property
    def isQuiet(self) -> bool:
        """
        Whether no connection is open, and no port awaits its successor.
        """
        return not self.connections and not self.awaitingSuccessor

    def whenQuiet(self) -> Deferred[None]:
        """
        @return: A Deferred that fires when L{isQuiet} becomes true.
        """
        if self.isQuiet:
            return succeed(None)
        if self._quiet is None:
            self._quiet = OneShotEvent()
        return self._quiet.wait()

    def close(self) -> None:
        """
        Close the duplicates that were never adopted.
        """
        while self.descriptors:
            os.close(self.descriptors.pop())


def checkService(made: Any, maker: object) -> Any:
    """
    Return a service that was made, or say which factory has made none.

    @param made: The result of a factory.
    @param maker: The factory.
    @raise TypeError: If it is no service, as when C{return} was forgotten.
    """
    if not hasattr(made, "privilegedStartService"):
        raise TypeError(f"{maker!r} has made {made!r}, which is no IService")
    return made


class State(Enum):
    """
    The states of a L{Generation}; the value describes it in a report.

    ========= ============================ =========
    state     event                        new state
    ========= ============================ =========
    STARTING  L{Generation.serve}          SERVING
    STARTING, L{Generation.fail}           FAILED
    SERVING
    STARTING, L{Generation.retire}         DRAINING
    SERVING,
    FAILED
    DRAINING  its connections have ended   STOPPING
    STOPPING  its service has stopped      STOPPED
    ========= ============================ =========
    """

    STARTING = "starts"
    SERVING = "serves"
    FAILED = "does not serve"
    DRAINING = "drains"
    STOPPING = "stops"
    STOPPED = "has stopped"


class Generation:
    """
    One run of a service.

    @ivar service: The C{IService}, or C{None} until it is made.
    @ivar closed: How many connections were still open after their time limit.
    @ivar limit: That time limit, such as C{--drain (30 s)}.
    @ivar missing: The addresses where it could not listen when it was started
        again, by their keys.
    @ivar hasServed: Whether it has accepted connections.
    @ivar retired: Fires when it has stopped.
    """

    def __init__(self, number: int, resources: Resources, reactor: Any) -> None:
        """
        @param number: The number of the generation; the first is 1.
        @param resources: Owns its ports and connections.
        @param reactor: The reactor.
        """
        self.number = number
        self.resources = resources
        self.state = State.STARTING
        self.service: Any = None
        self.hasServed = False
        self.closed = 0
        self.limit = ""
        self.missing: dict[Any, str] = {}
        self.retired = OneShotEvent()
        self._datagramsAnswered = OneShotEvent()
        self._reactor = reactor
        self._timers: list[Timer] = []
        self._http = HTTPDraining(reactor, self._each)

    def __str__(self) -> str:
        return f"generation {self.number}"

    def status(self) -> dict[str, Any]:
        """
        Describe the generation for a program.
        """
        own: dict[str, Any] = {
            "number": self.number,
            "state": self.state.value,
            "connections": len(self.resources.connections),
            "addresses": [whereIs(port) for port in self.resources.ports],
        }
        service = self.service
        return own | service.status() if isinstance(service, DrainingService) else own

    def describe(self) -> str:
        """
        Describe the generation in a line of a report, and its processes in more.
        """
        status = self.status()
        own = (
            f"{self} {status['state']}: {counted(status['connections'], 'connection')},"
            f" {', '.join(status['addresses']) or 'no port'}"
        )
        service = self.service
        more = service.describe() if isinstance(service, DrainingService) else []
        return "\n  ".join([own, *more])

    async def start(self) -> None:
        """
        Start the service.

        @raise CancelledError: If the generation was retired meanwhile.
        """
        await resultOf(self.service.startService)
        if self.state is not State.STARTING:
            # The service has ignored the cancellation, and runs.
            await self.retired.wait()
            await self.stop()
            raise CancelledError

    def serve(self) -> None:
        """
        Accept connections: the service has started.
        """
        self.state = State.SERVING
        self.hasServed = True
        self.resources.started()

    def fail(self) -> None:
        """
        Note that the generation does not serve, or not everywhere.
        """
        if self.state in (State.STARTING, State.SERVING):
            self.state = State.FAILED

    def retire(
        self, seconds: float, successor: Successor | None, option: str = "--drain"
    ) -> None:
        """
        Stop accepting connections, drain those that are open, and stop.

        Each call adds a time limit; the earliest one counts.  The next response
        of an HTTP connection says that it is the last one.  If there is no
        successor, idle connections are closed.

        @param seconds: The time limit for open connections.
        @param successor: Receives the ports that await it after half of the time.
            C{None} if no other generation serves.
        @param option: The name of the time limit for operators.
        """
        if self.state in (State.STOPPING, State.STOPPED):
            return
        isFirst, self.state = self.state is not State.DRAINING, State.DRAINING
        if not seconds:
            self._handOver(successor)
        self.suspend(allPorts=not isFirst or successor is None)
        self._callLater(seconds / 2, self._endSoon, successor)
        self._callLater(seconds, self._close, f"{option} ({seconds:g} s)")
        if successor is None:
            self.resources.triggers.leave()
            attempt(self.resources.collect)
        attempt(self._http.begin, IDLE, successor is None)
        if isinstance(self.service, DrainingService):
            attempt(self.service.retire, seconds, successor is not None)
        if isFirst:
            if any(isinstance(port, DatagramPort) for port in self.resources.ports):
                self._callLater(min(seconds, ANSWERS), self._datagramsAnswered.fire)
            else:
                self._datagramsAnswered.fire()
            Deferred.fromCoroutine(self._retire())

    async def _retire(self) -> None:
        try:
            await self._datagramsAnswered.wait()
            await self.resources.whenQuiet()
            if isinstance(self.service, DrainingService):
                await self.service.whenDrained()
                self.closed, self.limit = self.service.closed, self.service.limit
            attempt(self._http.end)
            for timer in self._timers:
                timer.cancel()
            self.state = State.STOPPING
            await self.stop()
        finally:
            self.state = State.STOPPED
            self.retired.fire()

    def _callLater(
        self, seconds: float, function: Callable[..., object], *args: Any
    ) -> None:
        call = partial(attempt, function, *args)
        self._timers.append(Timer(self._reactor, seconds, call))

    @property
    def isBusy(self) -> bool:
        """
        Whether there are connections or datagrams still to be answered.
        """
        isOver = self.state in (State.STOPPING, State.STOPPED)
        if isinstance(self.service, DrainingService) and not isOver:
            return True
        return not (self.resources.isQuiet and self._datagramsAnswered.fired)

    def suspend(self, allPorts: bool = True) -> None:
        """
        Stop accepting connections.

        @param allPorts: Whether to suspend ports that await their successor, too.
        """
        for port in list(self.resources.ports):
            mayGoOn = port.isTemporary or (port.awaitsSuccessor and not allPorts)
            if not mayGoOn:
                attempt(port.suspend)

    def acceptPending(self) -> None:
        """
        Accept the pending connections of its suspended ports.
        """
        for port in self.resources.ports:
            attempt(port.acceptPending)

    def cut(self) -> None:
        """
        Abort all connections, and wait for no answers to datagrams.
        """
        self._datagramsAnswered.fire()
        self._each(self._cutOne)
        if isinstance(self.service, DrainingService):
            attempt(self.service.cut)

    def _cutOne(self, connection: Any) -> None:
        told = []
        attempt(lambda: told.append(goAway(connection)))
        if any(told):
            self._callLater(FAREWELL, connection.abortConnection)
        else:
            connection.abortConnection()

    def _abort(self) -> None:
        self._datagramsAnswered.fire()
        self._each(lambda connection: connection.abortConnection())

    def _endSoon(self, successor: Successor | None) -> None:
        self._handOver(successor)
        self._each(urgeEnd)

    def _handOver(self, successor: Successor | None) -> None:
        if successor is not None:
            attempt(successor, self.resources.awaitingSuccessor)

    def _close(self, limit: str) -> None:
        self.suspend()
        attempt(self.resources.collect)
        self.closed, self.limit = len(self.resources.connections), limit
        self._each(self._http.close)
        # Now, and not when it was planned: the reactor may be late.
        self._callLater(FLUSH, self._abort)

    def _each(self, do: Callable[[Any], object]) -> None:
        for connection in list(self.resources.connections):
            attempt(do, connection)

    async def stop(self) -> None:
        """
        Stop the service, close all its ports, and fire its shutdown triggers.
        """
        if self.service is not None:
            await attemptLater(self.service.stopService)
        for port in list(self.resources.ports):
            await attemptLater(port.stopListening)
            if port in self.resources.ports:
                # An error of the system has left it open.
                attempt(port.connectionLost, None)
        await self.resources.triggers.fire(self._reactor)
        self._abort()
        attempt(self.resources.close)


def whereIs(port: Any) -> str:
    """
    Return the address of a port as an operator writes it.
    """
    try:
        address = port.getHost()
    except OSError as error:
        return f"an unknown address ({error})"
    if isinstance(address, UNIXAddress):
        return f"unix:{os.fsdecode(address.name or b'')}"
    return f"{address.type.lower()}:{address.host}:{address.port}"
