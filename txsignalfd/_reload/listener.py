# -*- test-case-name: tests.reload.test_ports -*-
"""
L{Listener}: a bound socket, of which several ports have duplicates.

L{SocketPath}: where a UNIX socket is found, which anybody may remove.

What has a path has a socket and a name that may part: somebody cleans a
directory, or a deployment replaces it.  Then the socket is where nobody finds
it, and another one may have its name.  So it is known which file was bound, and
no other is removed.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Hashable
from contextlib import suppress
from typing import Any, Final, TypeAlias

from twisted.internet.error import CannotListenError
from twisted.logger import Logger
from twisted.python.lockfile import FilesystemLock

_log: Final = Logger("txsignalfd.reload.ReloadService")


class PathLock:
    """
    The lock of a path, of all sockets that were bound there one after the other.
    """

    def __init__(self, file: FilesystemLock) -> None:
        """
        @param file: Twisted's, which is locked.
        """
        self._file = file
        self._holders = 0

    def hold(self) -> None:
        """
        One more socket is bound under it.
        """
        self._holders += 1

    def release(self) -> None:
        """
        One has gone.  With the last goes the lock.
        """
        self._holders -= 1
        if self._holders:
            return
        try:
            self._file.unlock()
        except (OSError, ValueError) as error:
            name = self._file.name
            _log.warn(
                "the lock {name!r} was not removed: {error}", name=name, error=error
            )

    def renew(self) -> None:
        """
        Lock it again where somebody has removed it.

        @raise CannotListenError: Another process has it by now.
        """
        try:
            isOurs = int(os.readlink(self._file.name)) == os.getpid()
        except FileNotFoundError:
            isOurs = False
        if not (isOurs or self._file.lock()):
            raise CannotListenError(None, self._file.name, "Cannot acquire lock")


class SocketPath:
    """
    A path to which a socket was bound.
    """

    def __init__(self, name: str | bytes, mode: int, lock: PathLock | None) -> None:
        """
        @param name: The path.
        @param mode: What it was given, as by chmod(2).
        @param lock: What keeps others from binding it.
        @raise OSError: It was removed already.
        """
        self._name = name
        self._mode = mode
        self._bound = os.lstat(name)
        self.lock = lock
        if lock is not None:
            lock.hold()

    @property
    def stands(self) -> bool:
        """
        Whether it still leads to the socket.
        """
        try:
            return os.path.samestat(os.lstat(self._name), self._bound)
        except PermissionError:
            # Root was given up since, and nobody can tell.
            return True
        except OSError:
            return False

    def changeMode(self, mode: int) -> None:
        """
        Give it another mode: chmod(2).  One who has given up root may not, so it
        is done only where it is another.
        """
        if mode != self._mode:
            os.chmod(self._name, mode)
            self._mode = mode

    def remove(self) -> None:
        """
        Remove it, unless it leads elsewhere by now, and let go of the lock.  Call
        it while the socket is open: later its inode may be another's.
        """
        if self.stands:
            try:
                os.unlink(self._name)
            except OSError as error:
                _stays(self._name, error)
        else:
            _stays(self._name, "it does not lead to our socket any more")
        if self.lock is not None:
            self.lock.release()


def _stays(path: object, why: object) -> None:
    _log.warn("{path!r} was not removed: {why}", path=path, why=why)


def pathOf(name: str | bytes) -> str | bytes | None:
    """
    @param name: The name of a UNIX socket: unix(7).
    @return: Its path in the file system, C{None} in the abstract namespace.
    """
    start = name[:1]
    return name if start and start not in ("\0", b"\0") else None


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
