"""
C{txsignalfd check}: what a start or a reload would say of a configuration.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.reactors import DEADLINE

TAC = """
from twisted.application.service import Application, Service
application = Application("example")
Service().setServiceParent(application)
"""


def check(directory: Path, *arguments: str) -> tuple[int, str, str]:
    """
    Check a command line in a directory: exit status, stdout and stderr.
    """
    done = subprocess.run(
        [sys.executable, "-m", "txsignalfd", "check", *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["web", "--path=."],
        ["signalfd", "web", "--path=."],
        ["-n", "--pidfile=x.pid", "--logfile=x.log", "web", "--path=."],
        ["-y", "app.tac"],
        ["-ny", "app.tac"],
    ],
)
def test_aGoodConfigurationLeavesNoTrace(tmp_path: Path, arguments: list[str]) -> None:
    """
    The exit status is 0, and no file was written.
    """
    (tmp_path / "app.tac").write_text(TAC)
    before = sorted(tmp_path.iterdir())
    status, out, err = check(tmp_path, *arguments)
    assert (status, err) == (0, "")
    assert out.endswith(": no error found; it was made, and not started\n")
    assert sorted(tmp_path.iterdir()) == before


def test_aPortInUseIsNoMatterOfTheConfiguration(tmp_path: Path) -> None:
    """
    The daemon that serves has it.
    """
    with socket.create_server(("127.0.0.1", 0)) as used:
        endpoint = f"tcp:{used.getsockname()[1]}:interface=127.0.0.1"
        assert check(tmp_path, "web", f"--listen={endpoint}", "--path=.")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["web", "--nonsense"], "option --nonsense not recognized"),
        (["web", "--listen=nonsense:1"], "nonsense"),
        (["web", "--listen=ssl:0:privateKey=missing.pem"], "missing.pem"),
        (["-y", "missing.tac"], "missing.tac"),
        (["-y", "syntax.tac"], "SyntaxError"),
        (["-y", "raises.tac"], "ZeroDivisionError: division by zero"),
        (["-y", "empty.tac"], "empty.tac sets no variable named application"),
        (["nosuchplugin"], "nosuchplugin"),
    ],
)
def test_aBrokenConfigurationIsRefusedInOneLine(
    tmp_path: Path, arguments: list[str], reason: str
) -> None:
    """
    The exit status is 1, and the line has the reason.
    """
    (tmp_path / "syntax.tac").write_text("def\n")
    (tmp_path / "raises.tac").write_text("1 / 0\n")
    (tmp_path / "empty.tac").write_text("\n")
    status, out, err = check(tmp_path, *arguments)
    assert (status, out) == (1, "")
    assert err.startswith("txsignalfd check: ")
    assert reason in err
    assert err.count("\n") == 1
