# -*- test-case-name: tests.reload.test_listener -*-
"""
Bound sockets that the ports of several generations share.

Each port has a duplicate of the socket of a L{Listener}, which stops the socket
when the last of them has stopped.

A UNIX socket and its path may part: a clean-up removes the path, or a deployment
replaces the directory.  L{SocketPath} therefore remembers which file was bound,
and removes no other.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any, Final, TypeAlias

from twisted.internet.error import CannotListenError
from twisted.logger import Logger
from twisted.python.lockfile import FilesystemLock

from txsignalfd._proc.owner import hasEnded

_log: Final = Logger("txsignalfd.reload.ReloadService")


#: The lock files of this process.
_locks: Final[set[bytes]] = set()


class PathLock:
    """
    The lock file of a path, shared by all sockets that were bound there.
    """

    def __init__(self, file: FilesystemLock) -> None:
        """
        @param file: Twisted's lock, which is locked.
        """
        self._file = file
        self._sockets = 0
        _locks.add(os.fsencode(file.name))

    def acquire(self) -> None:
        """
        Count one more socket that is bound under the lock.
        """
        self._sockets += 1

    def release(self) -> None:
        """
        Count one socket less; remove the lock file with the last one.
        """
        self._sockets -= 1
        if self._sockets:
            return
        _locks.discard(os.fsencode(self._file.name))
        try:
            self._file.unlock()
        except (OSError, ValueError) as error:
            name = self._file.name
            _log.warn(
                "the lock {name!r} was not removed: {error}", name=name, error=error
            )

    def renew(self) -> None:
        """
        Lock the path again if the lock file was removed.

        @raise CannotListenError: Another process has locked the path since.
        """
        try:
            isOurs = int(os.readlink(self._file.name)) == os.getpid()
        except FileNotFoundError:
            isOurs = False
        if not (isOurs or self._file.lock()):
            raise CannotListenError(None, self._file.name, "Cannot acquire lock")


def removeStaleLock(path: str | bytes) -> None:
    """
    Remove the lock of a path, and the socket, if their process was killed.

    Twisted respects a lock if any process has the pid that the lock names.
    """
    socketPath = os.fsencode(path)
    lock = socketPath + b".lock"
    try:
        pid = int(os.readlink(lock))
        if lock in _locks or not hasEnded(pid, lock) or _isServed(socketPath):
            return
        os.unlink(lock)
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.lstat(socketPath).st_mode):
                os.unlink(socketPath)
    except (OSError, ValueError):
        # Then Twisted raises, if the lock or the socket is still there.
        return
    _log.info(
        "removed the lock {lock!r}: its process, pid {pid}, has ended",
        lock=os.fsdecode(lock),
        pid=pid,
    )


def _isServed(path: bytes) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        refused = (errno.ECONNREFUSED, errno.ENOENT)
        return client.connect_ex(path) not in refused


class SocketPath:
    """
    The path to which a socket was bound.
    """

    def __init__(self, name: str | bytes, mode: int, lock: PathLock | None) -> None:
        """
        @param name: The path.
        @param mode: Its permissions, as for chmod(2).
        @param lock: The lock under which it was bound.
        @raise OSError: The path was removed already.
        """
        self._name = name
        self._mode = mode
        self._bound = os.lstat(name)
        self.lock = lock
        if lock is not None:
            lock.acquire()

    @property
    def isOurs(self) -> bool:
        """
        Whether the path still leads to the socket.
        """
        try:
            return os.path.samestat(os.lstat(self._name), self._bound)
        except PermissionError:
            # The process has given up root since, and cannot find out.
            return True
        except OSError:
            return False

    def changeMode(self, mode: int) -> None:
        """
        Change the path's permissions if they differ.

        A process that has given up root may not call chmod(2), not even to set
        the permissions that the path has.
        """
        if mode != self._mode:
            os.chmod(self._name, mode)
            self._mode = mode

    def remove(self) -> None:
        """
        Remove the path if it is ours, and release the lock.

        Call this while the socket is open: afterwards another file may have its
        inode.
        """
        if self.isOurs:
            try:
                os.unlink(self._name)
            except OSError as error:
                _warnNotRemoved(self._name, error)
        else:
            _warnNotRemoved(self._name, "it does not lead to our socket any more")
        if self.lock is not None:
            self.lock.release()


def _warnNotRemoved(path: object, why: object) -> None:
    _log.warn("{path!r} was not removed: {why}", path=path, why=why)


def pathOf(name: str | bytes) -> str | bytes | None:
    """
    Return the path of a UNIX socket, or C{None} in the abstract namespace.

    @param name: The name of the socket, as in unix(7).
    """
    start = name[:1]
    return name if start and start not in ("\0", b"\0") else None


#: The length of the longest listen queue: the default of net.core.somaxconn.
MAX_BACKLOG: Final = 4096

#: How many bytes of a pending connection are read before it is closed.
_MOST_READ: Final = 1 << 20

#: The sockets that have joined, by protocol level, and group and interface.
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
    A socket of a port, of which other ports may have duplicates.
    """

    #: Whether the socket is a duplicate of one that is bound.
    duplicate: bool = False
    #: Whether another process made it, which chose the length of its queue.
    adopted: bool = False
    #: Whether another process has shut it down.
    isShutDown: bool = False
    #: Whether no connection is to be accepted for a moment.
    isPaused: bool = False
    #: The address that it had before L{leave}.
    _left: Any = None

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        #: The multicast groups that each duplicate has joined: to the kernel all
        #: duplicates are one member.
        self.groups: Groups = {}

    def bind(self, address: Any) -> None:
        """
        Bind the socket unless it is a duplicate: bind(2).
        """
        if not self.duplicate:
            super().bind(address)

    def listen(self, backlog: int = 50) -> None:
        """
        Listen, or change the length of the queue: listen(2).
        """
        if not self.adopted:
            super().listen(backlog)

    def accept(self) -> tuple[socket.socket, Any]:
        """
        Accept a connection: accept(2).

        There is none if another process has shut the socket down, and during a pause.
        """
        if self.isPaused:
            raise BlockingIOError(errno.EAGAIN, "paused")
        try:
            return super().accept()
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self.isShutDown = True
            raise BlockingIOError(errno.EAGAIN, "shut down") from None

    def setsockopt(self, level: int, option: int, value: Any, *size: int) -> None:
        """
        Set an option: setsockopt(2).

        The first duplicate that joins a multicast group joins it for all of
        them, and the last one leaves it: ip(7).
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
        Leave the groups that no other duplicate has joined, and close the socket.
        """
        for (level, value), members in self.groups.items():
            if self in members:
                # The interface may be gone.
                with suppress(OSError):
                    self.setsockopt(level, _LEAVE[level], value)
        super().close()

    def leave(self) -> None:
        """
        Close an adopted socket if it shares its address by SO_REUSEPORT.

        The kernel distributes new connections among all sockets at the address
        (see socket(7)), and no port accepts from this one any longer.  The
        descriptor stays valid until the port has stopped.
        """
        if self.adopted and self.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
            self._left = self.getsockname()
            with suppress(OSError), socket.socket() as other:
                os.dup2(other.fileno(), self.fileno(), inheritable=False)

    def getsockname(self) -> Any:
        """
        Return the address of the socket: getsockname(2).
        """
        return self._left or super().getsockname()

    def shutdown(self, how: int) -> None:
        """
        Do nothing: L{Listener.close} shuts down all duplicates.
        """


def duplicateOf(fd: int) -> SharedSocket:
    """
    Return a non-blocking duplicate of a socket.
    """
    copy = SharedSocket(fileno=os.dup(fd))
    copy.setblocking(False)
    copy.duplicate = True
    return copy


class Listener:
    """
    A socket bound to one address, and the ports that accept from it.
    """

    def __init__(self, key: Hashable, fd: int, adopted: bool = False) -> None:
        """
        @param key: The kind of port and the address that were asked for.
        @param fd: The socket; the listener duplicates it.
        @param adopted: Whether another process made the socket, and keeps it.
        """
        self.key = key
        #: The path to remove with the socket.
        self.path: SocketPath | None = None
        #: Called before the socket is stopped.  Returns whether another process
        #: goes on with it.
        self.isPassedOn: Callable[[Listener], bool] | None = None
        self._adopted = adopted
        self._socket = duplicateOf(fd)
        self._holders: set[object] = set()
        #: See L{SharedSocket}.
        self.groups: Groups = {}

    @property
    def isAny(self) -> bool:
        """
        Whether any free port was asked for.
        """
        return isinstance(self.key, tuple) and self.key[-1] == 0

    @property
    def isContended(self) -> bool:
        """
        Whether other processes accept from the socket, too.
        """
        return False

    @property
    def isOpen(self) -> bool:
        """
        Whether the socket was not stopped yet.
        """
        return self.fileno() >= 0

    def fileno(self) -> int:
        """
        Return the descriptor of the socket.
        """
        return self._socket.fileno()

    def name(self) -> Any:
        """
        Return the address of the socket: getsockname(2).
        """
        return self._socket.getsockname()

    def newSocket(self) -> SharedSocket:
        """
        Return a duplicate of the socket for another port.
        """
        copy = duplicateOf(self._socket.fileno())
        copy.adopted = self._adopted
        copy.groups = self.groups
        return copy

    def enlargeQueue(self) -> None:
        """
        Make the listen queue as long as possible: no port accepts for a while.
        """
        if not self._adopted and self._socket.type == socket.SOCK_STREAM:
            self._socket.listen(MAX_BACKLOG)

    def acquire(self, holder: object) -> None:
        """
        Keep the socket open until the holder releases it.
        """
        self._holders.add(holder)

    def isLast(self, holder: object) -> bool:
        """
        Whether no other port accepts from the socket.
        """
        # Suspended datagram ports hold the listener by their sockets.
        others = self._holders - {holder}
        return holder in self._holders and all(
            isinstance(other, SharedSocket) for other in others
        )

    def release(self, holder: object) -> None:
        """
        Stop the socket if nothing else keeps it open.
        """
        if holder in self._holders:
            self._holders.remove(holder)
            if not self._holders:
                self.close()

    def close(self) -> None:
        """
        Stop the socket and all its duplicates: new connections are refused.

        If another process goes on with the socket, new connections wait.
        """
        if self.isPassedOn is not None and self.isPassedOn(self):
            with suppress(OSError):
                self.enlargeQueue()
            self._socket.close()
            return
        if not self._adopted:
            if self._socket.type == socket.SOCK_STREAM:
                self._closePending()
            # Datagram sockets have no connection to shut down.
            with suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        if self.path is not None:
            self.path.remove()
        self._socket.close()

    def _closePending(self) -> None:
        """
        Close connections that no port will accept, which shutdown(2) would reset.
        """
        with suppress(OSError):
            for _ in range(MAX_BACKLOG):
                connection, _ = self._socket.accept()
                with connection:
                    connection.setblocking(False)
                    # To close a socket resets it while there is something to read.
                    with suppress(OSError):
                        connection.recv(_MOST_READ)
