# -*- test-case-name: tests.twistd.test_daemonservice -*-
"""
L{RunCommand}: the action C{run:COMMAND}, a shell command whose output is logged.

The command has ended when its shell has ended, even if its pipes are still open:
a background process of the command may keep them open for ever.
"""

from __future__ import annotations

import os
from signal import SIGCHLD, SIGPIPE, SIGXFSZ
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from txsignalfd._native.names import signalName
from txsignalfd._proc.sender import describeWithCommand, isFromThisProcess
from txsignalfd.siginfo import SigInfo

_log: Final = Logger("txsignalfd.commands")

#: Seconds to read the remaining output after the shell has ended.
LINGER: Final = 0.25

#: The most bytes of a line.  A longer line is logged in pieces of this size.
LONGEST_LINE: Final = 8192


class _Running(ProcessProtocol):
    """
    Logs the output of a running command, line by line.
    """

    transport: Any
    #: The pid of the shell.  The transport forgets it when the shell has ended.
    pid: int

    def __init__(self, command: str, reactor: Any) -> None:
        self._command = command
        self._reactor = reactor
        #: The incomplete last line of each descriptor.
        self._partial: dict[int, bytes] = {}
        #: Fires with the exception that describes the end of the shell.
        self.ended: Deferred[Any] = Deferred()

    def connectionMade(self) -> None:
        self.pid = self.transport.pid
        # Nothing is ever written to the command.
        self.transport.closeStdin()

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        *lines, rest = (self._partial.pop(childFD, b"") + data).split(b"\n")
        for line in lines:
            self._logLine(line)
        while len(rest) > LONGEST_LINE:
            self._logLine(rest[:LONGEST_LINE])
            rest = rest[LONGEST_LINE:]
        self._partial[childFD] = rest

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


class RunCommand:
    """
    A handler that runs a shell command, and logs its output and its failure.

    The children of the command do not count as the signal that started it: with
    C{CHLD=run:COMMAND} each command would otherwise start the next one, and with
    C{PIPE=run:COMMAND} each line that cannot be logged.
    """

    def __init__(self, command: str, reactor: Any) -> None:
        """
        @param command: The command line for C{sh}.
        @param reactor: The reactor.
        """
        self._command = command
        self._reactor = reactor
        #: The shells whose end was not reported by SIGCHLD.  SIGCHLD may report
        #: another child in their place: then a number stays here.
        self._pids: set[int] = set()

    def __repr__(self) -> str:
        return f"run:{self._command}"

    async def __call__(self, info: SigInfo) -> None:
        """
        Run the command.
        """
        if self._isOwn(info):
            return
        _log.info(
            "{signal}: running {command}",
            signal=describeWithCommand(info),
            command=self._command,
        )
        running = _Running(self._command, self._reactor)
        argv = ["/bin/sh", "-c", self._command]
        self._reactor.spawnProcess(running, argv[0], argv, os.environ)
        if info.signo == SIGCHLD:
            self._pids.add(running.pid)
        end = await running.ended
        if end.signal:
            how = f"was killed by {signalName(end.signal)}"
        elif end.exitCode:
            how = f"exited with status {end.exitCode}"
        else:
            return
        _log.error("{command} {how}", command=self._command, how=how)

    def _isOwn(self, info: SigInfo) -> bool:
        """
        Return whether a command, or logging its output, has caused the signal.
        """
        child = info.child
        if child is None:
            return info.signo in (SIGPIPE, SIGXFSZ) and isFromThisProcess(info)
        if child.pid not in self._pids:
            return False
        if info.codeName in ("CLD_EXITED", "CLD_KILLED", "CLD_DUMPED"):
            self._pids.remove(child.pid)
        return True
