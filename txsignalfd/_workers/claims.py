# -*- test-case-name: tests.workers.test_sockets -*-
"""
L{Claims}: the listening sockets of a worker, which the supervisor owns.

A few ports stay the worker's own:

  - UDP ports that ask for any free port: the answers to a client, such as a DNS
    resolver, have to reach the process that has sent the query.
  - Multicast ports, because the members of a group are counted by socket.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from contextlib import suppress
from errno import EADDRINUSE
from typing import Any, Final

from twisted.internet.error import CannotListenError

from txsignalfd._reload.listener import Listener, pathOf
from txsignalfd._reload.ports import SharedPort
from txsignalfd._workers.channel import Channel

#: The attributes of a port that the supervisor needs to open the socket.
_OPTIONS: Final = ("backlog", "mode", "wantPID")


class ClaimedListener(Listener):
    """
    A duplicate of a socket of the supervisor.

    @ivar isStored: Whether systemd stores the socket for the next supervisor.
    """

    isStored = False

    def __init__(self, key: Any, fd: int, claims: Claims, claim: list[Any]) -> None:
        """
        @param key: The kind of port and the address that were asked for.
        @param fd: The duplicate.
        @param claims: Where the supervisor is told when the listener is closed.
        @param claim: The key of the socket in the supervisor.
        """
        super().__init__(key, fd)
        self._claims = claims
        self.claim = claim

    def isLast(self, holder: object) -> bool:
        """
        Whether no other port of this process or another one accepts from the socket.
        """
        return self.claim not in self._claims.replaced and super().isLast(holder)

    @property
    def isContended(self) -> bool:
        """
        Whether other workers accept from the socket, too.
        """
        return self._claims.hasPeers

    def close(self) -> None:
        """
        Close the duplicate.  Other workers go on.
        """
        self._socket.close()
        self._claims.closed(self)

    def shutDown(self) -> None:
        """
        Refuse new connections in all workers: no supervisor is left.
        """
        if self.isStored:
            return
        with suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class Claims:
    """
    Asks the supervisor for the sockets of the ports that a worker opens.
    """

    def __init__(self, channel: Channel) -> None:
        """
        @param channel: The worker's end of the channel.
        """
        self._channel = channel
        self._listeners: set[ClaimedListener] = set()
        #: How many ports have asked for any free port, by interface.
        self._any: Counter[Any] = Counter()
        #: Whether the service has started.
        self.late = False
        #: Whether there are other workers.
        self.hasPeers = False
        #: The keys of the sockets from which the next generation accepts.
        self.replaced: list[list[Any]] = []

    def supply(self, key: tuple[Any, ...], port: SharedPort) -> Listener | None:
        """
        Return a listener for a port, or C{None} if the port is the worker's own.

        @param key: The kind of port and its address.
        @param port: The port.
        @raise CannotListenError: The supervisor could not open the socket.
        """
        claim = self._claim(key)
        if claim is None:
            return None
        options = {
            name: getattr(port, name) for name in _OPTIONS if hasattr(port, name)
        }
        options["late"] = self.late
        if any(each.claim == claim for each in self._listeners):
            raise _cannotListen(port, EADDRINUSE, os.strerror(EADDRINUSE))
        try:
            answer = self._channel.request(claim=claim, options=options)
        except ConnectionError as error:
            raise _cannotListen(port, None, str(error)) from None
        if not answer.descriptors:
            raise _cannotListen(port, **answer.fields["answer"])
        (fd,) = answer.descriptors
        listener = ClaimedListener(key, fd, self, claim)
        listener.isStored = answer.fields["answer"]["isStored"]
        os.close(fd)
        self._listeners.add(listener)
        return listener

    def _claim(self, key: tuple[Any, ...]) -> list[Any] | None:
        kind, *address = key
        if kind in ("UNIX", "UNIX datagram"):
            return [kind, "", _absolute(os.fsdecode(address[0]))]
        interface, number = address
        if kind == "multicast" or (kind == "UDP" and number == 0):
            return None
        if number == 0:
            self._any[interface] += 1
            return [kind, interface, number, self._any[interface]]
        return [kind, interface, number]

    def closed(self, listener: ClaimedListener) -> None:
        """
        Tell the supervisor that a listener is closed.
        """
        self._listeners.discard(listener)
        self._channel.send(release=listener.claim)

    def shutDown(self) -> None:
        """
        Refuse new connections: no supervisor is left.
        """
        for listener in self._listeners:
            listener.shutDown()


def _absolute(name: str) -> str:
    return name if pathOf(name) is None else os.path.abspath(name)


def _cannotListen(port: Any, errno: int | None, text: str) -> CannotListenError:
    reason = text if errno is None else OSError(errno, text)
    return CannotListenError(getattr(port, "interface", None), port.port, reason)
