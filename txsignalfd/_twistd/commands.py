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

from txsignalfd._children.orphans import childProcesses, isInit
from txsignalfd._children.twistedprocesses import spawnedProcesses
from txsignalfd._dispatch.dispatcher import SignalDispatcher
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


class OwnChildren:
    """
    The children of a command of SIGCHLD, whose exits must not run the command again:
    its shells and their orphans.

    The kernel does not tell whose orphan a child is.  So an orphan of a command is a
    child that Twisted has not started, and that appeared while the command ran, or
    when another orphan of it had ended.
    """

    def __init__(self, dispatcher: SignalDispatcher) -> None:
        """
        @param dispatcher: Receives SIGCHLD.
        """
        #: Those whose exit SIGCHLD has not reported yet.  One SIGCHLD may stand for
        #: several exits and reports one pid: the other pids stay here.
        self._pids: set[int] = set()
        #: The children that are not of the command.
        self._others: set[int] = set()
        self._isRunning = False
        # Not with the command: that waits until an earlier one has ended.
        dispatcher.addHandler(SIGCHLD, self._note)

    def begin(self) -> None:
        """
        Note that a command will be run.
        """
        self._others = _children() - self._pids
        self._isRunning = True

    def add(self, pid: int) -> None:
        """
        Note the shell of the command.
        """
        self._pids.add(pid)

    def end(self) -> None:
        """
        Note that the shell has ended: its children have become orphans.
        """
        self._findOrphans()
        self._isRunning = False

    def _note(self, info: SigInfo) -> None:
        if self._isRunning or info.pid in self._pids:
            self._findOrphans()

    def _findOrphans(self) -> None:
        self._pids |= _children() - self._others - spawnedProcesses().keys()

    def include(self, info: SigInfo) -> bool:
        """
        Return whether a SIGCHLD, which is being handled, reports one of them.
        """
        if info.pid not in self._pids:
            return False
        if info.codeName in ("CLD_EXITED", "CLD_KILLED", "CLD_DUMPED"):
            self._pids.remove(info.pid)
            # It stays a zombie for a while.
            self._others.add(info.pid)
        return True


def _children() -> set[int]:
    """
    Return the children of this process, if it adopts orphans.
    """
    try:
        return childProcesses() if isInit() else set()
    except OSError:
        return set()


class RunCommand:
    """
    A handler that runs a shell command, and logs its output and its failure.

    The children of the command do not count as the signal that started it: with
    C{CHLD=run:COMMAND} each command would otherwise start the next one, and with
    C{PIPE=run:COMMAND} each line that cannot be logged.
    """

    def __init__(
        self, command: str, reactor: Any, own: OwnChildren | None = None
    ) -> None:
        """
        @param command: The command line for C{sh}.
        @param reactor: The reactor.
        @param own: The children of the command, if SIGCHLD runs it.
        """
        self._command = command
        self._reactor = reactor
        self._own = own

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
        end = await self._run()
        if end.signal:
            how = f"was killed by {signalName(end.signal)}"
        elif end.exitCode:
            how = f"exited with status {end.exitCode}"
        else:
            return
        _log.error("{command} {how}", command=self._command, how=how)

    async def _run(self) -> Any:
        running = _Running(self._command, self._reactor)
        argv = ["/bin/sh", "-c", self._command]
        if self._own is None:
            self._reactor.spawnProcess(running, argv[0], argv, os.environ)
            return await running.ended
        self._own.begin()
        try:
            self._reactor.spawnProcess(running, argv[0], argv, os.environ)
            self._own.add(running.pid)
            return await running.ended
        finally:
            self._own.end()

    def _isOwn(self, info: SigInfo) -> bool:
        """
        Return whether a command, or logging its output, has caused the signal.
        """
        if self._own is not None:
            return info.child is not None and self._own.include(info)
        return info.signo in (SIGPIPE, SIGXFSZ) and isFromThisProcess(info)
