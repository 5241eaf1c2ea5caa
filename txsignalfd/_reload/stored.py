# -*- test-case-name: tests.reload.test_stored -*-
"""
L{SocketStore}: listening sockets that outlive the process.

A service manager can store duplicates of descriptors, and pass them to the next
process of the service (systemd: C{FileDescriptorStoreMax=}).  While a service is
restarted, its sockets stay open in the store: new connections wait in their
listen queues, and none is refused.

The name of a stored socket is all that the next process learns about it, so the
name has the kind of the port, the address that was asked for, for a UNIX socket
the file that its path leads to, and whether the port was opened after the service
had started.  A service that listens at the same address gets the socket.  The
sockets that it has not claimed when it serves are closed and removed; those of late
ports, some time afterwards.

Sockets that the service manager has opened itself are not stored: it keeps these in
any case.  Neither are multicast ports, whose groups would outlive them, nor ports
that asked for any free port, which have no address to be found by.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple
from urllib.parse import quote, unquote

from twisted.logger import Logger
from twisted.python.lockfile import FilesystemLock

from txsignalfd._reload.listener import Listener, PathLock, SocketPath
from txsignalfd._reload.sharing import claimInherited

_log: Final = Logger("txsignalfd.reload.ReloadService")

_PREFIX: Final = "txsignalfd,"
#: Kinds of ports whose address is a number of a port or a path.
_NUMBERED: Final = ("TCP", "UDP")
PATHS: Final = ("UNIX", "UNIX datagram")

#: The longest name that systemd accepts.
_LONGEST: Final = 255


class Stored(NamedTuple):
    """
    The content of the name of a stored socket.
    """

    key: tuple[Any, ...]
    late: bool
    #: The device and the inode of the path, or an empty string.
    file: str = ""

    def __str__(self) -> str:
        parts = ("late" if self.late else "", self.file, *self.key)
        return _PREFIX + ",".join(quote(str(part)) for part in parts)


def parseName(name: str) -> Stored | None:
    """
    Parse the name of a stored socket.

    @return: C{None} if it has another form.
    """
    match [unquote(part) for part in name.split(",")]:
        case [_, late, file, kind, path] if kind in PATHS:
            return Stored((kind, path), bool(late), file)
        case [_, late, _, kind, interface, port] if kind in _NUMBERED:
            with suppress(ValueError):
                return Stored((kind, interface, int(port)), bool(late))
    return None


def _fileOf(path: str) -> str:
    with suppress(OSError):
        status = os.lstat(path)
        return f"{status.st_dev}-{status.st_ino}"
    return ""


def restore(stored: Stored, descriptor: int) -> Listener | None:
    """
    Return a listener with a socket of the previous process or program.

    @param stored: The content of its name.
    @param descriptor: The socket; the listener duplicates it.
    @return: C{None} if its path does not lead to it any more.
    """
    path = stored.key[-1]
    if stored.file and _fileOf(path) != stored.file:
        _log.warn("{path!r} does not lead to the stored socket", path=path)
        return None
    listener = Listener(stored.key, descriptor)
    if stored.file:
        mode = os.lstat(path).st_mode & 0o7777
        listener.path = SocketPath(path, mode, _lockOf(path))
    return listener


def unlockOwn(path: str) -> None:
    """
    Remove the lock of a path, if this process has locked it.
    """
    with suppress(OSError):
        if os.readlink(f"{path}.lock") == str(os.getpid()):
            os.unlink(f"{path}.lock")


def storedOf(listener: Listener, late: bool) -> Stored:
    """
    Return the content of the name of a stored socket.

    @param listener: The socket of a port that listens.
    @param late: Whether it was opened after the service had started.
    """
    key: Any = listener.key
    return Stored(key, late, _fileOf(key[1]) if listener.path is not None else "")


def _lockOf(path: str) -> PathLock | None:
    """
    Take over the lock of a path whose socket is ours, from the previous process.
    """
    lock = FilesystemLock(f"{path}.lock")
    with suppress(OSError):
        os.unlink(lock.name)
        lock.lock()
        return PathLock(lock)
    return None


class SocketStore:
    """
    Stores listening sockets with the service manager, and gets them back.

    @ivar isStopping: Whether sockets that are closed stay in the store.
    """

    def __init__(
        self,
        limit: int,
        store: Callable[[str, int], None],
        discard: Callable[[str], None],
    ) -> None:
        """
        @param limit: How many sockets the service manager stores.
        @param store: Stores a socket under a name.
        @param discard: Removes the socket of a name.
        """
        self._limit = limit
        self._store = store
        self._discard = discard
        self._stored: dict[Listener, str] = {}
        self.isStopping = False

    def claim(self) -> list[tuple[Listener, bool]]:
        """
        Return the sockets that the previous process has stored.

        @return: Each of them, and whether its port was late.
        """
        claimed = []
        for name, descriptor in claimInherited(_PREFIX):
            stored = parseName(name)
            listener = None if stored is None else self._claim(stored, descriptor)
            os.close(descriptor)
            if stored is None or listener is None:
                self._discard(name)
            else:
                self.note(listener, name)
                claimed.append((listener, stored.late))
        return claimed

    def _claim(self, stored: Stored, descriptor: int) -> Listener | None:
        listener = restore(stored, descriptor)
        if listener is None:
            Listener(stored.key, descriptor).close()
        return listener

    def add(self, listener: Listener, late: bool) -> None:
        """
        Store a socket, unless it is stored, or the next process could not find it.

        @param listener: The socket of a port that listens.
        @param late: Whether it was opened after the service had started.
        """
        key: Any = listener.key
        if listener in self._stored or key[0] not in (*_NUMBERED, *PATHS):
            return
        if listener.isAny or not isinstance(key[1], str):
            return
        name = str(storedOf(listener, late))
        if len(name) > _LONGEST or len(self._stored) >= self._limit:
            why = f"FileDescriptorStoreMax={self._limit} is too small"
            if len(name) > _LONGEST:
                why = "its address is too long"
            _log.warn(
                "the socket of {address!r} is not stored, and a restart refuses new"
                " connections there: {why}",
                address=key[-1],
                why=why,
            )
            return
        self.note(listener, name)
        self._store(name, listener.fileno())

    def note(self, listener: Listener, name: str) -> None:
        """
        Note that a socket is stored under a name.
        """
        self._stored[listener] = name
        listener.isPassedOn = self._isPassedOn

    def _isPassedOn(self, listener: Listener) -> bool:
        name = self._stored.pop(listener)
        if not self.isStopping:
            self._discard(name)
        return self.isStopping
