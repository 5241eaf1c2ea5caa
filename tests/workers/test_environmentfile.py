"""
C{--environment-file}: variables of the workers, read again at each reload.
"""

from __future__ import annotations

from pathlib import Path
from signal import SIGTERM

import pytest

from tests.support.clients import fetch, tcp
from tests.support.daemons import program, reload
from tests.support.deployed import application, deploy
from tests.support.freeports import freePort
from tests.support.processes import ask
from txsignalfd._workers.environmentfile import parseEnvironment, readEnvironment


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A=1\nB_2 = two words \n", {"A": "1", "B_2": "two words"}),
        ("# A=1\n  ; B=2\n\n# continued \\\nC=3\nD=\n", {"D": ""}),
        ("A='two\nlines' \nB=\" x # \"\n", {"A": "two\nlines", "B": " x # "}),
        (r'A="\"\\\$\n"', {"A": r'"\$\n'}),
        ("A=\"a\" 'b'c d", {"A": "abc d"}),
        ("A=it's \\\n  #1\\ \n", {"A": "it's   #1 "}),
        ('A="a\\\nb"\r\nB=\\a\\\\\r\nA=$HOME', {"A": "$HOME", "B": "a\\"}),
        ("", {}),
    ],
)
def test_theFormatIsThatOfSystemd(text: str, expected: dict[str, str]) -> None:
    """
    With comments, quotes, and lines that are continued; nothing is expanded.
    """
    assert parseEnvironment(text) == expected


@pytest.mark.parametrize(
    "line", ["export A=1", "A", "=1", "1A=1", "A='1", 'A="1', "A='1' \"2"]
)
def test_anotherLineIsRefused(line: str, tmp_path: Path) -> None:
    """
    The error names the file and the line.
    """
    file = tmp_path / "app.env"
    file.write_text(f"# a comment\nB=2\n{line}\n")
    with pytest.raises(ValueError, match=r"/app\.env: line 3: expected NAME=VALUE$"):
        readEnvironment(str(file))


#: Settings of the module with the code.
SETTING = "import os\npage.data = os.environb[b'TEXT']\n"


@pytest.mark.parametrize("more", [[], ["--stop-first"]])
def test_aReloadReadsTheFileAgain(more: list[str], tmp_path: Path) -> None:
    """
    If that is impossible, the reload fails, and the old workers serve on.
    """
    deploy(tmp_path, port := freePort(), b"")
    with (tmp_path / "answers.py").open("a") as module:
        module.write(SETTING)
    file = tmp_path / "app.env"
    file.write_text("TEXT=old")
    options = ["--workers=1", "--spare-workers=0", "--environment-file=app.env"]
    with program(tmp_path, *application(tmp_path, *options, *more)) as daemon:
        daemon.waitForOutput(f"pid {daemon.pid} serves")
        assert fetch(tcp(port)) == b"old"
        file.write_text("TEXT=new")
        reload(daemon)
        assert fetch(tcp(port)) == b"new"
        file.write_text("TEXT")
        status, _, error = ask("reload", str(daemon.pid))
        assert (status, error.endswith("line 1: expected NAME=VALUE\n")) == (1, True)
        assert fetch(tcp(port)) == b"new"
        assert daemon.stop() == -SIGTERM


def test_aCheckHasTheVariables(tmp_path: Path) -> None:
    """
    A worker would have them, too.
    """
    deploy(tmp_path, 0, b"")
    with (tmp_path / "answers.py").open("a") as module:
        module.write(SETTING)
    (library := tmp_path / "library").mkdir()
    (tmp_path / "answers.py").rename(library / "answers.py")
    words = ["signalfd", "--workers=1", "--environment-file=app.env", "-y", "app.tac"]
    assert ask("check", *words, cwd=tmp_path)[0] == 1
    (tmp_path / "app.env").write_text("TEXT=new\nPYTHONPATH=library")
    assert ask("check", *words, cwd=tmp_path)[0] == 0
