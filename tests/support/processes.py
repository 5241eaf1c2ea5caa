"""
Real children for tests: of C{spawnProcess}, and of others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from signal import SIGKILL
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

#: A program that does nothing until it is killed.
SLEEP = ["sleep", "1000"]


class Ending(ProcessProtocol):
    """
    Keeps how its process has ended.
    """

    transport: Any

    def __init__(self) -> None:
        self.reasons: list[Failure] = []
        self.ended: Deferred[None] = Deferred()
        #: Its transport has it only until it is reaped.
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
        The exit code and the signal, which both calls have told alike.
        """
        exited: Any
        ended: Any
        exited, ended = (reason.value for reason in self.reasons)
        assert isinstance(exited, (ProcessDone, ProcessTerminated))
        assert exited.status == ended.status
        return ended.exitCode, ended.signal


def spawn(reactor: Any, *command: str, **options: Any) -> Ending:
    """
    Start a process of the reactor, without any pipe unless options say more.
    """
    protocol = Ending()
    if not options.get("usePTY"):
        options.setdefault("childFDs", {})
    reactor.spawnProcess(protocol, command[0], command, env=os.environ, **options)
    return protocol


def kill(*protocols: Ending) -> None:
    """
    Kill processes, and return when all are zombies.
    """
    pids = [protocol.transport.pid for protocol in protocols]
    for pid in pids:
        os.kill(pid, SIGKILL)
    for pid in pids:
        untilZombie(pid)


def untilZombie(pid: int) -> None:
    """
    Wait for the end of a child, and leave its status.
    """
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


@contextmanager
def foreign(*command: str) -> Iterator[int]:
    """
    A child of somebody else than Twisted, who waits for it in the end.
    """
    pid = os.posix_spawnp(command[0], command, os.environ)
    try:
        yield pid
    finally:
        os.kill(pid, SIGKILL)
        os.waitpid(pid, 0)


@contextmanager
def zombie() -> Iterator[int]:
    """
    A child of somebody else, who leaves it lying.
    """
    with foreign("true") as pid:
        untilZombie(pid)
        yield pid
        assert os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
