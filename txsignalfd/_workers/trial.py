# -*- test-case-name: tests.workers.test_upgrading -*-
"""
L{tryProgram}: start the program of a supervisor in a child, to see whether it can.

The child does everything that the program does until its supervisor is made: it
imports Python, Twisted and this package as they are now, parses the command line, and
reads what it would inherit.  It opens no port, log or pidfile, and starts no worker.
"""

from __future__ import annotations

import os
from contextlib import suppress
from signal import SIGKILL
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from txsignalfd._proc.reason import RemoteError
from txsignalfd._reload.transaction import Timer
from txsignalfd._workers.command import Command
from txsignalfd._workers.ending import describeEnd, lastReason
from txsignalfd._workers.inheritance import FILE, OUTCOME, Inheritance

#: Seconds to read the remaining output after the child has ended.
_LINGER: Final = 0.1

#: The most characters of the output that are logged.
_MOST_TEXT: Final = 8000


class _Trial(ProcessProtocol):
    """
    The child.
    """

    transport: Any

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._data = {1: b"", 2: b"", OUTCOME: b""}
        self.failure = ""
        #: Fires with the outcome, or fails with the reason.
        self.ended: Deferred[str] = Deferred(lambda _: self.kill())

    def fail(self, reason: str) -> None:
        self.failure = reason
        self.kill()

    def kill(self) -> None:
        with suppress(Exception):
            self.transport.signalProcess(SIGKILL)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self._data[childFD] += data

    def processExited(self, reason: Failure) -> None:
        # A process that the child has started may keep the pipes open.
        self._reactor.callLater(_LINGER, self.processEnded, reason)

    def processEnded(self, reason: Failure) -> None:
        if self.ended.called:
            return
        if outcome := self._data[OUTCOME].decode():
            self.ended.callback(outcome)
            return
        output = self._data[2].decode(errors="replace")
        how = f"the new program {describeEnd(reason.value)}"
        error = RemoteError(self.failure or lastReason(output) or how)
        error.traceback = output[-_MOST_TEXT:]
        self.ended.errback(Failure(error))


async def tryProgram(
    command: Command, inheritance: Inheritance, seconds: float, reactor: Any
) -> str:
    """
    Start a program in a child, until its supervisor is made.

    @param command: The command.
    @param inheritance: The state that the program would inherit now.
    @param seconds: How long it may take.
    @param reactor: The reactor.
    @return: The versions of the program, for the log.
    @raise RemoteError: The program cannot start.
    @raise OSError: The system refuses.
    """
    trial = _Trial(reactor)
    file = inheritance.write()
    try:
        files = {FILE: file, OUTCOME: "r"}
        command.spawn(trial, Inheritance.trialEnvironment(), files, reactor)
    finally:
        os.close(file)
    text = f"the new program has not started within {seconds:g} s (--start-timeout)"
    timer = Timer(reactor, seconds, lambda: trial.fail(text))
    try:
        return await trial.ended
    finally:
        timer.cancel()
