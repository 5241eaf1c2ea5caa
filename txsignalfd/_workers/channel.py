# -*- test-case-name: tests.workers.test_channel -*-
"""
L{Channel}: messages and descriptors between the supervisor and one worker.

Each message is one packet of JSON on a pair of UNIX sockets, and may bring
descriptors along.

Rejected: Twisted's AMP, which passes descriptors too.  It answers in a later turn of
the reactor, and C{reactor.listenTCP} has to return a port that listens.
"""

from __future__ import annotations

import json
import os
import socket
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

#: The most bytes of a message, which is more than Linux sends in one packet by default,
#: and of the one descriptor with it.
_LONGEST: Final = 1 << 18
_ANCILLARY: Final = socket.CMSG_SPACE(array("i").itemsize)

#: The most messages that are received in one turn of the reactor.
_MOST_MESSAGES: Final = 64


class Message(NamedTuple):
    """
    A received message.
    """

    fields: dict[str, Any]
    #: Descriptors that belong to the receiver.
    descriptors: list[int]


def socketPair() -> tuple[socket.socket, socket.socket]:
    """
    Make the two ends of a channel.
    """
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


@implementer(IReadDescriptor)
class Channel:
    """
    One end of the connection between the supervisor and a worker.
    """

    def __init__(
        self,
        end: socket.socket,
        reactor: Any,
        received: Callable[[Message], object],
        lost: Callable[[], object],
    ) -> None:
        """
        @param end: One of L{socketPair}, which the channel closes.
        @param reactor: The reactor, or C{None} until there is one, before L{start}.
        @param received: Called with each message that is no answer.
        @param lost: Called when the other process has closed its end.
        """
        self._socket = end
        self.reactor = reactor
        self._received = received
        self._lost = lost
        #: Messages that arrived before the answer to a request.
        self._early: deque[Message] = deque()

    def start(self) -> None:
        """
        Receive messages from now on.
        """
        self.reactor.addReader(self)
        if self._early:
            self.reactor.callLater(0, self._receiveEarly)

    def send(self, descriptors: Sequence[int] = (), **fields: Any) -> None:
        """
        Send a message, unless the other process has ended or reads none.

        @param descriptors: Descriptors to duplicate in the other process.
        @param fields: The content of the message, as JSON has it.
        """
        self._send(fields, descriptors, socket.MSG_DONTWAIT)

    def _send(
        self, fields: dict[str, Any], descriptors: Sequence[int], flags: int
    ) -> None:
        data = json.dumps(fields).encode()
        # C{socket.send_fds} and C{recv_fds} ignore the flags in Python 3.11.
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))
        try:
            self._socket.sendmsg([data], [rights] if descriptors else [], flags)
        except OSError:
            # The message is lost.  The supervisor notices a process that has ended or
            # hangs by its exit and its silence, and a worker the end of its supervisor.
            return

    def request(self, **fields: Any) -> Message:
        """
        Send a message, and wait for the answer, which has a field C{answer}.

        This blocks the reactor.  Other messages that arrive meanwhile are received
        later.

        @raise ConnectionError: If the other process has ended.
        """
        self._send(fields, (), 0)
        while (message := self._receive(0)) is not None:
            if "answer" in message.fields:
                return message
            self._early.append(message)
            self.reactor.callLater(0, self._receiveEarly)
        raise ConnectionError("the supervisor has ended")

    def wait(self) -> Message | None:
        """
        Wait for the next message without a reactor.

        @return: The message, or C{None} if the other process has closed its end.
        """
        return self._receive(0)

    def _receive(self, flags: int) -> Message | None:
        """
        @return: The next message, or C{None} at the end.
        """
        try:
            data, ancillary, *_ = self._socket.recvmsg(_LONGEST, _ANCILLARY, flags)
        except ConnectionError:
            return None
        descriptors = array("i")
        # No option of the socket asks for other control messages than SCM_RIGHTS.
        for _level, _kind, rights in ancillary:
            whole = len(rights) - len(rights) % descriptors.itemsize
            descriptors.frombytes(rights[:whole])
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        return Message(json.loads(data), list(descriptors)) if data else None

    def _receiveEarly(self) -> None:
        while self._early:
            self._received(self._early.popleft())

    def doRead(self) -> None:
        """
        Receive the messages that have arrived.
        """
        self._receiveEarly()
        for _ in range(_MOST_MESSAGES):
            if self._socket.fileno() < 0:
                return
            try:
                message = self._receive(socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            if message is None:
                self.close()
                self._lost()
                return
            self._received(message)

    def fileno(self) -> int:
        """
        Return the descriptor, or -1 if the channel is closed.
        """
        return self._socket.fileno()

    def connectionLost(self, reason: Failure) -> None:
        """
        Note that the reactor has stopped.
        """

    def logPrefix(self) -> str:
        """
        Return the system of log messages.
        """
        return "workers"

    def close(self) -> None:
        """
        Close this end.
        """
        if self._socket.fileno() >= 0:
            self.reactor.removeReader(self)
            self._socket.close()
