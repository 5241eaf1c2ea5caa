# -*- test-case-name: tests.reload.test_reload -*-
"""
L{Generation}: one run of a service, with the ports and the connections that
are its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.udp import Port as DatagramPort
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper

from txsignalfd._reload.httpdraining import closeIfIdle, endAfterResponse
from txsignalfd._reload.resources import OneShotEvent, Resources

_log: Final = Logger("txsignalfd.reload.ReloadService")

#: Seconds that a connection has, once its time is over, to send what was
#: written.  Then it is cut.
FLUSH: Final = 1.0

#: Seconds in which a connection that is idle when all is stopped, or whose last
#: response could not say that it was, may ask once more: a request may be on its
#: way.
IDLE: Final = 0.5

#: Takes ports at which another generation may listen later.
Successor: TypeAlias = Callable[[list[Any]], None]

#: Seconds for answers to what a datagram port has received: nothing tells when
#: the last was sent.
ANSWERS: Final = 1.0


def checkService(made: Any, maker: object) -> Any:
    """
    @param made: What is to be run.
    @param maker: What has made it.
    @return: The same.
    @raise TypeError: It is no service: a factory has forgotten its C{return},
        for instance.
    """
    if not hasattr(made, "privilegedStartService"):
        raise TypeError(f"{maker!r} has made {made!r}, which is no IService")
    return made


class Generation:
    """
    One run of a service.
    """

    def __init__(self, number: int, resources: Resources, reactor: Any) -> None:
        """
        @param number: The first is 1.
        @param resources: What it takes while it runs.
        @param reactor: The reactor.
        """
        self.number = number
        self.resources = resources
        #: An C{IService}.
        self.service: Any = None
        #: How many connections were closed for their time was over.
        self.closed = 0
        #: Whether its service may be started once more.
        self.mayServeAgain = False
        #: Whether that was tried, and it does not serve, and where not.
        self.failed = False
        self.missing: dict[Any, str] = {}
        self._reactor = reactor
        self._calls: list[Any] = []
        self._retiring = False
        self._answered = OneShotEvent()
        #: That it is stopped, with nobody left to serve.
        self.retired = OneShotEvent()

    def __str__(self) -> str:
        return f"generation {self.number}"

    def describe(self) -> str:
        """
        It in a line, for a report.
        """
        does = "starts" if self.resources.starting else "serves"
        if self._retiring:
            does = "serves those it has"
        ports = ", ".join(map(whereIs, self.resources.ports))
        return (
            f"{self} {does}: {len(self.resources.connections)} connections,"
            f" {ports or 'no port'}"
        )

    def privilegedStart(self) -> None:
        """
        Do what may need privileges, such as to listen.
        """
        self.service.privilegedStartService()

    async def start(self) -> None:
        """
        Start the service, and accept where others do too.

        @raise CancelledError: It was stopped meanwhile.
        """
        await maybeDeferred(self.service.startService)
        if self._retiring:
            # It has gone on all the same, and does not know that it is to stop.
            await self.retired.wait()
            await self.stop()
            raise CancelledError
        self.resources.started()

    def retire(self, seconds: float, successor: Successor | None) -> None:
        """
        Accept no more, wait until all connections have ended, and stop.  If it
        was called already, the sooner end counts.

        @param seconds: How long connections may stay open.
        @param successor: Another generation serves who comes back, and this
            takes the ports at which it may listen later, when half of the time
            has passed; then HTTP connections are told to end.  Without one they
            are at once, and those that stay idle are closed.
        """
        if self.retired.fired:
            return
        if not seconds:
            self._handOver(successor)
        self.suspend(lingering=successor is not None and not self._retiring)
        calls = [
            (seconds / 2, lambda: self._endSoon(successor)),
            (seconds, self._close),
            (seconds + FLUSH, self.cut),
        ]
        if successor is None:
            if not self.mayServeAgain:
                self.resources.triggers.leave()
            self.resources.collect()
            self._tellToEnd()
            calls.append((IDLE, lambda: self._each(closeIfIdle)))
        for when, do in calls:
            self._calls.append(self._reactor.callLater(when, do))
        if not self._retiring:
            self._retiring = True
            if any(isinstance(port, DatagramPort) for port in self.resources.ports):
                when = min(seconds, ANSWERS)
                self._calls.append(self._reactor.callLater(when, self._answered.fire))
            else:
                self._answered.fire()
            Deferred.fromCoroutine(self._retire())

    async def _retire(self) -> None:
        try:
            await self._answered.wait()
            await self.resources.whenQuiet()
        finally:
            for call in self._calls:
                if call.active():
                    call.cancel()
        await self.stop()
        self.retired.fire()

    @property
    def isBusy(self) -> bool:
        """
        Whether somebody is still to be served.
        """
        return not (self.resources.isQuiet and self._answered.fired)

    @property
    def isRetired(self) -> bool:
        """
        Whether it has been told to.
        """
        return self._retiring

    def suspend(self, lingering: bool = False) -> None:
        """
        Accept no more.  Where no other generation does, who connects is
        refused.

        @param lingering: Whether to go on where a new generation may listen
            later.
        """
        for port in list(self.resources.ports):
            if not (port.isPassing or (lingering and port.lingers)):
                port.suspend()

    def cut(self) -> None:
        """
        Cut all connections, and wait for no answers.
        """
        self._answered.fire()
        self._each(lambda connection: connection.abortConnection())

    def _endSoon(self, successor: Successor | None) -> None:
        self._handOver(successor)
        self._tellToEnd()

    def _tellToEnd(self) -> None:
        self._each(lambda one: endAfterResponse(one, lambda: self._closeIdleSoon(one)))

    def _closeIdleSoon(self, connection: Any) -> None:
        def close() -> None:
            if connection in self.resources.connections:
                closeIfIdle(connection)

        self._calls.append(self._reactor.callLater(IDLE, close))

    def _handOver(self, successor: Successor | None) -> None:
        if successor is not None:
            successor(self.resources.lingering)

    def _close(self) -> None:
        self.suspend()
        self.resources.collect()
        self.closed = len(self.resources.connections)
        self._each(_close)

    def _each(self, do: Callable[[Any], object]) -> None:
        for connection in list(self.resources.connections):
            try:
                do(connection)
            except Exception:
                _log.failure("{it!r} could not be ended", it=connection)

    async def stop(self) -> None:
        """
        Stop the service, and whatever it has left open.
        """
        stops = [self.service.stopService] if self.service is not None else []
        stops += [port.stopListening for port in self.resources.ports]
        for stop in stops:
            try:
                await maybeDeferred(stop)
            except Exception:
                _log.failure("{it}: {stop!r} has failed", it=self, stop=stop)
        if not self.mayServeAgain:
            await self.resources.triggers.fire(self._reactor)
        self.cut()
        self.resources.close()


def whereIs(port: Any) -> str:
    """
    The address of a port as an operator writes it.
    """
    address = port.getHost()
    if isinstance(address, UNIXAddress):
        return f"unix:{os.fsdecode(address.name or b'')}"
    return f"{address.type.lower()}:{address.host}:{address.port}"


def _close(connection: Any) -> None:
    if closeIfIdle(connection):
        return
    protocol = connection.protocol
    # TLS wants to say that it ends.
    isTLS = isinstance(protocol, ProtocolWrapper)
    (protocol if isTLS else connection).loseConnection()
