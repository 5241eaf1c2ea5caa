"""
Run real programs in tests, each with a deadline.
"""

from __future__ import annotations

import ctypes
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from signal import SIGHUP, SIGKILL, SIGTERM

from tests.support import forkserver
from tests.support.forkserver import TWISTD, ForkedProcess, freshInterpreters
from tests.support.processes import inPidNamespace
from tests.support.reactors import DEADLINE
from txsignalfd._proc.status import ofProcess

_PR_SET_CHILD_SUBREAPER = 36


def hasEnded(pid: int) -> bool:
    """
    Whether a process has ended, also if it is not reaped.

    Where these tests are the first process of a container, nothing reaps orphans.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(") ")[2].startswith("Z")


def waitFor(condition: Callable[[], object], what: str) -> None:
    """
    Wait until a condition outside this process is true.
    """
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"the deadline has passed: {what}"
        select.select([], [], [], 0.005)


def caught(pid: int) -> frozenset[int]:
    """
    Return the signals that a process catches.
    """
    return ofProcess(pid).main.caught


class Program:
    """
    A program that runs in a directory, with its output in files there.
    """

    def __init__(self, directory: Path, *command: str) -> None:
        self.directory = directory
        self.stdout = directory / "stdout"
        self.stderr = directory / "stderr"
        with (
            open(os.devnull, "rb") as null,
            self.stdout.open("wb") as out,
            self.stderr.open("wb") as err,
        ):
            files = [null.fileno(), out.fileno(), err.fileno()]
            self.process = _start(command, directory, files)
        self.pid = self.process.pid

    def output(self) -> str:
        """
        Return the output so far.
        """
        return self.stdout.read_text() + self.stderr.read_text()

    def waitForOutput(self, text: str) -> None:
        """
        Wait until the output contains a text.
        """
        waitFor(
            lambda: text in self.output() or self.process.poll() is not None,
            f"{text!r} in {self.output()}",
        )
        assert text in self.output(), self.output()

    def kill(self, signo: int) -> None:
        """
        Send a signal, as kill(1) does.
        """
        os.kill(self.pid, signo)

    def wait(self) -> int:
        """
        Wait for the end, and return the status, which is negative for a signal.
        """
        return self.process.wait(DEADLINE)

    def stop(self) -> int:
        """
        Stop it by SIGTERM, and return its status.
        """
        self.kill(SIGTERM)
        return self.wait()


def _start(
    command: Sequence[str], directory: Path, files: Sequence[int]
) -> subprocess.Popen[bytes] | ForkedProcess:
    # SIGTSTP stops no process of an orphaned group, as ours may be: it gets its own.
    words, environment = _withoutEnv(command)
    server = forkserver.current
    if server and server.canRun(words, environment):
        return server.start(words, str(directory), environment, files, ownGroup=True)
    return subprocess.Popen(
        command,
        cwd=directory,
        stdin=files[0],
        stdout=files[1],
        stderr=files[2],
        preexec_fn=os.setpgrp,
        close_fds=False,
    )


def _withoutEnv(command: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """
    Return what env(1) executes for a command, and its environment.
    """
    words, environment = list(command), dict(os.environ)
    if words[0] == "env":
        words.pop(0)
        while "=" in words[0]:
            name, _, value = words.pop(0).partition("=")
            environment[name] = value
    return words, environment


@contextmanager
def program(directory: Path, *command: str) -> Iterator[Program]:
    """
    Run a program, and kill it in the end.
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
    Run a Python program with unbuffered output, which may import C{tests.support}.
    """
    with program(directory, *_ENV, sys.executable, "-u", "-c", source) as running:
        yield running


def startedWith(
    ignored: Collection[int] = (), blocked: Collection[int] = ()
) -> list[str]:
    """
    Return a command that ignores and blocks signals, and executes another one.
    """
    source = (
        "import os, signal, sys\n"
        f"for signo in {list(map(int, ignored))}:\n"
        "    signal.signal(signo, signal.SIG_IGN)\n"
        f"signal.pthread_sigmask(signal.SIG_BLOCK, {list(map(int, blocked))})\n"
        "os.execvp(sys.argv[1], sys.argv[1:])"
    )
    # Without the modules of the environment: coverage would measure nothing.
    return [sys.executable, "-S", "-c", source]


@contextmanager
def serving(
    directory: Path,
    *command: str,
    twistd: Collection[str] = (),
    before: Collection[str] = (),
) -> Iterator[Program]:
    """
    Run C{twistd -n signalfd}, wait until its service serves, and check in the end
    that SIGTERM stops it if it still runs.

    @param command: The arguments after C{signalfd}.
    @param twistd: The options of twistd itself.
    @param before: A command that executes twistd, such as env(1).
    """
    whole = commandFor(directory, *command, twistd=twistd)
    with program(directory, *before, *whole) as running:
        running.waitForOutput(f"pid {running.pid} serves")
        yield running
        if running.process.poll() is None:
            assert running.stop() == -SIGTERM


def commandFor(
    directory: Path,
    *command: str,
    twistd: Collection[str] = (),
    foreground: bool = True,
) -> list[str]:
    """
    Write the plugin of L{tests.support.served} into a directory, and return the
    command of C{twistd signalfd} there.
    """
    _writePlugin(directory)
    where = ["-n"] if foreground else []
    return [*_ENV, TWISTD, *where, *twistd, "signalfd", *command]


#: Adds the directories of the plugin, and of the module that it names.
_ENV = ["env", f"PYTHONPATH=.:{Path(__file__).parent.parent.parent}"]


def _writePlugin(directory: Path) -> None:
    plugins = directory / "twisted" / "plugins"
    plugins.mkdir(parents=True, exist_ok=True)
    plugins.joinpath("served_plugin.py").write_text(
        "from twisted.application.service import ServiceMaker\n"
        "import tests.support.measured\n"
        "served = ServiceMaker('served', 'tests.support.served', 'For tests.',"
        " 'served')\n"
    )


def childrenOf(pid: int) -> list[int]:
    """
    Return the children of a process with one thread.
    """
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in children.read_text().split()]


@contextmanager
def asInit(
    directory: Path,
    *command: str,
    unshare: Sequence[str] = (),
    until: Callable[[Program], object] | None = None,
    pidfile: str = "",
) -> Iterator[tuple[Program, int]]:
    """
    Run a daemon as the first process of a pid namespace.

    @param unshare: More options of unshare(1).
    @param until: Waits for the daemon; by default until it serves.
    @return: The program that starts it, and its pid outside of the namespace.
    """
    twistd = commandFor(directory, *command, twistd=[f"--pidfile={pidfile}"])
    whole = inPidNamespace(*twistd, options=["--kill-child", *unshare])
    with program(directory, *whole) as outer:
        if until is None:
            outer.waitForOutput("pid 1 serves")
        else:
            until(outer)
        (pid,) = childrenOf(outer.pid)
        yield outer, pid


def reload(daemon: Program, count: int = 1) -> None:
    """
    Reload a daemon, several times in a row.
    """
    done = daemon.output().count(RELOADED)
    for number in range(1, count + 1):
        daemon.kill(SIGHUP)
        waitFor(
            lambda: daemon.output().count(RELOADED) == done + number,  # noqa: B023
            f"reload {number} of {daemon.output()[-2000:]}",
        )


#: Part of the line that is logged after each reload.
RELOADED = "] reloaded in "


@contextmanager
def adoptingOrphans() -> Iterator[None]:
    """
    Adopt daemons as children of this process, by PR_SET_CHILD_SUBREAPER.

    Daemons that a failed test leaves are killed, so that the tests go on.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        with freshInterpreters():
            yield
        # The daemon, and the intermediate process of its double fork.
        waitFor(_childrenHaveEnded, "the end of the daemon")
    finally:
        # The children of a process that is killed are adopted, and are killed, too.
        while not _childrenHaveEnded():
            for pid in childrenOf(os.getpid()):
                os.kill(pid, SIGKILL)
        assert libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) == 0


def _childrenHaveEnded() -> bool:
    """
    Reap the children that have ended, and return whether no other is left.
    """
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        return True
    return False


def endOf(pid: int) -> int:
    """
    Wait for the end of an adopted daemon, and return its status as waitpid(2)
    does.
    """

    def ended() -> bool:
        try:
            return (
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
                is not None
            )
        except ChildProcessError:
            # Not adopted yet: its parent is still saving its coverage.
            return False

    waitFor(ended, f"the end of {pid}")
    return os.waitpid(pid, 0)[1]
