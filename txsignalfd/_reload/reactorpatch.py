# -*- test-case-name: tests.reload.test_ports -*-
"""
Patch a reactor's C{listenTCP} and its like while its services can be reloaded.

L{ReactorPorts} gives every caller of these methods a port that can be shared,
and attributes the port to its owner: the service that is being started.  At any
other time a port is unowned, for other parts of the program listen too, unless
a service is alone on the reactor.

Several services may be starting at the same time, when their starts wait for
something, while other parts of the program go on.  A coroutine carries its owner
in its context (PEP 567).  A callback of a Deferred does not; then the owner is
the service that has listened at the same address before, or else the only one
that is starting.  When neither tells the owner, the port is unowned, because no
service may close the port of another.
"""

from __future__ import annotations

import socket
import sys
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from types import FrameType
from typing import Any, Final, TypeAlias, cast
from weakref import WeakSet

from twisted.logger import ILogObserver, LogEvent, globalLogPublisher

from txsignalfd._reload.failedlistens import FailedListen
from txsignalfd._reload.generation import Resources
from txsignalfd._reload.listener import Listener
from txsignalfd._reload.ports import (
    MulticastPort,
    SharedPort,
    TCPPort,
    UDPPort,
    UNIXDatagramPort,
    UNIXPort,
)

#: Makes the listener of a port that no other generation of this process has opened,
#: from its key and the port.  C{None} leaves it to the port to bind a socket.
Supplier: TypeAlias = Callable[[tuple[Any, ...], SharedPort], Listener | None]

#: Where another process owns the listening sockets, the function that asks it.
_suppliers: Final[list[Supplier]] = []


def supplyListeners(supplier: Supplier) -> None:
    """
    Ask a function for the listeners of all ports that are opened from now on.
    """
    _suppliers.append(supplier)


#: The resources of the generation that the running code starts.
_current: Final[ContextVar[Resources | None]] = ContextVar("_current", default=None)


class PortOwner:
    """
    A service to which ports are attributed, or the rest of the program.
    """

    def __init__(self, alone: bool = False) -> None:
        """
        @param alone: Whether nothing else listens on the reactor.
        """
        self.alone = alone
        #: The L{SocketStore} of its listening sockets, if it has one.
        self.store: Any = None
        #: Where the next port is recorded.
        self.resources = Resources()
        #: Listeners of the previous generation, by address, for the one that starts.
        self.offered: dict[Hashable, deque[Listener]] = {}
        #: By address: ports that the previous generation opened after its start,
        #: and their sockets when the port has stopped.  The new generation may
        #: open them late, too.
        self.late: dict[Hashable, Any] = {}
        #: The resources of all generations.
        self.generations: WeakSet[Resources] = WeakSet()

    def expects(self, key: Hashable) -> bool:
        """
        Whether the previous generation has listened at an address, and the new one
        does not yet.
        """
        return bool(self.offered.get(key)) or key in self.late

    def find(self, key: Hashable) -> Listener | None:
        """
        Return a listener of the previous generation at an address.

        Ports that asked for any free port get their listeners in the order in
        which these were opened.
        """
        if listeners := self.offered.get(key):
            return listeners.popleft()
        port = self.late.get(key)
        if port is None or not port.listener.isOpen:
            port = self._boundPort(key)
        return port.listener if port is not None else None

    def _boundPort(self, key: Hashable) -> Any:
        # A suspended port of an older generation may still occupy the address.
        for resources in self.generations:
            for port in resources.ports:
                isBound = port.suspended and port.staysBound
                if isBound and port.listener.key == key and not port.listener.isAny:
                    return port
        return None

    def observe(self, event: LogEvent) -> None:
        """
        Observe the log while the service starts.
        """
        for failed in self.resources.failedListens:
            failed.observe(event)

    @contextmanager
    def listening(self, key: Hashable, port: Any) -> Iterator[None]:
        """
        Open a port, and note whether that has failed.
        """
        factory = getattr(port, "factory", None) or getattr(port, "protocol", None)
        try:
            yield
        except BaseException as error:
            if self.resources.starting:
                failed = FailedListen(key, factory, error)
                self.resources.failedListens.append(failed)
            raise
        for failed in self.resources.failedListens:
            failed.listened(key, factory)
        self.listens(key)

    def listens(self, key: Hashable) -> None:
        """
        Stop the late port of the previous generation: the new one listens there.
        """
        if port := self.late.pop(key, None):
            port.suspend()


class ReactorPorts:
    """
    Replaces the methods of a reactor by which ports are opened.

    C{listenSSL} and all endpoints call these.  C{addSystemEventTrigger} is
    replaced too, since a trigger belongs to the service that adds it.
    """

    def __init__(self, reactor: Any) -> None:
        """
        @param reactor: A reactor with sockets.
        """
        self._reactor = reactor
        #: The services that run on the reactor.
        self.owners: list[PortOwner] = []
        #: Those of them that are being started.
        self._starting: list[PortOwner] = []
        self._unowned = PortOwner()
        self._unowned.resources.started()
        self._replaced: dict[str, Any] = {}
        self._addTrigger: Callable[..., Any]

    def enter(self, owner: PortOwner) -> None:
        """
        Share the ports of a service from now on.
        """
        if not self.owners:
            self._install()
        self.owners.append(owner)

    def leave(self, owner: PortOwner) -> None:
        """
        Share the ports of a service no longer.
        """
        self.owners.remove(owner)
        if not self.owners:
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
                # The program has wrapped our method since, and still calls it.
                continue
            if own is None:
                delattr(self._reactor, name)
            else:
                setattr(self._reactor, name, own)

    @contextmanager
    def starting(self, owner: PortOwner) -> Iterator[None]:
        """
        Attribute the ports that are opened meanwhile to a service.
        """
        before = _current.get()
        _current.set(owner.resources)
        self._starting.append(owner)
        observer = cast(ILogObserver, owner.observe)
        globalLogPublisher.addObserver(observer)
        try:
            yield
        finally:
            globalLogPublisher.removeObserver(observer)
            self._starting.remove(owner)
            _current.set(before)

    def _startingOwner(self, key: Hashable = None) -> PortOwner | None:
        """
        Return the service that is being started by the caller.

        @param key: The address at which the caller listens, if it does.
        @return: C{None} if it cannot be determined.
        """
        for owner in self._starting:
            if owner.resources is _current.get():
                return owner
        for owner in self._starting:
            if owner.expects(key):
                return owner
        return self._starting[0] if len(self._starting) == 1 else None

    def _ownerOf(self, key: Hashable) -> PortOwner:
        for owner in self.owners:
            if owner.alone:
                return owner
        return self._startingOwner(key) or self._unowned

    def _unownedListener(self, key: Hashable) -> Listener | None:
        # It may be one that a service opened after its start, when it had no owner.
        for port in self._unowned.resources.ports:
            if port.listener.key == key and not port.listener.isAny:
                listener: Listener = port.listener
                return listener
        return None

    def _listen(self, key: tuple[Any, ...], port: SharedPort) -> Any:
        owner = self._ownerOf(key)
        listener = owner.find(key)
        isStarting = owner is not self._unowned or len(self._starting) > 1
        if listener is None and isStarting:
            listener = self._unownedListener(key)
        with owner.listening(key, port):
            # A port that is opened later, for one connection, belongs to this process.
            isOwn = key[-1] == 0 and not owner.resources.starting
            for supply in _suppliers:
                listener = listener or (None if isOwn else supply(key, port))
            port.listenAs(key, listener, owner.resources)
        if owner.store is not None:
            owner.store.add(port.listener, port.late)
        return port

    # These have the names and arguments of Twisted's reactor interfaces.

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
        owner = self._startingOwner()
        if owner is None or _isShared(callable, self._reactor):
            return self._addTrigger(phase, eventType, callable, *args, **kwargs)
        call = partial(callable, *args, **kwargs)
        if eventType == "startup":
            # It may add a shutdown trigger, as database pools do.
            call = partial(self._callFor, owner, owner.resources, call)
        identity = self._addTrigger(phase, eventType, call)
        if eventType == "shutdown":
            owner.resources.triggers.add(phase, identity, call)
        return identity

    def _callFor(
        self, owner: PortOwner, resources: Resources, call: Callable[[], Any]
    ) -> Any:
        if owner.resources is not resources:
            return call()
        with self.starting(owner):
            return call()

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
        # The next generation adopts another descriptor at the same address.
        listener.key = key = (*_ADOPTED, listener.name())
        owner = self._ownerOf(key)
        port: Any
        if addressFamily == socket.AF_UNIX:
            port = UNIXPort(listener.name(), factory, reactor=self._reactor)
        else:
            # Twisted reads the port's number from the socket.
            port = TCPPort(0, factory, 0, listener.name()[0], self._reactor)
        listener.acquire(self)
        try:
            with owner.listening(key, port):
                port.listenAs(key, listener, owner.resources)
        finally:
            listener.release(self)
        # The endpoint closes the descriptor, now that it is adopted.
        owner.resources.descriptors.discard(fileDescriptor)
        return port


def _isShared(trigger: Callable[..., Any], reactor: Any) -> bool:
    """
    Whether all generations share what a trigger ends.

    These are the reactor's own triggers, such as the one of its thread pool, those
    of this package, such as a dispatcher's, the one by which twistd stops its
    application, and those that a module adds when it is imported, since it is imported
    once.
    """
    if getattr(trigger, "__self__", None) is reactor:
        return True
    frames = _frames(sys._getframe(2))  # noqa: SLF001
    module, function = next(frames)
    if module.startswith("txsignalfd.") or function == "startApplication":
        return True
    while not module.startswith(("txsignalfd.", "twisted.internet.")):
        # An application file is no module: each generation executes it again.
        if function == "<module>" and module in sys.modules:
            return True
        module, function = next(frames, ("twisted.internet.", ""))
    # Older frames do not belong to the start of the generation.
    return False


def _frames(frame: FrameType | None) -> Iterator[tuple[str, str]]:
    while frame is not None:
        # callWhenRunning calls the function, or addSystemEventTrigger.
        if frame.f_code.co_name != "callWhenRunning":
            yield frame.f_globals.get("__name__", ""), frame.f_code.co_name
        frame = frame.f_back


#: Where Twisted listens by default.
_ANY: Final = "0.0.0.0"  # noqa: S104

#: The kind of the sockets that another process made, such as systemd.
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
