# -*- test-case-name: tests.twistd.test_daemonservice -*-
"""
L{runCommand}: run a shell command, and log its output.

The command has ended when its shell has ended, even if its pipes are still open:
a background process of the command may keep them open for ever.
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

#: Seconds to read the remaining output after the shell has ended.
LINGER: Final = 0.25


class _Running(ProcessProtocol):
    """
    Logs the output of a running command, line by line.
    """

    def __init__(self, command: str, reactor: Any) -> None:
        self._command = command
        self._reactor = reactor
        #: The incomplete last line of each descriptor.
        self._partial: dict[int, bytes] = {}
        #: Fires with the exception that describes the end of the shell.
        self.ended: Deferred[Any] = Deferred()

    def connectionMade(self) -> None:
        # Nothing is ever written to the command.
        self.transport.closeStdin()  # type: ignore[union-attr]

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        partial = self._partial.pop(childFD, b"")
        *lines, self._partial[childFD] = (partial + data).split(b"\n")
        for line in lines:
            self._logLine(line)

    def childConnectionLost(self, childFD: int) -> None:
        if partial := self._partial.pop(childFD, b""):
            self._logLine(partial)

    def _logLine(self, line: bytes) -> None:
        text = line.decode(errors="replace")
        _log.info("{command}: {line}", command=self._command, line=text)

    def processExited(self, reason: Failure) -> None:
        self._reactor.callLater(LINGER, self.processEnded, reason)

    def processEnded(self, reason: Failure) -> None:
        if not self.ended.called:
            self.ended.callback(reason.value)


async def runCommand(command: str, reactor: Any) -> None:
    """
    Run a command, and log its output, and an error if it did not succeed.

    @param command: The command line for C{sh}.
    @param reactor: The reactor.
    """
    running = _Running(command, reactor)
    argv = ["/bin/sh", "-c", command]
    reactor.spawnProcess(running, argv[0], argv, os.environ)
    end = await running.ended
    if end.signal:
        how = f"was killed by {signalName(end.signal)}"
    elif end.exitCode:
        how = f"exited with status {end.exitCode}"
    else:
        return
    _log.error("{command} {how}", command=command, how=how)
