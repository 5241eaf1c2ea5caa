# -*- test-case-name: tests.workers.test_upgrading -*-
"""
L{Inheritance}: the state that a program passes on to its successor by execve(2).

The process stays the same: its pid, its children, its open files, its signal mask
and the signals that are pending.  What the new program has to know of them is JSON in
an unnamed file, whose descriptor is in a variable of the environment.  The variable
names the process, so that no child takes it for its own, and is removed when it is
read.

A trial is a child with the same command and the same file.  It ends when it has
understood both: L{Inheritance.endTrial}.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any, Final, NoReturn

from txsignalfd._kernel.mask import reserveBlocked, unreserve
from txsignalfd._reload.sharing import inherit
from txsignalfd._workers.command import Command

_VARIABLE: Final = "TXSIGNALFD_INHERITANCE"

#: The format of the file.  A program refuses another one in its trial.
_FORMAT: Final = 1

#: The descriptors of a trial: the file, and the pipe for the outcome.
FILE, OUTCOME = 3, 4


class Inheritance:
    """
    The state that one program passes on to the next one of the same process.

    @ivar fields: The state, as JSON has it.
    @ivar isTrial: Whether this process is a trial.
    """

    def __init__(
        self, fields: dict[str, Any], descriptors: Sequence[int], isTrial: bool = False
    ) -> None:
        """
        @param fields: The state.
        @param descriptors: The descriptors that are named there.
        @param isTrial: Whether this process is a trial.
        """
        self.fields = fields
        self.isTrial = isTrial
        self._descriptors = descriptors
        self._reserved: frozenset[int] = frozenset()

    def write(self) -> int:
        """
        Write the file.

        @return: Its descriptor.
        @raise OSError: The system refuses.
        """
        fields = {
            "format": _FORMAT,
            "descriptors": list(self._descriptors),
            **self.fields,
        }
        descriptor = os.memfd_create("txsignalfd-inheritance")
        with open(descriptor, "w", encoding="ascii", closefd=False) as file:
            json.dump(fields, file)
        return descriptor

    def execute(self, command: Command, environment: dict[str, str]) -> NoReturn:
        """
        Replace this program.

        @param command: The command of the new program.
        @param environment: Its environment.
        @raise OSError: The system refuses.  Then nothing has changed.
        """
        before = os.open(os.curdir, os.O_PATH | os.O_CLOEXEC)
        file = -1
        try:
            os.chdir(command.directory)
            file = self.write()
            for descriptor in (file, *self._descriptors):
                os.set_inheritable(descriptor, True)
            variable = {_VARIABLE: json.dumps([os.getpid(), file, False])}
            os.execve(command.executable, command.arguments, environment | variable)  # noqa: S606
        finally:
            for descriptor in self._descriptors:
                os.set_inheritable(descriptor, False)
            if file >= 0:
                os.close(file)
            os.fchdir(before)
            os.close(before)

    @staticmethod
    def trialEnvironment() -> dict[str, str]:
        """
        Return the variable of a trial, whose descriptors are 3 and 4.
        """
        return {_VARIABLE: json.dumps([os.getpid(), FILE, True])}

    def takeOver(self) -> None:
        """
        Take over the pending signals and the descriptors of the previous program.
        """
        if self.isTrial:
            os.set_inheritable(OUTCOME, False)
            return
        for descriptor in self._descriptors:
            os.set_inheritable(descriptor, False)
        inherit(*self.fields["inherited"])
        self._reserved = reserveBlocked(self.fields["mask"])

    def release(self) -> None:
        """
        Unblock the signals of L{takeOver} that nothing watches: everything has started.
        """
        unreserve(self._reserved)

    def endTrial(self, outcome: str) -> NoReturn:
        """
        Tell the parent of a trial that the program can start, and end.

        @param outcome: The versions of the program, for the log.
        """
        os.write(OUTCOME, outcome.encode())
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


@cache
def inheritance() -> Inheritance | None:
    """
    Return the state that the previous program has passed on, or C{None}.

    @raise SystemExit: If it is in another format.
    """
    text = os.environ.pop(_VARIABLE, None)
    if text is None:
        return None
    process, descriptor, isTrial = json.loads(text)
    if process != (os.getppid() if isTrial else os.getpid()):
        return None
    with open(descriptor, "rb") as file:
        # A trial shares the file, and its position, with its parent.
        fields = json.loads(os.pread(file.fileno(), os.fstat(descriptor).st_size, 0))
    if fields["format"] != _FORMAT:
        raise SystemExit(
            "this version of txsignalfd cannot read the state that the running version"
            f" passes on (format {fields['format']}): restart the daemon"
        )
    found = Inheritance(fields, fields["descriptors"], isTrial)
    found.takeOver()
    return found
