"""
A service that cannot start, with a real twistd.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.support.daemons import adoptingOrphans, commandFor, program
from tests.support.freeports import freePort
from tests.support.served import write
from txsignalfd._proc.sender import commandOf
from txsignalfd._twistd.notstarted import _withoutTraceback


def outputOf(directory: Path, *command: str, twistd: tuple[str, ...] = ()) -> str:
    """
    Run C{twistd signalfd}, which exits with 1, and return its output.
    """
    with program(directory, *commandFor(directory, *command, twistd=twistd)) as daemon:
        assert daemon.wait() == 1
        assert not (directory / "twistd.pid").exists()
        return daemon.output()


def test_thePortIsInUse(tmp_path: Path) -> None:
    """
    One line says so, and names the process that uses it.
    """
    with socket.create_server(("127.0.0.1", freePort())) as used:
        port = used.getsockname()[1]
        listen = f"--listen=tcp:{port}:interface=127.0.0.1"
        output = outputOf(tmp_path, "web", listen)
    (line,) = [line for line in output.splitlines() if "not started" in line]
    who = f"pid {os.getpid()} ({commandOf(os.getpid())})"
    assert line.endswith(
        f"] not started: CannotListenError: Couldn't listen on 127.0.0.1:{port}:"
        f" [Errno 98] Address already in use: used by {who}"
    )
    assert output.splitlines()[-1] == line
    assert "Traceback" not in output
    assert "has ended" not in output


def test_aServiceThatListensNowhereAndOnlyLogsItIsNotStarted(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", freePort())) as used:
        address = f"127.0.0.1:{used.getsockname()[1]}"
        write(tmp_path, logging=[f"tcp:{address[10:]}:interface=127.0.0.1"])
        output = outputOf(tmp_path, "served")
    assert f"] not started: CannotListenError: Couldn't listen on {address}" in output


@pytest.mark.parametrize(
    ("listen", "reason"),
    [
        ("ssl:0:privateKey=none.pem", "FileNotFoundError: [Errno 2] No such file or"),
        ("systemd:domain=INET:index=1", "NotInherited: no socket with index 1: syst"),
        ("systemd:domain=INET:name=web", "NotInherited: no socket named 'web': system"),
    ],
)
def test_theServiceCannotBeMade(listen: str, reason: str, tmp_path: Path) -> None:
    """
    Then the log is not opened yet.
    """
    output = outputOf(tmp_path, "web", f"--listen={listen}")
    assert output.startswith(f"twistd signalfd: not started: {reason}")
    assert output.count("\n") == 1


@pytest.mark.parametrize(
    "options", [{"make": "raise"}, {"start": "raise"}, {"start": "fail later"}]
)
def test_theLogFileHasTheTraceback(options: dict[str, str], tmp_path: Path) -> None:
    """
    The output has one line.
    """
    write(tmp_path, **options)
    output = outputOf(tmp_path, "served", twistd=("--logfile=log",))
    log = (tmp_path / "log").read_text()
    reason = "not started: RuntimeError: it was told to raise\n"
    assert f"] {reason}\tTraceback (most" in log
    assert output in (f"twistd signalfd: {reason}", "")
    assert (output == "") == (options.get("start") == "fail later")


@pytest.mark.parametrize("options", [{"make": "raise"}, {"start": "fail"}])
def test_debugShowsTheTraceback(options: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path, **options)
    assert "Traceback" in outputOf(tmp_path, "served", twistd=("--debug",))


def test_theLauncherOfADaemonFails(tmp_path: Path) -> None:
    """
    Twisted shows it the beginning of the reason.
    """
    write(tmp_path, start="raise")
    command = commandFor(tmp_path, "served", foreground=False)
    with adoptingOrphans(), program(tmp_path, *command) as launcher:
        assert launcher.wait() == 1
        assert "NotStarted: RuntimeError: it was told to raise" in launcher.output()
    assert not (tmp_path / "twistd.pid").exists()


def test_otherExceptionsHaveTheirTraceback(capsys: pytest.CaptureFixture[str]) -> None:
    _withoutTraceback("twistd", ValueError, ValueError("another"), None)
    assert capsys.readouterr().err == "ValueError: another\n"
