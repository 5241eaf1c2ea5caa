# -*- test-case-name: tests.test_systemd -*-
"""
L{NotifySocket}: datagrams to a service manager, sent without ever blocking.

Theory
======

The socket is connected when it is made, which is before twistd changes its
root, and while it is full the reactor waits for it to be writable: poll(2)
tells that only of a datagram socket that is connected.  When whoever listened
there is gone it is connected anew, for another may listen there.

What cannot be sent waits, so that no READY=1 is forgotten; a later message
that assigns the same names takes its place, and so only a few ever wait.  A
reload is over when the manager gets the last READY=1, whatever was before.

Rejected: a new socket for each message, as sd_notify(3) makes it (it is of no
use after chroot(2), and none can be waited for).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

from twisted.internet.interfaces import IWriteDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer


@implementer(IWriteDescriptor)
class NotifySocket:
    """
    A socket on which a service manager listens.  Nothing here blocks, and
    nothing raises: what fails is logged, once until it succeeds again.
    """

    _log = Logger()

    def __init__(self, reactor: Any, name: str) -> None:
        """
        @param reactor: Waits while the socket is full.
        @param name: A path, or a name in the abstract namespace after C{"@"}:
            unix(7).
        """
        self._reactor = reactor
        self._name = name
        self._socket: socket.socket | None = None
        #: By the names that each assigns, the one to be sent first before.
        self._waiting: dict[tuple[bytes, ...], bytes] = {}
        self._isWriter = False
        self._failed = False
        try:
            self._connect()
        except OSError as error:
            self._complain(error)

    def send(self, assignments: Mapping[bytes, bytes]) -> None:
        """
        Send a message, after those that still wait.

        @param assignments: What it says, by name.
        """
        names = tuple(assignments)
        self._waiting.pop(names, None)
        self._waiting[names] = b"\n".join(map(b"=".join, assignments.items()))
        if not self._isWriter:
            self._flush()

    def _flush(self) -> None:
        try:
            while self._waiting:
                names, message = next(iter(self._waiting.items()))
                self._transmit(message)
                del self._waiting[names]
        except BlockingIOError as error:
            self._complain(error)
            if not self._isWriter:
                self._reactor.addWriter(self)
                self._isWriter = True
            return
        except OSError as error:
            self._complain(error)
        else:
            self._succeeded()
        self._waitNoMore()

    def _transmit(self, message: bytes) -> None:
        if self._socket is not None:
            try:
                self._socket.send(message)
            except BlockingIOError:
                raise
            except OSError:
                self._disconnect()
            else:
                return
        self._connect().send(message)

    def _connect(self) -> socket.socket:
        address = self._name
        if address.startswith("@"):
            address = "\0" + address[1:]
        elif not address.startswith("/"):
            raise OSError("this is no name of an AF_UNIX socket")
        connecting = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            connecting.setblocking(False)
            connecting.connect(os.fsencode(address))
        except BaseException:
            connecting.close()
            raise
        self._socket = connecting
        return connecting

    def _disconnect(self) -> None:
        # A closed descriptor is no writer of a reactor.
        self._waitNoMore()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _waitNoMore(self) -> None:
        if self._isWriter:
            self._isWriter = False
            self._reactor.removeWriter(self)

    def _complain(self, error: OSError) -> None:
        if self._failed:
            return
        self._failed = True
        isFull = isinstance(error, BlockingIOError)
        self._log.warn(
            "NOTIFY_SOCKET={name!r}: {why}; systemd will be told later: {waiting!r}",
            name=self._name,
            why="it is full" if isFull else error.strerror or error,
            waiting=list(self._waiting.values()),
        )

    def _succeeded(self) -> None:
        if self._failed:
            self._failed = False
            self._log.info("NOTIFY_SOCKET={name!r}: systemd was told", name=self._name)

    def fileno(self) -> int:
        """
        The descriptor, or -1 when it is not connected.
        """
        return -1 if self._socket is None else self._socket.fileno()

    def doWrite(self) -> None:
        """
        The socket has room again.
        """
        self._flush()

    def connectionLost(self, reason: Failure) -> None:
        """
        The reactor has removed us, because it stops.  That is no reason to be
        silent; only nothing waits any more for room.
        """
        self._isWriter = False

    def logPrefix(self) -> str:
        """
        Who wrote in the log.
        """
        return "systemd"

    def close(self) -> None:
        """
        Send what waits, if that can be done at once, and close the socket.
        """
        self._flush()
        self._disconnect()
        if self._waiting:
            self._log.warn(
                "NOTIFY_SOCKET={name!r}: systemd was never told: {waiting!r}",
                name=self._name,
                waiting=list(self._waiting.values()),
            )
            self._waiting.clear()
