# -*- test-case-name: tests.reload.test_ports -*-
"""
L{PortSharing}: the ports of a service, across its generations.

A reload makes one L{Handover} of the ports::

    made (prepared) --> starting --> commit
                           |
                           +-------> rollBack

The sockets that systemd has opened are shared too.  An endpoint
C{systemd:domain=INET:index=0} adopts descriptor 3, and closes it.  The next
generation would find the number closed or, worse, in use for another file, which
it would close in turn.  So each endpoint gets a duplicate here, and the
descriptors themselves stay open as long as the process: sd_listen_fds(3).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from twisted.internet.endpoints import _SystemdParser
from twisted.python.systemd import ListenFDs

from txsignalfd._reload.generation import Resources
from txsignalfd._reload.listener import Listener
from txsignalfd._reload.reactorpatch import PortOwner, ReactorPorts
from txsignalfd._reload.transaction import Timer, attempt

#: Duplicates that were made before the first generation of a service, whose
#: options are parsed earlier.
unclaimed: Final[set[int]] = set()


class NotInherited(KeyError, IndexError):
    """
    A C{systemd:} endpoint asks for a socket that was not passed to this process.
    """

    # That of KeyError quotes the message.
    __str__ = Exception.__str__


class SharedInherited:
    """
    Replaces Twisted's C{ListenFDs}, and what its methods return, where C{systemd:}
    endpoints look.
    """

    def __init__(self, own: Any, duplicates: set[int]) -> None:
        """
        @param own: Twisted's C{ListenFDs}, with the descriptors themselves.
        @param duplicates: Where to record each duplicate.
        """
        self.own = own
        self._duplicates = duplicates

    def inheritedDescriptors(self) -> SharedInherited:
        """
        Return the descriptors by number.
        """
        return self

    def inheritedNamedDescriptors(self) -> SharedInherited:
        """
        Return the descriptors by name.
        """
        return self

    def __getitem__(self, key: int | str) -> int:
        """
        Return a duplicate of a descriptor.
        """
        found = self.own.inheritedDescriptors()
        what, passed = f"with index {key}", str(len(found))
        if isinstance(key, str):
            found = self.own.inheritedNamedDescriptors()
            what, passed = f"named {key!r}", ", ".join(found) or "none"
        try:
            copy = os.dup(found[key])
        except LookupError:
            why = f"no socket {what}: systemd has passed {passed}"
            raise NotInherited(why) from None
        self._duplicates.add(copy)
        return copy


def shareInherited(duplicates: set[int] = unclaimed) -> None:
    """
    Give a duplicate to each C{systemd:} endpoint that is made from now on.

    @param duplicates: Where to record it, until it is adopted.
    """
    _replace(SharedInherited(_own(), duplicates))


class _Assumed(SharedInherited):
    """
    Has every descriptor, in a process to which systemd passes none.
    """

    def __getitem__(self, key: object) -> int:
        return -1


def assumeInherited() -> None:
    """
    Make each C{systemd:} endpoint from now on as if its socket was passed.

    It can be made, but not listen.
    """
    _replace(_Assumed(_own(), set()))


def unshareInherited() -> None:
    """
    Give the descriptor itself to the next endpoint, as Twisted does.
    """
    _replace(_own())


def claimInherited(prefix: str) -> list[tuple[str, int]]:
    """
    Claim the descriptors whose names begin with a prefix, and hide them from
    endpoints.

    @return: Their names and numbers.
    """
    own = _own()
    names = {fd: name for name, fd in own.inheritedNamedDescriptors().items()}
    claimed = [(name, fd) for fd, name in names.items() if name.startswith(prefix)]
    if claimed:
        numbers = {fd for _, fd in claimed}
        left = [fd for fd in own.inheritedDescriptors() if fd not in numbers]
        present: Any = _SystemdParser._sddaemon  # noqa: SLF001
        rest = ListenFDs(left, [names.get(fd, "") for fd in left])
        if isinstance(present, SharedInherited):
            present.own = rest
        else:
            _replace(rest)
    return claimed


def inherit(descriptors: list[int], names: list[str]) -> None:
    """
    Use descriptors that another process than systemd has passed to this one.

    @param descriptors: The descriptors by number.
    @param names: Their names.
    """
    _replace(ListenFDs(descriptors, names))


def inherited() -> tuple[list[int], list[str]]:
    """
    Return the descriptors that were passed to this process, and their names.
    """
    own = _own()
    descriptors = own.inheritedDescriptors()
    nameOf = {fd: name for name, fd in own.inheritedNamedDescriptors().items()}
    return descriptors, [nameOf.get(fd, "unknown") for fd in descriptors]


# The attribute is private to Twisted; the parser has no public way to replace it.


def _replace(descriptors: Any) -> None:
    _SystemdParser._sddaemon = descriptors  # noqa: SLF001


def _own() -> Any:
    present: Any = _SystemdParser._sddaemon  # noqa: SLF001
    return present.own if isinstance(present, SharedInherited) else present


_reactors: Final[dict[Any, ReactorPorts]] = {}


class PendingSocket:
    """
    A socket whose port has stopped: new connections wait in its listen queue.
    """

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        listener.acquire(self)
        attempt(listener.enlargeQueue)

    def suspend(self) -> None:
        """
        Release the socket, as a port does that stops accepting.
        """
        attempt(self.listener.release, self)


class PortSharing(PortOwner):
    """
    The ports of one service, across its generations.
    """

    def __init__(self, reactor: Any, alone: bool) -> None:
        """
        @param reactor: A reactor with sockets.
        @param alone: Whether nothing else listens on it.
        """
        super().__init__(alone)
        self.reactor = reactor
        self._ports = _reactors.setdefault(reactor, ReactorPorts(reactor))
        self._ports.enter(self)
        #: Those that still have sockets.
        self.handovers: set[Any] = set()

    @contextmanager
    def starting(self, resources: Resources) -> Iterator[None]:
        """
        Start a generation: record what it acquires meanwhile, and afterwards.

        @param resources: Where to record it, unless the start fails.
        """
        before, self.resources = self.resources, resources
        self.generations.add(resources)
        shareInherited(resources.descriptors)
        try:
            with self._ports.starting(self):
                yield
        except BaseException:
            self.resources = before
            raise

    def closeHandovers(self) -> None:
        """
        Release all sockets of stopped ports; their pending connections are closed.
        """
        for handover in list(self.handovers):
            handover.close()

    def close(self) -> None:
        """
        Share ports no longer.  Restores the reactor after the last service.
        """
        self.closeHandovers()
        self._ports.leave(self)
        if not self._ports.owners:
            _reactors.pop(self.reactor, None)


class Handover:
    """
    Offers the listening sockets of a generation to the next one, in one reload.
    """

    def __init__(
        self, sharing: PortSharing, old: Resources, stopsFirst: bool, seconds: float
    ) -> None:
        """
        Reserve the sockets of the old generation.

        @param stopsFirst: Whether the old generation stops before the new one
            starts.  New connections wait meanwhile.
        @param seconds: How long they wait, after the reload, where the old
            generation had a late port and the new one does not listen.
        """
        self._sharing = sharing
        self._old = old
        self._seconds = seconds
        self._reserved: list[Listener] = []
        self._pending: list[PendingSocket] = []
        self._deadline: Timer | None = None
        sharing.handovers.add(self)
        if stopsFirst:
            self.stopLate(old.awaitingSuccessor)
        for port in old.ports:
            if not port.isTemporary:
                port.listener.acquire(self)
                self._reserved.append(port.listener)
                if stopsFirst:
                    attempt(port.listener.enlargeQueue)

    @contextmanager
    def starting(self, resources: Resources) -> Iterator[None]:
        """
        Start a generation where the old one listens.  May be repeated.

        @param resources: Where to record what it acquires.
        """
        offered = self._sharing.offered
        for listener in self._reserved:
            offered.setdefault(listener.key, deque()).append(listener)
        try:
            with self._sharing.starting(resources):
                yield
        finally:
            offered.clear()

    def commit(self) -> None:
        """
        Keep late ports of the old generation open until the new one listens there.
        """
        self._release()
        for port in self._old.awaitingSuccessor:
            self._replaceLate(port)
        self._limit(bool(self._pending or self._old.awaitingSuccessor))

    def rollBack(self) -> None:
        """
        Leave the ports to the old generation.
        """
        self._release()
        self._limit(bool(self._pending))

    def _limit(self, isOpen: bool) -> None:
        if isOpen:
            self._deadline = Timer(self._sharing.reactor, self._seconds, self.close)
        else:
            self.close()

    def stopLate(self, ports: Iterable[Any]) -> None:
        """
        Let new connections wait where the old generation's late ports accept.
        """
        for port in ports:
            self.keepOpen(port.listener)

    def keepOpen(self, listener: Listener) -> None:
        """
        Let new connections wait in a socket until a port listens at its address.
        """
        pending = PendingSocket(listener)
        self._pending.append(pending)
        self._replaceLate(pending)

    def _replaceLate(self, port: Any) -> None:
        self._sharing.listens(port.listener.key)
        self._sharing.late[port.listener.key] = port

    def _release(self) -> None:
        self._sharing.offered.clear()
        while self._reserved:
            attempt(self._reserved.pop().release, self)

    def close(self) -> None:
        """
        Release all sockets; connections that still wait in them are closed.
        """
        self._release()
        if self._deadline is not None:
            self._deadline.cancel()
        while self._pending:
            pending = self._pending.pop()
            if self._sharing.late.get(pending.listener.key) is pending:
                self._sharing.listens(pending.listener.key)
        self._sharing.handovers.discard(self)


@contextmanager
def recordingStartup(reactor: Any, resources: Resources) -> Iterator[None]:
    """
    Record what a service acquires while it is made, before its first start.
    """
    sharing = PortSharing(reactor, alone=True)
    try:
        with sharing.starting(resources):
            yield
    finally:
        sharing.close()
