# -*- test-case-name: tests.twistd.test_answers -*-
"""
L{Requests}: answer the C{txsignalfd} command.

A request is a signal that sigqueue(3) sent with a positive value.  Its low bits name
the command, and the others are random: together they are the token.  The answers are
datagrams of assignments, as those of sd_notify(3), to an abstract UNIX socket that
the requester has bound: see L{txsignalfd._control.request}.  They come from a socket
with an address, to which the requester connects its own, so that no other process can
fill that with datagrams.

The pid and the token are only the sender's claims.  So an answer may go to an
address that is not bound, or that another process has bound, and contains nothing but
what the daemon logs.  Nothing here blocks: a requester that does not read loses
its answers.  A bounded number of requests is remembered.
"""

from __future__ import annotations

import errno
import socket
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, NamedTuple

from txsignalfd.siginfo import SigInfo

#: The number of requests that are remembered, to recognize one that is repeated.
REMEMBERED: Final = 1024

#: The most bytes of the line for the operator; a datagram has to fit into the
#: sender's buffer, which has 208 KiB by default.
LONGEST: Final = 16384

#: The commands, by their number in the low bits of a token.
COMMANDS: Final = {1: "reload", 2: "stop", 3: "rotate", 4: "status", 5: "upgrade"}
COMMAND_BITS: Final = 3

_TOO_LONG: Final = b"STATUS=the answer does not fit into a datagram\nX_EXIT_STATUS=1"


def replyAddress(pid: int, token: int) -> bytes:
    """
    Return the abstract address of the socket that receives the answers.

    @param pid: The process that asks.
    @param token: The value of its signal.
    """
    return b"\0txsignalfd/request/%d/%08x" % (pid, token)


class Request(NamedTuple):
    """
    A request: its sender, and a token that no other request of the sender has.
    """

    pid: int
    token: int

    @property
    def command(self) -> str:
        """
        The name of the command.
        """
        code = self.token & (1 << COMMAND_BITS) - 1
        return COMMANDS.get(code, f"do command {code}")


def requestOf(info: SigInfo) -> Request | None:
    """
    Return the request of a signal, or C{None} if the signal is no request.

    @param info: A signal that sigqueue(3) sent.
    """
    return Request(info.pid, info.int) if info.pid > 0 and info.int > 0 else None


class Requests:
    """
    The requests that a daemon has received.  Use it in the reactor's thread.
    """

    def __init__(self) -> None:
        #: The final answer to each request, or C{None} before there is one.
        #: The oldest is first.
        self._answers: OrderedDict[Request, bytes | None] = OrderedDict()
        self._socket: socket.socket | None = None
        #: The socket of the previous program.
        self._passed: int | None = None

    def acknowledge(self, request: Request) -> bool:
        """
        Acknowledge a request, or send its final answer again.

        @return: C{False} for a signal that is no request: other programs may send a
            value, too, but do not wait for an answer.
        """
        answer = self._answers.get(request) or b"X_ACKNOWLEDGED=1"
        return self._send(request, answer) or request in self._answers

    def remember(self, request: Request) -> bool:
        """
        Remember a request.

        @return: Whether to act on it.  One that was received before is acted on only
            if it asks for the status, which changes nothing.
        """
        isNew = request not in self._answers
        self._answers.setdefault(request, None)
        if len(self._answers) > REMEMBERED:
            self._answers.popitem(last=False)
        return isNew or request.command == "status"

    def report(self, request: Request, text: str) -> None:
        """
        Send an answer that is not the final one.

        @param request: The request.
        @param text: One line for the operator.
        """
        self._send(request, _status(text))

    def answer(
        self, request: Request, text: str, succeeded: bool, data: str = ""
    ) -> None:
        """
        Send the final answer.

        @param request: The request.
        @param text: One line for the operator.
        @param succeeded: Whether the daemon did what was requested.
        @param data: JSON for a program, on one line.
        """
        assignments = [_status(text), b"X_EXIT_STATUS=%d" % (not succeeded)]
        if data:
            assignments.append(b"X_JSON=" + data.encode())
        message = b"\n".join(assignments)
        if request in self._answers and request.command != "status":
            self._answers[request] = message
        self._send(request, message)

    def _send(self, request: Request, message: bytes) -> bool:
        """
        Send an answer, which is lost if the requester does not read.

        @return: Whether the requester has bound its address.
        """
        try:
            if self._socket is None:
                self._socket = self._open()
            self._socket.sendto(message, replyAddress(*request))
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                return self._send(request, _TOO_LONG)
            return error.errno != errno.ECONNREFUSED
        return True

    def _open(self) -> socket.socket:
        if self._passed is not None:
            return socket.socket(fileno=self._passed)
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
        opened = socket.socket(socket.AF_UNIX, kind)
        opened.bind(b"")  # the kernel chooses an abstract address
        return opened

    def passOn(self, descriptors: list[int]) -> int | None:
        """
        Return the socket for the program that replaces this one: requesters accept
        answers from no other.

        @param descriptors: Where to add it, if there is one.
        """
        number = self._passed if self._socket is None else self._socket.fileno()
        if number is not None:
            descriptors.append(number)
        return number

    def adopt(self, descriptor: int | None, requests: Iterable[Request]) -> None:
        """
        Continue with the result of L{passOn}.

        @param descriptor: The socket.
        @param requests: Those that wait for an answer.
        """
        self._passed = descriptor
        self._answers.update(dict.fromkeys(requests))

    def close(self) -> None:
        """
        Close the socket.
        """
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _status(text: str) -> bytes:
    line = " ".join(text.split()).encode(errors="replace")
    return b"STATUS=" + (line if len(line) <= LONGEST else line[:LONGEST] + b"...")
