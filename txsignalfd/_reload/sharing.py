# -*- test-case-name: tests.reload.test_ports -*-
"""
L{PortSharing}: the ports of a service, from one generation to the next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from txsignalfd._reload.inherited import shareInherited
from txsignalfd._reload.listener import Listener
from txsignalfd._reload.reactorpatch import ReactorPorts
from txsignalfd._reload.resources import Resources

_reactors: Final[dict[Any, ReactorPorts]] = {}


class Awaited:
    """
    A socket whose port has stopped, in which who connects waits for a port of
    the next generation.
    """

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        listener.hold(self)
        listener.makeRoom()

    def suspend(self) -> None:
        """
        Wait no more.
        """
        self.listener.release(self)


class PortSharing:
    """
    One service, of those on a reactor, whose ports are shared.
    """

    def __init__(self, reactor: Any, alone: bool) -> None:
        """
        @param reactor: A reactor with sockets.
        @param alone: Whether nobody else listens on it.
        """
        self._reactor = reactor
        self.alone = alone
        self._ports = _reactors.setdefault(reactor, ReactorPorts(reactor))
        self._held: list[Listener] = []
        self._kept: dict[Hashable, deque[Listener]] = {}
        #: Ports of older generations that still accept, since the new one has
        #: not listened there yet, and sockets of those that have stopped.
        self._lingering: dict[Hashable, Any] = {}
        self._calls: list[Any] = []
        #: Where what is taken from now on is noted.
        self.resources = Resources()
        self._ports.enter(self)

    def close(self) -> None:
        """
        Share no more: the last has the reactor's methods put back.
        """
        for call in self._calls:
            if call.active():
                call.cancel()
        self.endWaiting()
        self._ports.leave(self)
        if not self._ports.sharers:
            _reactors.pop(self._reactor, None)

    @contextmanager
    def starting(self, resources: Resources) -> Iterator[None]:
        """
        What is taken within is a new generation's.  If that fails it is the old
        one's that takes afterwards.
        """
        before, self.resources = self.resources, resources
        shareInherited(resources.descriptors)
        try:
            with self._ports.starting.entered(self):
                yield
        except BaseException:
            self.resources = before
            self._offer()
            raise

    def keep(self, resources: Resources, stops: bool) -> None:
        """
        Have the sockets of a generation ready for who asks for the same
        addresses, until L{release}.

        @param stops: Whether it stops before somebody does.
        """
        for port in resources.ports:
            if not port.isPassing:
                port.listener.hold(self)
                self._held.append(port.listener)
                if stops:
                    port.listener.makeRoom()
        self._offer()

    def _offer(self) -> None:
        self._kept.clear()
        for listener in self._held:
            self._kept.setdefault(listener.key, deque()).append(listener)

    def awaits(self, key: Hashable) -> bool:
        """
        Whether a port of the generation before has listened at this address,
        and none of the new one does.
        """
        return bool(self._kept.get(key)) or key in self._lingering

    def kept(self, key: Hashable) -> Listener | None:
        """
        One of these; the first is that of the port that was opened first, when
        several asked for any port.
        """
        if listeners := self._kept.get(key):
            return listeners.popleft()
        if port := self._lingering.get(key):
            listener: Listener = port.listener
            return listener
        return self._ports.nobodys(key)

    def linger(self, ports: Iterable[Any]) -> None:
        """
        Wait for somebody who listens where these ports do.
        """
        for port in ports:
            self.handOver(port.listener.key)
            self._lingering[port.listener.key] = port

    def awaitLate(self, ports: Iterable[Any]) -> None:
        """
        The same for ports that will be stopped before.  Who connects waits;
        L{limitWaiting} says for how long.
        """
        self.linger(map(Awaited, [port.listener for port in ports]))

    def _awaited(self) -> list[Awaited]:
        ports = self._lingering.values()
        return [port for port in ports if isinstance(port, Awaited)]

    def endWaiting(self, awaited: Iterable[Awaited] | None = None) -> None:
        """
        Who connects where there was only L{awaitLate} is refused from now on.
        """
        for port in self._awaited() if awaited is None else awaited:
            if self._lingering.get(port.listener.key) is port:
                self.handOver(port.listener.key)

    def handOver(self, key: Hashable) -> None:
        """
        Somebody listens at this address from now on.
        """
        if port := self._lingering.pop(key, None):
            port.suspend()

    def limitWaiting(self, seconds: float) -> None:
        """
        Wait no longer for those of L{awaitLate}.

        @param seconds: From now.
        """
        self._calls = [call for call in self._calls if call.active()]
        if awaited := self._awaited():
            call = self._reactor.callLater(seconds, self.endWaiting, awaited)
            self._calls.append(call)

    def release(self) -> None:
        """
        Keep the sockets of L{keep} no more.
        """
        self._kept.clear()
        while self._held:
            self._held.pop().release(self)


@contextmanager
def takingEarly(reactor: Any, resources: Resources) -> Iterator[None]:
    """
    What is taken within is that of a generation that is started later.
    """
    sharing = PortSharing(reactor, alone=True)
    try:
        with sharing.starting(resources):
            yield
    finally:
        sharing.close()
