"""
The C{txsignalfd} command: ask a real daemon, and get its verdict.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from signal import SIGCONT, SIGHUP, SIGSTOP, SIGTERM, SIGUSR2
from typing import Any

import pytest

from tests.support.clients import fetch, tcp
from tests.support.daemons import RELOADED, Program, program, python, serving, waitFor
from tests.support.freeports import freePort
from tests.support.reactors import DEADLINE
from tests.support.served import write
from txsignalfd._control import command
from txsignalfd._control.request import AGAIN, Request
from txsignalfd._control.target import CannotAsk, Target
from txsignalfd._proc.status import ofProcess
from txsignalfd._twistd.requests import replyAddress
from txsignalfd.lowlevel import sigqueue

COMMAND = [sys.executable, "-m", "txsignalfd"]


def ask(*arguments: str) -> tuple[int, str, str]:
    """
    Run the command: its exit status, stdout and stderr.
    """
    done = subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def here(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """
    Run the command in this process.
    """
    status = command.main(arguments)
    return (status, *capsys.readouterr())


@pytest.fixture
def port() -> int:
    """
    A free port.
    """
    return freePort()


@pytest.fixture
def daemon(tmp_path: Path, port: int) -> Iterator[Program]:
    """
    A daemon that serves.
    """
    write(tmp_path, listen=[f"tcp:{port}:interface=127.0.0.1"], body="old")
    with serving(tmp_path, "--drain=1", "--stop-timeout=5", "served") as running:
        yield running
        if running.process.poll() is None:
            # One that is killed saves no coverage.
            running.kill(SIGTERM)
            running.wait()


def test_reloadPrintsTheVerdict(daemon: Program, port: int) -> None:
    """
    The line is the one that the log has, and the new service serves by then.
    """
    write(daemon.directory, listen=[f"tcp:{port}:interface=127.0.0.1"], body="new")
    status, out, err = ask("reload", str(daemon.directory / "twistd.pid"))
    assert (status, err) == (0, "")
    assert out.startswith("reloaded in ")
    assert out.strip() in daemon.output()
    assert fetch(tcp(port)) == b"new"


def test_reloadPrintsTheReasonOfAFailure(daemon: Program, port: int) -> None:
    """
    The exit status is 1, and the old service serves on.
    """
    write(daemon.directory, make="raise")
    status, out, err = ask("reload", str(daemon.pid))
    assert (status, out) == (1, "")
    assert "not reloaded, after " in err
    assert "generation 1 serves on: RuntimeError: it was told to raise" in err
    assert fetch(tcp(port)) == b"old"


def test_everyRequesterGetsAVerdict(daemon: Program) -> None:
    """
    Requests that arrive at the same time may share a reload.
    """
    asking = [
        subprocess.Popen([*COMMAND, "reload", str(daemon.pid)], stdout=subprocess.PIPE)
        for _ in range(20)
    ]
    for each in asking:
        out, _ = each.communicate(timeout=DEADLINE)
        assert each.returncode == 0
        assert out.startswith(b"reloaded in ")


def test_aRepeatedRequestIsDoneOnce(
    daemon: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The daemon recognizes the token, also when the first answers are lost.
    """
    monkeypatch.setattr(Request, "_receive", lose(Request._receive, 3))
    target = Target(str(daemon.pid))
    request = Request(target, SIGHUP, "reload")
    answer = request.run(DEADLINE, lambda answer: None)
    request.close()
    target.close()
    assert answer.exitStatus == 0
    assert daemon.output().count("] reloading: ") == 1


def lose(receive: Any, count: int) -> Any:
    """
    Lose the first answers.
    """
    left = list(range(count))

    def receiveOthers(self: Request) -> Any:
        answer = receive(self)
        return None if left and left.pop() is not None else answer

    return receiveOthers


def test_stopEndsWithTheDaemon(daemon: Program) -> None:
    """
    The exit status is 0 when the daemon has ended.
    """
    assert ask("stop", str(daemon.pid)) == (0, f"process {daemon.pid} has ended\n", "")
    assert daemon.wait() == -SIGTERM


def test_stopShowsWhatDrains(daemon: Program, port: int) -> None:
    """
    The daemon reports the connections that are still open.
    """
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET /go HTTP/1.0\r\n\r\n")
        client.recv(1)
        target = Target(str(daemon.pid))
        request = Request(target, SIGTERM, "stop")
        texts: list[str] = []
        with pytest.raises(CannotAsk, match="no answer within 1 s"):
            request.run(1, lambda answer: texts.append(answer.text))
        request.close()
        target.close()
        assert "stopping: 1 connection drains" in texts
        (daemon.directory / "go").touch()
    assert daemon.wait() == -SIGTERM


def test_rotateTellsWhatWasDone(daemon: Program) -> None:
    """
    Each destination of the log has its outcome.
    """
    assert ask("rotate", str(daemon.pid)) == (0, "stdout: nothing to rotate\n", "")


def test_statusShowsTheDaemon(daemon: Program, port: int) -> None:
    """
    For an operator and, with --json, for a program.
    """
    ask("reload", str(daemon.pid))
    _, text, _ = ask("status", str(daemon.pid))
    assert f"pid {daemon.pid} serves" in text
    assert f"generation 2 serves: 0 connections, tcp:127.0.0.1:{port}" in text
    assert "reloads: 1 done, 0 failed" in text
    _, data, _ = ask("status", "--json", str(daemon.pid))
    status = json.loads(data)
    assert status["generations"][0]["addresses"] == [f"tcp:127.0.0.1:{port}"]
    assert status["reloads"]["last"][0]["outcome"].startswith("reloaded in ")
    assert "delayed calls" not in daemon.output()


def test_aSignalWithAnotherActionIsRefused(tmp_path: Path) -> None:
    """
    No request does what was not requested.
    """
    write(tmp_path)
    with serving(tmp_path, "--on", "HUP=ignore", "served") as daemon:
        expected = "txsignalfd: SIGHUP=ignore, so it does not reload\n"
        assert ask("reload", str(daemon.pid)) == (1, "", expected)


def test_aValueOfAnotherProgramIsNoRequest(daemon: Program) -> None:
    """
    Its signal has the usual action, whatever the value, and however often.
    """
    for count in (1, 2):
        sigqueue(daemon.pid, SIGHUP, 5)
        waitFor(lambda: daemon.output().count(RELOADED) == count, "it reloads")  # noqa: B023
    sigqueue(daemon.pid, SIGUSR2, 4)
    daemon.waitForOutput("delayed calls")
    sigqueue(daemon.pid, SIGTERM, 1)
    assert daemon.wait() == -SIGTERM


def test_aValueOfTheUsersOwnFunctionIsNoRequest(tmp_path: Path) -> None:
    """
    C{--on SIGNAL=call:...} receives every value.
    """
    write(tmp_path)
    on = "USR2=call:tests.support.served.note"
    with serving(tmp_path, "--on", on, "served") as daemon:
        sigqueue(daemon.pid, SIGUSR2, 12)
        daemon.waitForOutput("value 12")


@pytest.mark.parametrize("verb", ["reload", "stop", "rotate", "status"])
def test_aProgramWithoutAHandlerIsNotSignalled(tmp_path: Path, verb: str) -> None:
    """
    A signal would end it.
    """
    with program(tmp_path, "sleep", "1000") as sleeping:
        status, _, err = ask(verb, str(sleeping.pid))
        assert (status, sleeping.process.poll()) == (2, None)
        assert "it is no twistd signalfd that serves" in err


def test_aProgramThatDoesNotAnswerCannotBeAsked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    It receives a few signals at most.
    """
    source = "import signal\nsignal.signal(1, print)\nprint('ready')\n"
    with python(tmp_path, source + "while True: signal.pause()") as other:
        other.waitForOutput("ready")
        status, _, err = here(capsys, "reload", str(other.pid))
        assert status == 2
        assert "does not answer" in err


def test_theTimeIsLimited(daemon: Program, capsys: pytest.CaptureFixture[str]) -> None:
    """
    A daemon that does not look at its signals is not sent more of them.
    """
    daemon.kill(SIGSTOP)
    status, _, err = here(capsys, "reload", str(daemon.pid), f"--timeout={3 * AGAIN}")
    assert (status, err) == (2, "txsignalfd: no answer within 0.6 s\n")
    daemon.kill(SIGCONT)
    daemon.waitForOutput("] reloaded in ")
    assert daemon.output().count("] reloading: ") == 1


def test_aStoppedRequesterCostsNothing(daemon: Program) -> None:
    """
    The daemon neither waits for it nor stops to answer others.
    """
    with subprocess.Popen([*COMMAND, "reload", str(daemon.pid)]) as asking:
        asking.send_signal(SIGSTOP)
        answered = ask("reload", str(daemon.pid))
        asking.send_signal(SIGCONT)
        assert asking.wait(DEADLINE) == 0
    assert answered[0] == 0, answered


def test_onlyTheDaemonIsBelieved(daemon: Program) -> None:
    """
    An answer of another process is discarded, though it knows the address.
    """
    target = Target(str(daemon.pid))
    request = Request(target, SIGHUP, "reload")
    address = replyAddress(os.getpid(), request._token)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as forger:
        forger.sendto(b"STATUS=forged\nX_EXIT_STATUS=0", address)
    answer = request.run(DEADLINE, lambda answer: None)
    request.close()
    target.close()
    assert answer.text.startswith("reloaded in ")


def test_aDaemonThatEndsBeforeItsVerdictIsAFailure(daemon: Program) -> None:
    """
    The exit status is 1.
    """
    daemon.kill(SIGSTOP)
    with subprocess.Popen(
        [*COMMAND, "reload", str(daemon.pid)], stderr=subprocess.PIPE, text=True
    ) as asking:
        waitFor(lambda: SIGHUP in ofProcess(daemon.pid).main.shared, "the signal")
        daemon.process.kill()
        _, err = asking.communicate(timeout=DEADLINE)
    assert (asking.returncode, err) == (
        1,
        f"txsignalfd: process {daemon.pid} has ended\n",
    )


def test_helpNeedsNoTwisted() -> None:
    """
    The command starts quickly.
    """
    source = (
        "import sys\nfrom txsignalfd._control.command import main\n"
        "try:\n    main(['--help'])\nfinally:\n"
        "    assert not {'twisted', 'typing', 'asyncio'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path}\n{source}"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for verb in ("reload", "stop", "rotate", "status", "inspect", "check"):
        assert f"\n    {verb} " in done.stdout


def test_aRequestWaitsForRoomInTheKernelsQueue(daemon: Program) -> None:
    """
    Without it the kernel would deliver the signal, and forget the token.
    """
    limit = resource.prlimit(daemon.pid, resource.RLIMIT_SIGPENDING)
    resource.prlimit(daemon.pid, resource.RLIMIT_SIGPENDING, (0, limit[1]))
    with subprocess.Popen(
        [*COMMAND, "reload", str(daemon.pid)], stdout=subprocess.PIPE, text=True
    ) as asking:
        with pytest.raises(subprocess.TimeoutExpired):
            asking.wait(5 * AGAIN)
        assert "reloading" not in daemon.output()
        resource.prlimit(daemon.pid, resource.RLIMIT_SIGPENDING, limit)
        out, _ = asking.communicate(timeout=DEADLINE)
    assert (asking.returncode, out[:12]) == (0, "reloaded in ")
