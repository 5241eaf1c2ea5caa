# -*- test-case-name: tests.workers.test_workers -*-
"""
L{Command}: how the supervisor starts a worker.

A worker is the program of the supervisor again: the same interpreter, options and
arguments, in the directory where they were typed.  So it finds the same modules and
reads the same command line, as the files are then.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

from txsignalfd._reload.sharing import inherited
from txsignalfd._workers.channel import socketPair
from txsignalfd._workers.membership import Membership
from txsignalfd._workers.program import REPLACED, CannotRun, Program, parseInterpreted

#: Runs L{txsignalfd._workers.spare.main} with the C{sys.path} of the program.
_WAIT: Final = """\
import sys; sys.path[:{}] = {}; from txsignalfd._workers.spare import main; main()"""

#: The variables by which systemd addresses one process only.
_OF_SUPERVISOR: Final = (
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
)


@dataclass(frozen=True)
class Command:
    """
    The command of a worker.

    @ivar directory: The directory where it starts, as the shell names it: a symbolic
        link in it is followed at each start.
    @ivar executable: The interpreter.
    @ivar arguments: The arguments, the name of the program first.
    @ivar variables: What C{--environment-file} adds to the environment.
    """

    directory: str
    executable: str = field(default_factory=lambda: sys.executable)
    arguments: list[str] = field(default_factory=lambda: list(sys.orig_argv))
    variables: dict[str, str] = field(default_factory=dict)

    def ownEnvironment(self) -> dict[str, str]:
        """
        Return the environment of the supervisor, for its next program.
        """
        return {**os.environ, "PWD": self.directory}

    def environment(self) -> dict[str, str]:
        """
        Return the environment of the supervisor, without variables for it alone.
        """
        own = {
            name: value
            for name, value in os.environ.items()
            if name not in _OF_SUPERVISOR
        }
        return own | self.variables | {"PWD": self.directory}

    def program(self) -> Program | None:
        """
        Return the Python program that it runs, or C{None} if it runs none.

        Call it in the directory of the command.
        """
        python, *words = self.arguments
        if getattr(sys, "frozen", False):
            # The interpreter is part of the program, and runs nothing else.
            return None
        with suppress(CannotRun):
            return parseInterpreted(python, words)
        return None

    def spare(self, program: Program) -> Command:
        """
        Return the command that waits before the program.
        """
        directories = program.directories(os.path.realpath(self.directory))
        code = _WAIT.format(REPLACED, directories)
        python, *_ = self.arguments
        words = [*program.interpreter, "-c", code, *program.words]
        return replace(self, arguments=[python, *words])

    def conditions(self) -> Any:
        """
        Return the state that a process would inherit from the supervisor now.
        """
        directory = None
        with suppress(OSError):
            found = os.stat(self.directory)
            directory = found.st_dev, found.st_ino
        return self.environment(), directory, inherited()

    def start(self, protocol: Any, number: int, reactor: Any) -> socket.socket:
        """
        Start a process.

        @param protocol: The C{IProcessProtocol} of the process.
        @param number: The number of the worker, or 0 for a spare one.
        @param reactor: The reactor.
        @return: The supervisor's end of a channel to the process.
        @raise OSError: If the system has no process or descriptor left.
        """
        descriptors, names = inherited()
        end = max([2, *descriptors]) + 1
        place = Membership(number, os.getpid(), end, descriptors, names)
        mine, other = socketPair()
        files = {end: other.fileno(), **{fd: fd for fd in descriptors}}
        try:
            with other:
                self.spawn(protocol, place.variables(), files, reactor)
        except BaseException:
            mine.close()
            raise
        return mine

    def spawn(
        self,
        protocol: Any,
        variables: dict[str, str],
        files: Mapping[int, Any],
        reactor: Any,
    ) -> None:
        """
        Start a process that has no input, and whose output is read.

        @param protocol: The C{IProcessProtocol} of the process.
        @param variables: What its environment has besides.
        @param files: Its other descriptors, as C{childFDs} of C{reactor.spawnProcess}.
        @param reactor: The reactor.
        @raise OSError: If the system has no process or descriptor left.
        """
        null = os.open(os.devnull, os.O_RDONLY)
        try:
            reactor.spawnProcess(
                protocol,
                self.executable,
                self.arguments,
                self.environment() | variables,
                self.directory,
                childFDs={0: null, 1: "r", 2: "r", **files},
            )
        finally:
            os.close(null)
