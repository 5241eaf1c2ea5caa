# -*- test-case-name: tests.reload.test_ports -*-
"""
L{ReactorPorts}: what a reactor's C{listenTCP} and its like do while a service
can be reloaded.

L{Starting}: which of the services of a reactor takes what is taken now.

Several may be starting at the same time, where their starts wait for something,
and other parts of the program go on meanwhile.  A coroutine carries along whose
it is, in its context (PEP 567).  A callback of a Deferred does not; then it is
the service that has listened at this address before, or else the only one.
Where there are several it is nobody's, for one must not close what is another's.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, Protocol

from txsignalfd._reload.listener import Listener
from txsignalfd._reload.ports import (
    MulticastPort,
    SharedPort,
    TCPPort,
    UDPPort,
    UNIXDatagramPort,
    UNIXPort,
)
from txsignalfd._reload.resources import Resources

#: What the running code starts.
_current: Final[ContextVar[Resources | None]] = ContextVar("_current", default=None)


class Sharer(Protocol):
    """
    Somebody whose ports are shared.
    """

    @property
    def resources(self) -> Resources:
        """
        What whoever listens now adds to.
        """

    @property
    def alone(self) -> bool:
        """
        Whether nobody else listens on this reactor.
        """

    def awaits(self, key: Hashable) -> bool:
        """
        Whether L{kept} has one for this address.
        """

    def kept(self, key: Hashable) -> Listener | None:
        """
        A listener at this address that is waited for.
        """

    def handOver(self, key: Hashable) -> None:
        """
        Somebody listens at this address from now on.
        """


class Starting:
    """
    Those whose services are being started.
    """

    def __init__(self) -> None:
        self._sharers: list[Sharer] = []

    @contextmanager
    def entered(self, sharer: Sharer) -> Iterator[None]:
        """
        What is taken within is that of a service's new generation.

        @param sharer: The service.
        """
        before = _current.get()
        _current.set(sharer.resources)
        self._sharers.append(sharer)
        try:
            yield
        finally:
            self._sharers.remove(sharer)
            _current.set(before)

    @property
    def isUnclear(self) -> bool:
        """
        Whether there are several.
        """
        return len(self._sharers) > 1

    def who(self, key: Hashable = None) -> Sharer | None:
        """
        Tell whose something is; C{None} where nobody can.

        @param key: The address at which it listens, if it does.
        """
        for sharer in self._sharers:
            if sharer.resources is _current.get():
                return sharer
        for sharer in self._sharers:
            if sharer.awaits(key):
                return sharer
        return None if self.isUnclear or not self._sharers else self._sharers[0]


class _Nobody:
    """
    Whoever listens while no service is being started.
    """

    alone = False

    def __init__(self) -> None:
        self.resources = Resources()
        self.resources.started()

    def kept(self, key: Hashable) -> None:
        """
        Nothing is.
        """

    def handOver(self, key: Hashable) -> None:
        """
        Nobody waits for that.
        """


class ReactorPorts:
    """
    Gives whoever listens on a reactor a port that can be shared, and notes
    whose it is: that of the service which is being started.  At any other time
    it is nobody's, for other parts of the program listen too, unless there are
    none.

    It stands in the place of C{listenTCP}, C{listenUNIX}, C{listenUDP},
    C{listenMulticast}, C{listenUNIXDatagram} and C{adoptStreamPort};
    C{listenSSL}, and all that is made of endpoints, come to these.  And in that
    of C{addSystemEventTrigger}.
    """

    def __init__(self, reactor: Any) -> None:
        """
        @param reactor: A reactor with sockets.
        """
        self._reactor = reactor
        #: Those whose services run.
        self.sharers: list[Sharer] = []
        #: Those of them whose services are being started.
        self.starting = Starting()
        self._nobody = _Nobody()
        self._replaced: dict[str, Any] = {}
        self._addTrigger: Callable[..., Any]

    def enter(self, sharer: Sharer) -> None:
        """
        Somebody's ports are shared from now on.
        """
        if not self.sharers:
            self._install()
        self.sharers.append(sharer)

    def leave(self, sharer: Sharer) -> None:
        """
        They are no more; nothing if they were not.
        """
        if sharer in self.sharers:
            self.sharers.remove(sharer)
            if not self.sharers:
                self._uninstall()

    def _install(self) -> None:
        self._addTrigger = self._reactor.addSystemEventTrigger
        for name in _METHODS:
            self._replaced[name] = vars(self._reactor).get(name)
            setattr(self._reactor, name, getattr(self, name))

    def _uninstall(self) -> None:
        while self._replaced:
            name, own = self._replaced.popitem()
            if vars(self._reactor).get(name) != getattr(self, name):
                # Somebody has wrapped it since, and calls ours beneath.
                continue
            if own is None:
                delattr(self._reactor, name)
            else:
                setattr(self._reactor, name, own)

    def _whose(self, key: Hashable) -> Sharer | _Nobody:
        for sharer in self.sharers:
            if sharer.alone:
                return sharer
        return self.starting.who(key) or self._nobody

    def nobodys(self, key: Hashable) -> Listener | None:
        """
        A listener at this address that is nobody's.  It may be that of a
        service that has begun to listen later than it started.
        """
        for port in self._nobody.resources.ports:
            if port.listener.key == key and not port.listener.isAny:
                listener: Listener = port.listener
                return listener
        return None

    def _listen(self, key: Hashable, port: SharedPort) -> Any:
        sharer = self._whose(key)
        listener = sharer.kept(key)
        if sharer is self._nobody and self.starting.isUnclear:
            listener = self.nobodys(key)
        port.listenAs(key, listener, sharer.resources)
        sharer.handOver(key)
        return port

    # Twisted's names and arguments: see its interfaces of reactors.

    def addSystemEventTrigger(
        self,
        phase: str,
        eventType: str,
        callable: Callable[..., Any],  # noqa: A002
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """
        See C{IReactorCore}.
        """
        identity = self._addTrigger(phase, eventType, callable, *args, **kwargs)
        # The reactor's own pool of threads, for one, is everybody's.
        isReactors = getattr(callable, "__self__", None) is self._reactor
        sharer = self.starting.who()
        if sharer is not None and eventType == "shutdown" and not isReactors:
            call = partial(callable, *args, **kwargs)
            sharer.resources.triggers.add(phase, identity, call)
        return identity

    def listenTCP(
        self, port: int, factory: Any, backlog: int = 50, interface: str = ""
    ) -> Any:
        """
        See C{IReactorTCP}.
        """
        return self._listen(
            ("TCP", interface or _ANY, port),
            TCPPort(port, factory, backlog, interface, self._reactor),
        )

    def listenUNIX(
        self,
        address: Any,
        factory: Any,
        backlog: int = 50,
        mode: int = 0o666,
        wantPID: int = 0,
    ) -> Any:
        """
        See C{IReactorUNIX}.
        """
        return self._listen(
            ("UNIX", address),
            UNIXPort(address, factory, backlog, mode, self._reactor, wantPID),
        )

    def listenUDP(
        self, port: int, protocol: Any, interface: str = "", maxPacketSize: int = 8192
    ) -> Any:
        """
        See C{IReactorUDP}.
        """
        return self._listen(
            ("UDP", interface or _ANY, port),
            UDPPort(port, protocol, interface, maxPacketSize, self._reactor),
        )

    def listenMulticast(
        self,
        port: int,
        protocol: Any,
        interface: str = "",
        maxPacketSize: int = 8192,
        listenMultiple: bool = False,
    ) -> Any:
        """
        See C{IReactorMulticast}.
        """
        return self._listen(
            ("multicast", interface or _ANY, port),
            MulticastPort(
                port, protocol, interface, maxPacketSize, self._reactor, listenMultiple
            ),
        )

    def listenUNIXDatagram(
        self,
        address: Any,
        protocol: Any,
        maxPacketSize: int = 8192,
        mode: int = 0o666,
    ) -> Any:
        """
        See C{IReactorUNIXDatagram}.
        """
        return self._listen(
            ("UNIX datagram", address),
            UNIXDatagramPort(address, protocol, maxPacketSize, mode, self._reactor),
        )

    def adoptStreamPort(
        self, fileDescriptor: int, addressFamily: int, factory: Any
    ) -> Any:
        """
        See C{IReactorSocket}.
        """
        listener = Listener(_ADOPTED, fileDescriptor, adopted=True)
        # Others know it by where it is bound.
        listener.key = key = (*_ADOPTED, listener.name())
        sharer = self._whose(key)
        port: Any
        if addressFamily == socket.AF_UNIX:
            port = UNIXPort(listener.name(), factory, reactor=self._reactor)
        else:
            # The number is found out, and the backlog left as it is.
            port = TCPPort(0, factory, 0, listener.name()[0], self._reactor)
        listener.hold(self)
        try:
            port.listenAs(key, listener, sharer.resources)
        finally:
            listener.release(self)
        # The endpoint closes it, now that it is adopted.
        sharer.resources.descriptors.discard(fileDescriptor)
        sharer.handOver(key)
        return port


#: What Twisted listens on when it is told nothing.
_ANY: Final = "0.0.0.0"  # noqa: S104

#: What was made by others, as by systemd, is asked for by its descriptor.
_ADOPTED: Final = ("adopted",)

_METHODS: Final = (
    "addSystemEventTrigger",
    "listenTCP",
    "listenUNIX",
    "listenUDP",
    "listenMulticast",
    "listenUNIXDatagram",
    "adoptStreamPort",
)
