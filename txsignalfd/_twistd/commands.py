# -*- test-case-name: tests.twistd.test_daemonservice -*-
"""
L{runCommand}: a command of the shell, whose output goes to the log.

It is over when the shell has ended, and not when its pipes have: what it has
left in the background keeps these open, and may do so for ever.
"""

from __future__ import annotations

import os
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from txsignalfd._native.names import signalName

_log: Final = Logger("txsignalfd.commands")


#: Seconds in which the rest of its output is read, when the shell has ended.
REST: Final = 0.25


class _Running(ProcessProtocol):
    """
    A command that runs.
    """

    def __init__(self, command: str, reactor: Any) -> None:
        self._command = command
        self._reactor = reactor
        self._begun: dict[int, bytes] = {}
        #: Fires with how it ended.
        self.over: Deferred[Any] = Deferred()

    def connectionMade(self) -> None:
        # There is nobody who would write to it.
        self.transport.closeStdin()  # type: ignore[union-attr]

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        begun = self._begun.pop(childFD, b"")
        *lines, self._begun[childFD] = (begun + data).split(b"\n")
        for line in lines:
            self._tell(line)

    def childConnectionLost(self, childFD: int) -> None:
        if begun := self._begun.pop(childFD, b""):
            self._tell(begun)

    def _tell(self, line: bytes) -> None:
        text = line.decode(errors="replace")
        _log.info("{command}: {line}", command=self._command, line=text)

    def processExited(self, reason: Failure) -> None:
        self._reactor.callLater(REST, self.processEnded, reason)

    def processEnded(self, reason: Failure) -> None:
        if not self.over.called:
            self.over.callback(reason.value)


async def runCommand(command: str, reactor: Any) -> None:
    """
    Run a command, and log what it prints, and how it ended if that was not well.

    @param command: For C{sh}.
    @param reactor: The reactor.
    """
    running = _Running(command, reactor)
    argv = ["/bin/sh", "-c", command]
    reactor.spawnProcess(running, argv[0], argv, os.environ)
    end = await running.over
    if end.signal:
        how = f"was ended by {signalName(end.signal)}"
    elif end.exitCode:
        how = f"exited with status {end.exitCode}"
    else:
        return
    _log.error("{command} {how}", command=command, how=how)
