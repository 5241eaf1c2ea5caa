"""
C{twistd signalfd -y FILE}: an application file with reload on SIGHUP.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from signal import SIGHUP, SIGTERM

import pytest
from twisted.application.service import Application

from tests.support.clients import fetch, tcp
from tests.support.daemons import commandFor, program, reload, serving, waitFor
from tests.support.freeports import freePort

FILE = ["-y", "app.tac"]

TAC = """
import os
from pathlib import Path
from twisted.application.service import Application
from twisted.application.strports import service
from twisted.web.server import Site
from twisted.web.static import Data
from twisted.logger import ILogObserver, textFileLogObserver

page = Data(Path("body").read_bytes(), "text/plain")
page.isLeaf = True
application = Application("example", {uid})
web = service("tcp:{port}:interface=127.0.0.1", Site(page))
web.setServiceParent(application)
if {logs}:
    log = textFileLogObserver(open("own.log", "a", buffering=1))
    application.setComponent(ILogObserver, log)
"""


def write(directory: Path, port: int, logs: bool = False, uid: str = "None") -> None:
    """
    Write an application file.
    """
    (directory / "body").write_text("old")
    (directory / "app.tac").write_text(TAC.format(port=port, logs=logs, uid=uid))


@pytest.mark.parametrize(
    ("twistd", "options"),
    [([], FILE), (FILE, []), (FILE, ["--drain=1"]), (["--python=app.tac"], [])],
)
def test_aReloadRunsTheFileAgain(
    tmp_path: Path, twistd: Sequence[str], options: Sequence[str]
) -> None:
    """
    However the file is named, and without a refused connection.
    """
    port = freePort()
    write(tmp_path, port)
    with serving(tmp_path, *options, twistd=twistd) as daemon:
        assert fetch(tcp(port)) == b"old"
        (tmp_path / "body").write_text("new")
        reload(daemon)
        assert fetch(tcp(port)) == b"new"


def test_aFailureKeepsTheOldServicesServing(tmp_path: Path) -> None:
    """
    The log has the reason.
    """
    port = freePort()
    write(tmp_path, port)
    with serving(tmp_path, *FILE) as daemon:
        (tmp_path / "app.tac").write_text("1 / 0\n")
        daemon.kill(SIGHUP)
        daemon.waitForOutput("generation 1 serves on: ZeroDivisionError: division by")
        assert fetch(tcp(port)) == b"old"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("{}[0]", "KeyError: 0"),
        ("", "app.tac sets no variable named application"),
    ],
)
def test_aBrokenFileEndsTheStart(tmp_path: Path, content: str, reason: str) -> None:
    """
    With the reason in one line, and exit status 1.
    """
    (tmp_path / "app.tac").write_text(content)
    with program(tmp_path, *commandFor(tmp_path, *FILE)) as daemon:
        assert daemon.wait() == 1
        (line,) = daemon.stderr.read_text().splitlines()
        assert reason in line


def test_itsLogObserverIsUsed(tmp_path: Path) -> None:
    """
    As twistd -y uses it.
    """
    write(tmp_path, freePort(), logs=True)
    with program(tmp_path, *commandFor(tmp_path, *FILE)) as daemon:
        own = tmp_path / "own.log"
        serves = f"pid {daemon.pid} serves"
        waitFor(lambda: own.exists() and serves in own.read_text(), "it serves")
        assert "serves" not in daemon.output()
        assert daemon.stop() == -SIGTERM


@pytest.mark.skipif(os.getuid() != 0, reason="only root may change its uid")
def test_itsUidIsUsed(tmp_path: Path) -> None:
    """
    As twistd -y uses it: after the ports are open.
    """
    write(tmp_path, freePort(), uid="65534, 65534")
    tmp_path.chmod(0o777)
    with serving(tmp_path, *FILE) as daemon:
        assert Path(f"/proc/{daemon.pid}").stat().st_uid == 65534


@pytest.mark.parametrize(
    ("twistd", "options"), [([], ["--file=app.tap"]), (["-f", "app.tap"], [])]
)
def test_aPickledApplicationRuns(
    tmp_path: Path, twistd: Sequence[str], options: Sequence[str]
) -> None:
    """
    Of twistd's default file only where it is named.
    """
    (tmp_path / "app.tap").write_bytes(pickle.dumps(Application("example")))
    with serving(tmp_path, *options, twistd=twistd) as daemon:
        reload(daemon)


def test_aFileAndACommandAreRefused(tmp_path: Path) -> None:
    """
    One of them would be ignored.
    """
    with program(tmp_path, *commandFor(tmp_path, "-y", "a.tac", "web")) as daemon:
        assert daemon.wait() == 1
        assert "got a.tac and web" in daemon.output()
