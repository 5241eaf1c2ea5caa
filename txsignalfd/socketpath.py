# -*- test-case-name: tests.test_socketpath -*-
"""
L{SocketPath}: where a UNIX socket is found, which anybody may remove.

What has a path has a socket and a name that may part: somebody cleans a
directory, or a deployment replaces it.  Then the socket is where nobody finds
it, and another one may have its name.  So it is known which file was bound, and
no other is removed.
"""

from __future__ import annotations

import os
from typing import Final

from twisted.internet.error import CannotListenError
from twisted.logger import Logger
from twisted.python.lockfile import FilesystemLock

_log: Final = Logger()


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
