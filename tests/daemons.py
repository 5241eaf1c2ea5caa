"""
Real programs for tests: started, watched and ended with a deadline.
"""

from __future__ import annotations

import ctypes
import os
import select
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.reactors import DEADLINE

#: The twistd of this environment.
TWISTD = str(Path(sysconfig.get_path("scripts"), "twistd"))

_PR_SET_CHILD_SUBREAPER = 36


def waitFor(condition: Callable[[], object], what: str) -> None:
    """
    Wait until something outside this process is so.
    """
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"the deadline has passed: {what}"
        select.select([], [], [], 0.005)


class Program:
    """
    A program in a directory of its own, with its output in files.
    """

    def __init__(self, directory: Path, *command: str) -> None:
        self.directory = directory
        self.stdout = directory / "stdout"
        self.stderr = directory / "stderr"
        with self.stdout.open("wb") as out, self.stderr.open("wb") as err:
            self.process = subprocess.Popen(
                command,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        self.pid = self.process.pid

    def output(self) -> str:
        """
        What it has said so far.
        """
        return self.stdout.read_text() + self.stderr.read_text()

    def waitForOutput(self, text: str) -> None:
        """
        Wait until it has said something.
        """
        waitFor(
            lambda: text in self.output() or self.process.poll() is not None,
            f"{text!r} in {self.output()}",
        )
        assert text in self.output(), self.output()

    def kill(self, signo: int) -> None:
        """
        Send it a signal, as kill(1) does.
        """
        os.kill(self.pid, signo)

    def wait(self) -> int:
        """
        Wait for its end, and tell its status, negative for a signal.
        """
        return self.process.wait(DEADLINE)


@contextmanager
def program(directory: Path, *command: str) -> Iterator[Program]:
    """
    Run a program, and see that it is gone in the end.
    """
    running = Program(directory, *command)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait(DEADLINE)


@contextmanager
def python(directory: Path, source: str) -> Iterator[Program]:
    """
    Run a Python program.
    """
    with program(directory, sys.executable, "-c", source) as running:
        yield running


@contextmanager
def adoptingOrphans() -> Iterator[None]:
    """
    A daemon becomes our child, whose end we can wait for: see
    PR_SET_CHILD_SUBREAPER in prctl(2).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        yield
    finally:
        assert libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) == 0
        # What forked once more to become a daemon.
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)
