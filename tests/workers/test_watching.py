"""
C{--watch}: a change of the code reloads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from signal import SIGTERM
from types import SimpleNamespace

import pytest
from twisted.internet.task import Clock

from tests.support.clients import fetch, tcp
from tests.support.daemons import program, waitFor
from tests.support.deployed import application, deploy
from tests.support.freeports import freePort
from txsignalfd._twistd import watching
from txsignalfd._twistd.plugins import FileState
from txsignalfd._twistd.watching import INTERVAL, Watch


def test_aChangedModuleReloads(tmp_path: Path) -> None:
    """
    A syntax error keeps the old code serving, and is shown; its correction reloads.
    """
    port = freePort()
    deploy(tmp_path, port, b"old")
    command = application(tmp_path, "--workers=1", "--watch")
    with program(tmp_path, *command) as daemon:
        daemon.waitForOutput(f"pid {daemon.pid} serves")
        (tmp_path / "answers.py").write_text("page = (\n")
        daemon.waitForOutput("answers.py has changed: reloading")
        daemon.waitForOutput("serves on: SyntaxError: '(' was never closed")
        assert fetch(tcp(port)) == b"old"
        deploy(tmp_path, port, b"new")
        waitFor(lambda: fetch(tcp(port)) == b"new", "the new code answers")
        assert daemon.stop() == -SIGTERM


class Changes:
    """
    A watch of a directory, and what it reports.
    """

    def __init__(self, *paths: Path) -> None:
        self.clock = Clock()
        self.reports: list[list[str]] = []
        watch = Watch(list(map(str, paths)), self.reports.append, self.clock)
        watch.start()

    def after(self, looks: int) -> list[list[str]]:
        """
        Return what is reported after some looks.
        """
        self.clock.pump([INTERVAL] * looks)
        reports, self.reports[:] = self.reports[:], []
        return reports


def test_filesOfADirectoryAreWatched(tmp_path: Path) -> None:
    """
    New ones, changed ones and those that are removed, when nothing changes for a
    moment.
    """
    changes = Changes(tmp_path)
    below = tmp_path / "below"
    below.mkdir()
    file = below / "settings.json"
    assert changes.after(3) == []
    file.write_text("1")
    assert changes.after(1) == []
    file.write_text("22")
    assert changes.after(1) == []
    assert changes.after(3) == [[str(file)]]
    file.unlink()
    assert changes.after(3) == [[str(file)]]


@pytest.mark.parametrize("name", [".hidden", "copy~", "__pycache__/x.pyc", ".git/HEAD"])
def test_someFilesAreNoProgram(name: str, tmp_path: Path) -> None:
    """
    Those of editors, version control and the interpreter.
    """
    changes = Changes(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("text")
    assert changes.after(3) == []


def test_aLinkedDirectoryIsWatched(tmp_path: Path) -> None:
    """
    Also below another one, and if links form a loop.
    """
    linked, watched = tmp_path / "linked", tmp_path / "watched"
    linked.mkdir()
    watched.mkdir()
    (watched / "link").symlink_to(linked)
    (linked / "loop").symlink_to(watched)
    changes = Changes(watched)
    assert changes.after(3) == []
    (linked / "page.html").write_text("text")
    assert changes.after(3) == [[str(watched / "link" / "page.html")]]


def test_theLinkInWhichTheDaemonStartedIsWatched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Another release is deployed by changing it, and files in the directory are not.
    """
    link, new = tmp_path / "current", tmp_path / "new"
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    link.symlink_to("old")
    monkeypatch.chdir(link)
    monkeypatch.setenv("PWD", str(link))
    changes = Changes()
    (tmp_path / "old" / "file").touch()
    assert changes.after(3) == []
    link.unlink()
    link.symlink_to(new)
    assert changes.after(3) == [[str(link)]]


def test_aFileThatANewProgramMissesIsWatched(tmp_path: Path) -> None:
    """
    If the old program serves on, because the new one has failed.
    """
    main, helper = tmp_path / "main.py", tmp_path / "package" / "helper.py"
    main.write_text("")
    changes = Changes(main)
    (tmp_path / "other.py").write_text("")
    assert changes.after(3) == []
    main.write_text("import package.helper")
    assert changes.after(3) == [[str(main)]]
    helper.parent.mkdir()
    (helper.parent / "__init__.py").touch()
    (helper.parent / ".#helper.py").symlink_to("user@host")
    assert changes.after(3) == [[str(helper.parent / "__init__.py")]]
    helper.write_text("def")
    assert changes.after(3) == [[str(helper)]]


def test_aFileThatTheDaemonWritesIsNotWatched(tmp_path: Path) -> None:
    """
    Each line in its log would reload it.
    """
    log = tmp_path / "app.log"
    with log.open("w", buffering=1) as file:
        changes = Changes(tmp_path)
        file.write("reloaded\n")
        assert changes.after(3) == []
        (tmp_path / "app.ini").write_text("text")
        file.write("a request\n")
        assert changes.after(1) == []
        file.write("a request\n")
        assert changes.after(1) == [[str(tmp_path / "app.ini")]]


def test_aDirectoryMayBeRemoved(tmp_path: Path) -> None:
    """
    Between two checks, or during one.
    """
    gone = str(tmp_path / "gone")
    assert list(watching._programsIn(gone)) == []
    assert watching._identityOf(gone) == (-1, -1)


def test_manyFilesAreReadInSeveralTurns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The worker that watches them serves meanwhile.
    """

    def stateOf(path: str) -> FileState:
        # As slow as a file system, so that a look takes many turns.
        time.sleep(0.006)
        return 0, 0

    monkeypatch.setattr(watching, "stateOf", stateOf)
    for number in range(10):
        (tmp_path / str(number)).touch()
    turns: list[tuple[float, Callable[[], object]]] = []
    reactor = SimpleNamespace(callLater=lambda *call: turns.append(call))
    watch = Watch([str(tmp_path)], lambda _: None, reactor)
    watch.start()
    looks = 0
    while not looks or turns[0][0] == 0:
        looks += 1
        turns.pop(0)[1]()
    assert looks > 4


def test_aFileIsWatched(tmp_path: Path) -> None:
    """
    Also if only its time changes.
    """
    file = tmp_path / "app.tac"
    file.write_text("")
    changes = Changes(file)
    os.utime(file, (1, 1))
    assert changes.after(2) == [[str(file)]]


def rewritten(file: Path, new: Path) -> None:
    file.write_bytes(new.read_bytes())


def replaced(file: Path, new: Path) -> None:
    new.rename(file)


def linkedAnew(file: Path, new: Path) -> None:
    file.unlink()
    file.symlink_to(new)


@pytest.mark.parametrize("change", [rewritten, replaced, linkedAnew])
def test_aFileWithTheSameTimeAndSizeIsAnother(
    change: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    """
    As C{cp -p} leaves it, and deployments that give every file the same time.
    """
    file, new = tmp_path / "watched" / "app.ini", tmp_path / "new"
    file.parent.mkdir()
    file.write_text("1")
    new.write_text("2")
    for each in (file, new):
        os.utime(each, (1, 1))
    changes = Changes(file.parent)
    change(file, new)
    os.utime(file, (1, 1))
    assert changes.after(2) == [[str(file)]]
