"""
A request of the C{txsignalfd} command, and what it does with strange answers.
"""

from __future__ import annotations

import builtins
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from signal import SIGUSR1
from typing import Any

import pytest

from tests.support.daemons import asInit, program, serving
from tests.support.processes import COMMAND, ask, inPidNamespace, runProgram
from tests.support.reactors import DEADLINE
from tests.support.served import write
from txsignalfd._control import command
from txsignalfd._control import request as module
from txsignalfd._control.output import Output
from txsignalfd._control.request import Answer, Request
from txsignalfd._control.target import CannotAsk, Target
from txsignalfd._proc.status import ofProcess
from txsignalfd._twistd.requests import replyAddress


@pytest.fixture
def target() -> Iterator[Target]:
    """
    This process.
    """
    with closing(Target(str(os.getpid()))) as this:
        yield this


@pytest.mark.parametrize(
    ("data", "reason"),
    [("", "not understood"), ("[]", "no JSON object"), ("{}", "of another version")],
)
def test_aStatusThatIsNotUnderstood(data: str, reason: str) -> None:
    """
    Of another version, or of another program.
    """
    with pytest.raises(CannotAsk, match=reason):
        command._showStatus(Answer({"X_JSON": data}), Output("status", asJSON=False))


def test_aSquattedNameIsNotUsed(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Another token is chosen.
    """
    tokens = [1, 2]
    monkeypatch.setattr(secrets, "randbits", lambda bits: tokens.pop(0))
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as squatter:
        squatter.bind(replyAddress(os.getpid(), 1 << 3 | 1))
        with closing(Request(target, SIGUSR1, "reload")) as request:
            assert request._token == 2 << 3 | 1


def test_withoutASocketNothingIsRequested(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The error is that of the system.
    """
    monkeypatch.setattr(module, "replyAddress", lambda pid, token: b"/no/directory")
    with pytest.raises(FileNotFoundError):
        Request(target, SIGUSR1, "reload")


def test_theKernelMayHideTheNamespaces(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Then the request is sent.
    """

    def refuse(path: str, *arguments: Any, **options: Any) -> Any:
        raise PermissionError(path)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", refuse)
        assert target._mayUseThisPackage()
        Request(target, SIGUSR1, "reload").close()


def test_withoutPidfdsNothingIsRequested(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The pid could name another process by the time of the signal.
    """
    monkeypatch.delattr(os, "pidfd_open")
    with pytest.raises(CannotAsk, match="this system has no pidfd_open"):
        Target("1")


def test_withoutPermissionNothingIsRequested(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The message says so.
    """

    def refuse(pid: int, signo: int, value: int) -> None:
        raise PermissionError(1, "sigqueue: Operation not permitted")

    monkeypatch.setattr(module, "sigqueue", refuse)
    with closing(Request(target, SIGUSR1, "rotate")) as request:
        expected = (
            f"^process {os.getpid()} cannot be signalled: Operation not permitted"
        )
        with pytest.raises(CannotAsk, match=expected):
            request.run(DEADLINE, lambda answer: None)


@pytest.mark.parametrize("name", ["_mayUseThisPackage", "_isInInnerNamespace"])
def test_aProcessThatEndsMeanwhileIsNotAsked(
    target: Target, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """
    Its files in C{/proc} cannot be read any more.
    """

    def fail(self: Target) -> bool:
        raise ProcessLookupError(3, "No such process")

    monkeypatch.setattr(Target, name, fail)
    caught = min(ofProcess(target.pid).main.caught)
    with pytest.raises(CannotAsk, match=r"^process \d+: No such process"):
        target.checkCatches(caught)


@pytest.mark.parametrize(
    "busy", [{"shared": {SIGUSR1}}, {"queued": 1, "queueLimit": 1}]
)
def test_aRequestIsSentWhenItCanArrive(
    target: Target, monkeypatch: pytest.MonkeyPatch, busy: dict[str, Any]
) -> None:
    """
    Not while the kernel would merge it, or forget its value.
    """
    sent: list[int] = []
    monkeypatch.setattr(module, "sigqueue", lambda pid, signo, value: sent.append(pid))
    with closing(Request(target, SIGUSR1, "rotate")) as request:
        with monkeypatch.context() as patch:
            status = target._status()._replace(**busy)
            patch.setattr(Target, "_status", lambda _: status)
            assert not request._send()
        assert request._send()
    assert sent == [target.pid]


def test_descriptorsOfOthersAreNotReceived(target: Target) -> None:
    """
    Another process may send some to the socket of the command.
    """
    with closing(Request(target, SIGUSR1, "rotate")) as request:
        address = replyAddress(os.getpid(), request._token)
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sender:
            sender.bind(b"")
            sender.connect(address)
            socket.send_fds(sender, [b"STATUS=here"], [0, 1])
            before = os.listdir("/proc/self/fd")
            answer = request._receive()
            assert os.listdir("/proc/self/fd") == before
    assert answer is not None
    assert answer.text == "here"


def test_fromAnotherNetworkNamespaceNothingIsRequested(tmp_path: Path) -> None:
    """
    The answers could not arrive, and each repetition would be another reload.
    """
    inPidNamespace("true")  # skips the test where that is not permitted
    unshare = ["unshare", "--user", "--map-root-user", "--net"]
    write(tmp_path)
    with serving(tmp_path, "served") as daemon:
        done = runProgram(*unshare, *COMMAND, "reload", str(daemon.pid))
        assert done.returncode == 2, done
        assert "another network namespace" in done.stderr
        daemon.stop()
    assert "reloading" not in daemon.output()


def test_fromAnOuterPidNamespaceNothingIsRequested(tmp_path: Path) -> None:
    """
    The kernel hides the pid of the requester from the daemon.
    """
    write(tmp_path)
    with asInit(tmp_path, "served") as (outer, pid):
        status, _, err = ask("reload", str(pid))
        assert (status, "another pid namespace" in err) == (2, True), err
    assert "reloading" not in outer.output()


def test_theHelpStartsAsAProgram(tmp_path: Path) -> None:
    """
    It ends with status 0.
    """
    with program(tmp_path, *COMMAND, "--help") as helping:
        assert helping.wait() == 0
    assert helping.output().startswith("usage: txsignalfd ")
