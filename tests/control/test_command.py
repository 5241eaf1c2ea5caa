"""
The C{txsignalfd} command: ask a real daemon, and get its verdict.
"""

from __future__ import annotations

import json
import os
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from signal import SIGCONT, SIGHUP, SIGSTOP, SIGTERM, SIGUSR2
from typing import Any

import pytest

from tests.support.clients import fetch, tcp
from tests.support.daemons import RELOADED, Program, program, python, serving, waitFor
from tests.support.freeports import local
from tests.support.processes import COMMAND, ask, runPython
from tests.support.reactors import DEADLINE
from tests.support.served import write
from txsignalfd._control import command
from txsignalfd._control.arguments import parser
from txsignalfd._control.request import AGAIN, MOST_SENT, Answer, Request
from txsignalfd._control.target import Target
from txsignalfd._proc.status import ofProcess
from txsignalfd._reload.service import LONGEST
from txsignalfd._twistd.requests import replyAddress
from txsignalfd.lowlevel import sigqueue


def here(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """
    Run the command in this process.
    """
    status = command.main(arguments)
    return (status, *capsys.readouterr())


@pytest.fixture
def daemon(tmp_path: Path, port: int) -> Iterator[Program]:
    """
    A daemon that serves.
    """
    write(tmp_path, listen=[local(port)], body="old")
    with serving(tmp_path, "--drain=1", "--stop-timeout=5", "served") as running:
        yield running
        if running.process.poll() is None:
            # One that is killed saves no coverage.
            running.stop()


def test_reloadPrintsTheVerdict(daemon: Program, port: int) -> None:
    """
    The line is the one that the log has, and the new service serves by then.
    """
    write(daemon.directory, listen=[local(port)], body="new")
    status, out, err = ask("reload", str(daemon.directory / "twistd.pid"))
    assert (status, err) == (0, "")
    assert out.startswith("reloaded in ")
    assert out.strip() in daemon.output()
    assert fetch(tcp(port)) == b"new"


def test_reloadPrintsTheReasonOfAFailure(daemon: Program, port: int) -> None:
    """
    The exit status is 1, and the old service serves on.  The answer comes within 0.2 s
    of its line in the log; the best of many, for others use the CPU.
    """
    write(daemon.directory, make="raise")
    status, out, err = ask("reload", str(daemon.pid))
    assert (status, out) == (1, "")
    assert "not reloaded, after " in err
    assert "generation 1 serves on: RuntimeError: it was told to raise" in err
    assert fetch(tcp(port)) == b"old"

    def late() -> float:
        with requesting(daemon, SIGHUP, "reload") as request:
            began = time.monotonic()
            answer = request.run(DEADLINE, lambda answer: None)
        assert answer.exitStatus == 1
        took, _, _ = answer.text.removeprefix("not reloaded, after ").partition(" s: ")
        return time.monotonic() - began - float(took)

    for _ in range(20):
        if (seconds := late()) < 0.2:
            break
        time.sleep(LONGEST)  # the next reload begins after a pause
    assert seconds < 0.2


@contextmanager
def requesting(daemon: Program, signo: int, command: str) -> Iterator[Request]:
    """
    A request that was not sent yet.
    """
    with closing(Target(str(daemon.pid))) as target:
        with closing(Request(target, signo, command)) as request:
            yield request


def test_everyRequesterGetsAVerdict(daemon: Program) -> None:
    """
    A hundred requests at the same time share a few reloads.
    """

    def ask(number: int) -> Answer:
        with requesting(daemon, SIGHUP, "reload") as request:
            return request.run(DEADLINE, lambda answer: None)

    with ThreadPoolExecutor(100) as threads:
        answers = list(threads.map(ask, range(100)))
    assert {answer.exitStatus for answer in answers} == {0}
    assert {answer.text for answer in answers} <= set(
        re.findall(r"reloaded in .*", daemon.output())
    )


def test_aRepeatedRequestIsDoneOnce(
    daemon: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The daemon recognizes the token, also when the first answers are lost.
    """
    monkeypatch.setattr(Request, "_receive", lose(Request._receive, 3))
    with requesting(daemon, SIGHUP, "reload") as request:
        answer = request.run(DEADLINE, lambda answer: None)
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


def test_stopShowsWhatDrains(daemon: Program, port: int) -> None:
    """
    The daemon reports the connections that are still open.  The exit status is 0 when
    it has ended.
    """
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET /go HTTP/1.0\r\n\r\n")
        client.recv(1)
        with subprocess.Popen(
            [*COMMAND, "stop", str(daemon.pid)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as asking:
            assert asking.stderr is not None
            assert asking.stderr.readline() == "stopping: 1 connection drains\n"
            (daemon.directory / "go").touch()
            out, _ = asking.communicate(timeout=DEADLINE)
    assert (asking.returncode, out) == (0, f"process {daemon.pid} has ended\n")
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
    assert f"\n  2 serves: 0 connections, tcp:127.0.0.1:{port}\n" in text
    assert "\nreloads: 1 succeeded, 0 failed\n" in text
    assert "\n  SIGHUP=reload: 1 received\n" in text
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


@pytest.mark.fresh
@pytest.mark.parametrize(
    ("module", "reason", "signals"),
    [
        ("import txsignalfd.lowlevel", "does not answer", MOST_SENT),
        ("", "has not loaded txsignalfd", 0),
    ],
)
def test_aProgramThatDoesNotAnswerCannotBeAsked(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    module: str,
    reason: str,
    signals: int,
) -> None:
    """
    It receives a few signals at most, and none unless it has loaded this package.
    """
    source = (
        f"import signal\n{module}\nsignal.signal(1, lambda *_: print('caught'))\n"
        "print('ready')\nwhile True: signal.pause()"
    )
    with python(tmp_path, source) as other:
        other.waitForOutput("ready")
        status, _, err = here(capsys, "reload", str(other.pid))
        assert status == 2
        assert reason in err
        assert other.output().count("caught") == signals


def test_theTimeIsLimited(daemon: Program, capsys: pytest.CaptureFixture[str]) -> None:
    """
    A daemon that does not handle its signals is not sent more of them.
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
    with (
        requesting(daemon, SIGHUP, "reload") as request,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as forger,
    ):
        address = replyAddress(os.getpid(), request._token)
        forger.sendto(b"STATUS=forged\nX_EXIT_STATUS=0", address)
        answer = request.run(DEADLINE, lambda answer: None)
        assert answer.text.startswith("reloaded in ")
        # From the first answer on, no other process can fill its socket.
        with pytest.raises(PermissionError):
            forger.sendto(b"", address)


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
    why = "before its answer: its log or its stderr may say why"
    assert err == f"txsignalfd: process {daemon.pid} has ended {why}\n"
    assert asking.returncode == 1


def test_helpNeedsNoModule(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    It is what argparse would print, but each of these modules takes long to import.
    """
    source = (
        "import sys\nfrom txsignalfd._control.command import main\n"
        "try:\n    main(['--help'])\nfinally:\n"
        "    unwanted = {'twisted', 'typing', 'argparse', 'signal', 're'}\n"
        "    assert not unwanted & set(sys.modules)\n"
    )
    done = runPython("-S", "-c", f"import sys; sys.path[:] = {sys.path}\n{source}")
    assert (done.returncode, done.stderr) == (0, "")
    monkeypatch.setenv("COLUMNS", "80")
    # Releases of Python align the commands in different columns.
    assert done.stdout.split() == parser().format_help().split()


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
