# -*- test-case-name: tests.workers.test_workers -*-
"""
L{Command}: how the supervisor starts a worker.

A worker is the program of the supervisor again: the same interpreter, options and
arguments, in the directory where they were typed.  So it finds the same modules and
reads the same command line, as the files are then.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from typing import Final

#: What systemd tells one process only: its main process, and its descriptors.
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
    """

    directory: str
    executable: str = field(default_factory=lambda: sys.executable)
    arguments: list[str] = field(default_factory=lambda: list(sys.orig_argv))

    def ownEnvironment(self) -> dict[str, str]:
        """
        Return the environment of the supervisor, for its next program.
        """
        return {**os.environ, "PWD": self.directory}

    def environment(self) -> dict[str, str]:
        """
        Return the environment of the supervisor, without what is for it alone.
        """
        own = {
            name: value
            for name, value in os.environ.items()
            if name not in _OF_SUPERVISOR
        }
        return own | {"PWD": self.directory}
