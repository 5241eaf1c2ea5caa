"""
The sender of a signal, and the terminal of this process.
"""

from __future__ import annotations

import fcntl
import os
import pty
import resource
import signal
import termios
from collections.abc import Callable

import pytest

from tests.support.kernel import inChild
from txsignalfd._proc.sender import (
    commandOf,
    hasTerminal,
    isFromLeader,
    isFromThisProcess,
)
from txsignalfd.siginfo import SigInfo


def inTerminal(function: Callable[[int], object]) -> object:
    """
    Call a function in a process that leads the session of a terminal.

    @param function: Called with the other end of the terminal.
    """

    def lead() -> object:
        os.setsid()
        # The kernel sends it when the terminal closes.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        other, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        os.close(terminal)
        return function(other)

    return inChild(lead)


def test_terminalClosesWithItsOtherEnd() -> None:
    """
    The process has a terminal until then.
    """

    def tell(other: int) -> list[bool]:
        before = hasTerminal()
        os.close(other)
        return [before, hasTerminal()]

    assert inTerminal(tell) == [True, False]


def test_terminalIsAssumedWithoutFreeDescriptors() -> None:
    """
    A lack of descriptors is no reason to stop a program.
    """

    def tell(other: int) -> bool:
        os.close(other)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            return hasTerminal()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert inTerminal(tell) is True


def test_newSessionHasNoTerminal() -> None:
    """
    A daemon has such a session.
    """

    def tell() -> bool:
        os.setsid()
        return hasTerminal()

    assert inChild(tell) is False


def test_endedSenderHasNoCommand() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert commandOf(pid) is None
    with open("/proc/self/comm", encoding="utf-8") as comm:
        assert f"{commandOf(os.getpid())}\n" == comm.read()


@pytest.mark.parametrize(
    ("code", "away", "isLeaders"),
    [
        ("SI_USER", 0, True),
        ("SI_USER", 1, False),
        # With sigqueue, the pid is only a claim.
        ("SI_QUEUE", 0, False),
    ],
)
def test_leaderOfTheSessionIsRecognized(code: str, away: int, isLeaders: bool) -> None:
    """
    Only a pid that the kernel vouches for counts.
    """

    def tell() -> bool:
        os.setsid()
        pid = os.getsid(0) + away
        return isFromLeader(SigInfo.make(signal.SIGHUP, code, pid=pid))

    assert inChild(tell) is isLeaders


@pytest.mark.parametrize(
    ("code", "away", "isOwn"),
    [("SI_USER", 0, True), ("SI_USER", 1, False), ("SI_QUEUE", 0, False)],
)
def test_signalOfThisProcessIsRecognized(code: str, away: int, isOwn: bool) -> None:
    """
    A process that claims our pid is not taken for this one.
    """
    info = SigInfo.make(signal.SIGPIPE, code, pid=os.getpid() + away)
    assert isFromThisProcess(info) is isOwn


def test_kernelLeadsNoSession() -> None:
    assert not isFromLeader(SigInfo.make(signal.SIGHUP, "SI_KERNEL"))


def test_leaderInAnotherPidNamespaceIsNotRecognized(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    Its pid is 0 here, like that of all processes there: pid_namespaces(7).
    """
    monkeypatch.setattr(os, "getsid", lambda pid: 0)
    assert not isFromLeader(SigInfo.make(signal.SIGHUP, "SI_USER", pid=0))
