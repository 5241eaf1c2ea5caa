"""
Real child processes for tests, started by C{spawnProcess} or by other code.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from shutil import which
from signal import SIGCHLD, SIGKILL
from tempfile import TemporaryFile
from typing import Any

import pytest
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from tests.support import forkserver
from tests.support.reactors import DEADLINE, currentReactor, turn
from txsignalfd import SignalDispatcher

#: A program that does nothing until it is killed.
SLEEP = ["sleep", "1000"]

#: The directory from which a program can import C{tests}.
ROOT = Path(__file__).parent.parent.parent


class Ending(ProcessProtocol):
    """
    Records how its process has ended.
    """

    transport: Any

    def __init__(self) -> None:
        self.reasons: list[Failure] = []
        self.ended: Deferred[None] = Deferred()
        #: The transport forgets it when the process is reaped.
        self.pid = 0

    def connectionMade(self) -> None:
        self.pid = self.transport.pid

    def processExited(self, reason: Failure) -> None:
        self.reasons.append(reason)

    def processEnded(self, reason: Failure) -> None:
        self.reasons.append(reason)
        self.ended.callback(None)

    @property
    def status(self) -> tuple[int | None, int | None]:
        """
        The exit code and the signal, which both methods must have received.
        """
        exited: Any
        ended: Any
        exited, ended = (reason.value for reason in self.reasons)
        assert isinstance(exited, (ProcessDone, ProcessTerminated))
        assert exited.status == ended.status
        return ended.exitCode, ended.signal


def spawn(*command: str, **options: Any) -> Ending:
    """
    Start a process of the reactor, without pipes unless options name some.
    """
    protocol = Ending()
    if not options.get("usePTY"):
        options.setdefault("childFDs", {})
    currentReactor().spawnProcess(
        protocol, command[0], command, env=os.environ, **options
    )
    return protocol


async def ended(*protocols: Ending) -> None:
    """
    Wait until processes have reported their ends.
    """
    await gatherResults([protocol.ended for protocol in protocols])


def kill(*protocols: Ending) -> None:
    """
    Kill processes, and return when all of them are zombies.
    """
    pids = [protocol.transport.pid for protocol in protocols]
    for pid in pids:
        os.kill(pid, SIGKILL)
    for pid in pids:
        untilZombie(pid)


def untilZombie(pid: int) -> None:
    """
    Wait until a child has ended, and do not reap it.
    """
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


@contextmanager
def foreign(*command: str, **options: Any) -> Iterator[int]:
    """
    Start a child without Twisted, with options of C{posix_spawnp}, and kill and reap
    it in the end.
    """
    pid = os.posix_spawnp(command[0], command, os.environ, **options)
    try:
        yield pid
    finally:
        os.kill(pid, SIGKILL)
        os.waitpid(pid, 0)


@contextmanager
def zombie() -> Iterator[int]:
    """
    Start a child without Twisted that is a zombie from the start to the end.
    """
    with foreign("true") as pid:
        untilZombie(pid)
        yield pid
        assert os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)


def runProgram(
    *command: str,
    added: Mapping[str, str] | None = None,
    isFresh: bool = True,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """
    Run a program to its end, and return its output and its status.

    @param added: Variables of its environment, besides those of this process.
    @param isFresh: Whether it needs a fresh interpreter.
    @param options: More options of C{subprocess.run}.
    """
    environment = {**os.environ, **(added or {})}
    server = forkserver.current
    mayFork = not isFresh and options.keys() <= {"cwd"}
    if server and mayFork and server.canRun(command, environment):
        return _runForked(server, command, options.get("cwd", "."), environment)
    run = partial(subprocess.run, check=False, capture_output=True, env=environment)
    return run(command, text=True, timeout=DEADLINE, **options)


def _runForked(
    server: forkserver.ForkServer,
    command: Sequence[str],
    directory: str | Path,
    environment: Mapping[str, str],
) -> subprocess.CompletedProcess[str]:
    with TemporaryFile() as stdout, TemporaryFile() as stderr:
        descriptors = [0, stdout.fileno(), stderr.fileno()]
        process = server.start(command, str(directory), environment, descriptors)
        try:
            status = process.wait(DEADLINE)
        finally:
            process.kill()
        for file in (stdout, stderr):
            file.seek(0)
        return subprocess.CompletedProcess(
            command, status, stdout.read().decode(), stderr.read().decode()
        )


def runPython(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """
    Run Python to its end: see L{runProgram}.
    """
    return runProgram(sys.executable, *arguments, **options)


#: The command C{txsignalfd}.
COMMAND = [sys.executable, "-m", "txsignalfd"]


def ask(*arguments: str, **options: Any) -> tuple[int, str, str]:
    """
    Run the command C{txsignalfd}: its exit status, stdout and stderr.

    @param options: See L{runProgram}.
    """
    done = runProgram(*COMMAND, *arguments, isFresh=False, **options)
    return done.returncode, done.stdout, done.stderr


async def handleSigchld(dispatcher: SignalDispatcher) -> None:
    """
    Have one SIGCHLD handled, after which all living children are known.
    """
    received = dispatcher.whenReceived(SIGCHLD)
    with foreign("true"):
        await received
        await turn()


def inPidNamespace(*command: str, options: Sequence[str] = ()) -> list[str]:
    """
    Return a command that runs another one as the first process of a new pid
    namespace, or skip the test where that is not permitted.

    @param options: More options of unshare(1).
    """
    if which("unshare") is None:
        pytest.skip("there is no unshare(1)")
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", *options]
    possible = runProgram(*unshare, "true")
    if possible.returncode:
        pytest.skip(f"no pid namespaces here: {possible.stderr}")
    return [*unshare, *command]
