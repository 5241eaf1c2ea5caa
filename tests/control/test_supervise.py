"""
C{txsignalfd supervise}, as a command.
"""

from __future__ import annotations

import os
from argparse import Namespace
from errno import EPERM
from pathlib import Path
from signal import SIGTERM

import pytest

from tests.support.daemons import program, waitFor
from tests.support.freeports import freePort
from tests.support.processes import runProgram
from tests.support.supervised import RUN, command, write
from txsignalfd._control.arguments import parser
from txsignalfd._control.supervise import _arguments, _shedPrivileges, _user


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "txsignalfd supervise: expected a program\n"),
        (["--", "sh", "run"], "no Python program"),
        (
            ["--workers=0", "twistd"],
            "txsignalfd supervise: --workers: expected a number",
        ),
        (["--uid=no-such-user", "twistd"], "no-such-user"),
        (["--drain=x", "twistd"], "--drain: expected a number of seconds"),
    ],
)
def test_aWrongCommandLineIsRefused(
    words: list[str], reason: str, tmp_path: Path
) -> None:
    """
    With the reason, and status 2.
    """
    done = runProgram(*command(*words), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="only root may change its gid")
def test_theSupervisorKeepsThePidfileTheLogAndThePrivileges(tmp_path: Path) -> None:
    """
    The program has another group, and arguments that look like options of ours.
    """
    main = "print(os.getgid(), sys.argv)\n" + RUN
    write(tmp_path, main, freePort(), b"")
    options = ["--pidfile=its.pid", "--logfile=its.log", "--gid=65534", "--drain=1"]
    line = command(*options, "--", "python", "main.py", "--drain", "--", "x")
    with program(tmp_path, *line) as running:
        log = tmp_path / "its.log"
        for text in ("serves", "1: 65534 ['main.py', '--drain', '--', 'x']"):
            waitFor(lambda: log.exists() and text in log.read_text(), text)  # noqa: B023
        assert (tmp_path / "its.pid").read_text() == str(running.pid)
        assert running.stop() == -SIGTERM
        assert not (tmp_path / "its.pid").exists()


def test_optionsArePassedToTwistd() -> None:
    """
    Except those that are not given.
    """
    line = "supervise --stop-first --workers=2 --on=HUP=stop -- python main.py --watch"
    given = _arguments(parser().parse_args(line.split()))
    assert given == ["--on=HUP=stop", "--stop-first", "--workers=2"]


def test_theGroupIsThatOfTheUser() -> None:
    """
    If it is not given.
    """
    assert _user(Namespace(uid="root", gid=None)) == (0, 0)
    assert _user(Namespace(uid=None, gid="0")) == (None, 0)


def test_aUserThatCannotBeChangedIsReported(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    With the names of the options.
    """

    def switchUID(uid: int | None, gid: int | None) -> None:
        raise PermissionError(EPERM, os.strerror(EPERM))

    monkeypatch.setattr("twisted.python.util.switchUID", switchUID)
    with pytest.raises(SystemExit, match="Operation not permitted"):
        _shedPrivileges(Namespace(uid=None, gid="0"))
