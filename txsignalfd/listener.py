# -*- test-case-name: tests.test_ports -*-
"""
L{Listener}: a bound socket, of which several ports have duplicates.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Hashable
from contextlib import suppress
from typing import Any, Final, TypeAlias

from txsignalfd.socketpath import SocketPath

#: How many connections wait for one port at most: net.core.somaxconn, which is
#: 4096 unless an administrator has chosen another.
MOST_WAITING: Final = 4096

#: Who has joined, by the protocol's level, and the group and interface.
Groups: TypeAlias = dict[tuple[int, Any], set["SharedSocket"]]

_JOIN: Final = (
    (socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP),
    (socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP),
)
_LEAVE: Final = {
    socket.IPPROTO_IP: socket.IP_DROP_MEMBERSHIP,
    socket.IPPROTO_IPV6: socket.IPV6_LEAVE_GROUP,
}


class SharedSocket(socket.socket):
    """
    A socket of which there may be duplicates.
    """

    #: Whether it is a duplicate, of a socket that is bound.
    duplicate = False
    #: Whether it listens already, with a queue of somebody else's choosing.
    adopted = False
    #: Where it listened before L{leave}.
    _left: Any = None

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        #: Which of the duplicates have joined which multicast groups: to the
        #: kernel they are one member.
        self.groups: Groups = {}

    def bind(self, address: Any) -> None:
        """
        Bind the first of the duplicates: bind(2).
        """
        if not self.duplicate:
            super().bind(address)

    def listen(self, backlog: int = 50) -> None:
        """
        Listen, or change for how many connections there is room: listen(2).
        """
        if not self.adopted:
            super().listen(backlog)

    def setsockopt(self, level: int, option: int, value: Any, *size: int) -> None:
        """
        Set an option: setsockopt(2).  A group is joined with the first of the
        duplicates that wants to, and left with the last: ip(7).
        """
        isJoin, isLeave = (level, option) in _JOIN, _LEAVE.get(level) == option
        if not (isJoin or isLeave):
            super().setsockopt(level, option, value, *size)
            return
        members = self.groups.setdefault((level, value), set())
        if not members - {self} or (isJoin and self in members):
            super().setsockopt(level, option, value)
        (members.add if isJoin else members.discard)(self)

    def close(self) -> None:
        """
        Close it, and leave the groups that no other duplicate has joined.
        """
        for (level, value), members in self.groups.items():
            if self in members:
                # The interface may be gone.
                with suppress(OSError):
                    self.setsockopt(level, _LEAVE[level], value)
        super().close()

    def leave(self) -> None:
        """
        Let go of a socket that others made, where the kernel shares out who
        connects among several at one address: socket(7), SO_REUSEPORT.  Who was
        given to this one would wait for ever.
        """
        if self.adopted and self.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
            self._left = self.getsockname()
            # Whoever uses the descriptor still does so until the port stops.
            with suppress(OSError), socket.socket() as other:
                os.dup2(other.fileno(), self.fileno(), inheritable=False)

    def getsockname(self) -> Any:
        """
        Its address, or that which it had: getsockname(2).
        """
        return self._left or super().getsockname()

    def shutdown(self, how: int) -> None:
        """
        Leave the other duplicates as they are; see L{Listener.close}.
        """


def duplicateOf(fd: int) -> SharedSocket:
    """
    @param fd: A socket's descriptor.
    @return: A duplicate that does not block.
    """
    copy = SharedSocket(fileno=os.dup(fd))
    copy.setblocking(False)
    copy.duplicate = True
    return copy


def isAny(key: Hashable) -> bool:
    """
    Whether whatever port is free is asked for.
    """
    return isinstance(key, tuple) and key[-1] == 0


class Listener:
    """
    What is bound to one address, and who accepts there.
    """

    def __init__(self, key: Hashable, fd: int, adopted: bool = False) -> None:
        """
        @param key: What was asked for: the kind of port, and its address.
        @param fd: The socket, of which this has a duplicate of its own.
        @param adopted: Whether others than us made the socket, and keep it.
        """
        self.key = key
        #: Where it is found, and what to remove in the end.
        self.path: SocketPath | None = None
        self._adopted = adopted
        self._socket = duplicateOf(fd)
        self._holders: set[object] = set()
        #: See L{SharedSocket}.
        self.groups: Groups = {}

    @property
    def isAny(self) -> bool:
        """
        Whether whatever port is free was asked for.
        """
        return isAny(self.key)

    def name(self) -> Any:
        """
        The address: getsockname(2).
        """
        return self._socket.getsockname()

    def newSocket(self) -> SharedSocket:
        """
        Make a duplicate of the socket for another port.
        """
        copy = duplicateOf(self._socket.fileno())
        copy.adopted = self._adopted
        copy.groups = self.groups
        return copy

    def makeRoom(self) -> None:
        """
        Let as many wait as can, until somebody listens here again: there will
        be nobody who accepts.
        """
        if not self._adopted and self._socket.type == socket.SOCK_STREAM:
            self._socket.listen(MOST_WAITING)

    def hold(self, holder: object) -> None:
        """
        Somebody accepts here, or may do so later.
        """
        self._holders.add(holder)

    def isLast(self, holder: object) -> bool:
        """
        Whether nobody else accepts here.
        """
        return self._holders == {holder}

    def release(self, holder: object) -> None:
        """
        Somebody accepts here no more.  With the last of them the socket stops:
        who connects is refused.
        """
        if holder in self._holders:
            self._holders.remove(holder)
            if not self._holders:
                self.close()

    def close(self) -> None:
        """
        Stop the socket and all its duplicates.
        """
        if not self._adopted:
            # Datagrams have no connection to be shut down.
            with suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        if self.path is not None:
            self.path.remove()
        self._socket.close()
