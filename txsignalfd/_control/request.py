# -*- test-case-name: tests.control.test_request -*-
"""
L{Request}: ask a daemon by a signal, and wait for its answer.

The request is the signal itself.  sigqueue(3) sends it with a random token as its
value, and the answers arrive as datagrams at an abstract UNIX socket (unix(7))
that is named after this process and the token.  So the daemon needs no port and
no file, and exactly those processes may ask it that may send it a signal.

Of a standard signal at most one is pending, so a request may be merged with
another sender's signal.  A request that is not acknowledged is therefore sent
again, with the same token, which the daemon recognizes.

Only datagrams from the daemon's own pid are accepted: the kernel vouches for it
(SO_PASSCRED).  Another process that guesses the token, or binds the name first,
can send nothing that passes for an answer.  The first answer comes from the address of
the daemon's socket; connected to that, the socket receives from no other process.

See L{txsignalfd._twistd.requests} for the daemon's side, and C{docs/control.rst}
for what hostile neighbours can and cannot do.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import select
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple

from txsignalfd._control.target import CannotAsk, Target
from txsignalfd._native.names import signalName
from txsignalfd._twistd.requests import COMMAND_BITS, COMMANDS, replyAddress
from txsignalfd.lowlevel import sigqueue

#: Seconds until a request that is not acknowledged is sent again.
AGAIN: Final = 0.2

#: Seconds until it is sent if the daemon has not looked at an earlier signal.
BUSY: Final = 0.02

#: How often a request is sent before the target counts as one that does not answer.
MOST_SENT: Final = 10

_CREDENTIALS: Final = struct.Struct("=iII")
_LONGEST: Final = 1 << 20


class TargetEnded(Exception):
    """
    The target has ended before it gave the final answer.
    """


class Answer(NamedTuple):
    """
    A datagram of the daemon.

    @ivar fields: Its assignments, as of sd_notify(3).
    """

    fields: dict[str, str]

    @classmethod
    def parse(cls, datagram: bytes) -> Answer:
        """
        Parse a datagram; a line that is no assignment is ignored.
        """
        lines = datagram.decode(errors="replace").split("\n")
        pairs = (line.partition("=") for line in lines)
        return cls({name: value for name, equals, value in pairs if equals})

    @property
    def text(self) -> str:
        """
        The line for the operator.
        """
        return self.fields.get("STATUS", "")

    @property
    def exitStatus(self) -> int | None:
        """
        The exit status of the command, or C{None} while more answers follow.
        """
        status = self.fields.get("X_EXIT_STATUS", "")
        return int(status) if status in ("0", "1") else None

    def parsed(self) -> dict[str, Any]:
        """
        Return the data.

        @raise CannotAsk: If it is not what a daemon sends.
        """
        try:
            data = json.loads(self.fields.get("X_JSON", ""))
        except ValueError as error:
            raise CannotAsk(f"the answer is not understood: {error}") from None
        if not isinstance(data, dict):
            raise CannotAsk("the answer is not understood: it is no JSON object")
        return data


class Request:
    """
    One request.
    """

    def __init__(self, target: Target, signo: int, command: str) -> None:
        """
        @param target: The daemon.
        @param signo: The signal whose action is requested.
        @param command: The name of that action.
        """
        self._target = target
        self._signo = signo
        (self._code,) = (code for code, name in COMMANDS.items() if name == command)
        self._sent = 0
        self._acknowledged = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            self._token = self._bind()
            self._checkReachable()
        except BaseException:
            self._socket.close()
            raise

    def _bind(self) -> int:
        while True:
            token = secrets.randbits(31 - COMMAND_BITS) << COMMAND_BITS | self._code
            try:
                self._socket.bind(replyAddress(os.getpid(), token))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue  # another token has another address
                raise
            return token

    def _checkReachable(self) -> None:
        try:
            isReachable = self._target.reaches(replyAddress(os.getpid(), self._token))
        except OSError:
            return  # this cannot be determined
        if not isReachable:
            raise CannotAsk(
                f"process {self._target.pid} is in another network namespace, so its"
                f" answers cannot arrive: {self._target.enter}"
            )

    def close(self) -> None:
        """
        Close the socket: further answers are discarded.
        """
        self._socket.close()

    def run(
        self, timeout: float | None, progress: Callable[[Answer], object]
    ) -> Answer:
        """
        Send the request, and wait for the final answer.

        @param timeout: Seconds to wait for it; C{None} for no limit.
        @param progress: Called with each answer but the final one.
        @return: The final answer.
        @raise TargetEnded: If the daemon has ended before the final answer.
        @raise CannotAsk: If the target does not answer, or not in time.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._target, select.POLLIN)
        again = 0.0
        while True:
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                what = "outcome" if self._acknowledged else "answer"
                raise CannotAsk(f"no {what} within {timeout:g} s")
            if not self._acknowledged and now >= again:
                again = now + (AGAIN if self._send() else BUSY)
            ready = dict(poll.poll(self._milliseconds(now, again, deadline)))
            if self._socket.fileno() in ready:
                answer = self._receive()
                if answer is not None:
                    self._acknowledged = True
                    if answer.exitStatus is not None:
                        return answer
                    progress(answer)
            elif ready:
                raise TargetEnded(f"process {self._target.pid} has ended")

    def _milliseconds(
        self, now: float, again: float, deadline: float | None
    ) -> float | None:
        times = [] if self._acknowledged else [again]
        if deadline is not None:
            times.append(deadline)
        return max(0.0, min(times) - now) * 1000 + 1 if times else None

    def _send(self) -> bool:
        """
        Send the signal, if its value can reach the daemon now.
        """
        if not self._target.canReceive(self._signo):
            return False
        if self._sent == MOST_SENT:
            raise CannotAsk(
                f"process {self._target.pid} has received {signalName(self._signo)},"
                " and does not answer: it is no twistd signalfd, it is still starting,"
                " or it is in another network namespace"
            )
        try:
            sigqueue(self._target.pid, self._signo, self._token)
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise CannotAsk(
                f"process {self._target.pid} cannot be signalled: {reason}"
            ) from None
        self._sent += 1
        return True

    def _receive(self) -> Answer | None:
        """
        Receive a datagram.

        @return: C{None} if it is not the daemon's.
        """
        datagram, ancillary, _, sender = self._socket.recvmsg(
            _LONGEST, socket.CMSG_SPACE(_CREDENTIALS.size)
        )
        # The buffer has room for the credentials alone, which come first.
        ((_, _, credentials),) = ancillary
        pid, _, _ = _CREDENTIALS.unpack(credentials)
        if pid != self._target.pid:
            return None
        # The daemon may have closed its socket, and be about to end.
        with suppress(ConnectionRefusedError):
            self._socket.connect(sender)
        return Answer.parse(datagram)
