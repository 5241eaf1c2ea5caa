"""
C{run(workers=...)}: a program of one's own in fresh processes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from signal import SIGHUP, SIGTERM
from typing import Any

import pytest

from tests.support.clients import fetch, load, opening, tcp
from tests.support.daemons import childrenOf, program, reload, waitFor
from tests.support.freeports import freePort
from txsignalfd import run

MAIN = """
import sys
from twisted.application.strports import service
from twisted.web.server import Site
from twisted.web.static import Data
from txsignalfd import run, workerNumber

def makeService():
    print("the service is made in worker", workerNumber(), flush=True)
    page = Data({text!r}, "text/plain")
    page.isLeaf = True
    return service("tcp:{port}:interface=127.0.0.1", Site(page))

run(makeService, workers={workers!r}, log=sys.stdout, **{more!r})
"""


def write(
    directory: Path, port: int, text: bytes, workers: int | str | None = 2, **more: Any
) -> None:
    """
    Write the program.
    """
    source = MAIN.format(port=port, text=text, workers=workers, more=more)
    (directory / "main.py").write_text(source)


def test_aReloadRunsTheNewProgram(tmp_path: Path) -> None:
    """
    Without a lost connection; what it prints is in the log.
    """
    port = freePort()
    write(tmp_path, port, b"old")
    with program(tmp_path, sys.executable, "main.py") as running:
        running.waitForOutput(f"pid {running.pid} serves")
        assert len(childrenOf(running.pid)) == 2
        with load(opening(tcp(port))):
            write(tmp_path, port, b"new")
            reload(running)
            assert fetch(tcp(port)) == b"new"
        (tmp_path / "main.py").write_text("raise ValueError('no settings')")
        running.kill(SIGHUP)
        running.waitForOutput("generation 2 serves on: ValueError: no settings")
        assert running.stop() == -SIGTERM
        assert "worker 2: the service is made in worker 2" in running.output()


def test_aServiceThatCannotBeMadeEndsTheProgram(tmp_path: Path) -> None:
    """
    With the reason, and status 1.
    """
    write(tmp_path, -1, b"old", "auto")
    with program(tmp_path, sys.executable, "main.py") as running:
        assert running.wait() == 1
        assert "not started: " in running.output()


def test_aSpareWorkerRunsTheNewProgram(tmp_path: Path) -> None:
    """
    It has waited since the start if their number is given.
    """
    port = freePort()
    write(tmp_path, port, b"old", 1, spareWorkers=1)
    with program(tmp_path, sys.executable, "main.py") as running:
        running.waitForOutput(f"pid {running.pid} serves")
        waitFor(lambda: len(childrenOf(running.pid)) == 2, "a spare worker")
        _, waiting = childrenOf(running.pid)
        write(tmp_path, port, b"new", 1, spareWorkers=1)
        reload(running)
        assert fetch(tcp(port)) == b"new"
        running.waitForOutput("generation 1 has ended")
        assert waiting in childrenOf(running.pid)
        assert running.stop() == -SIGTERM


@pytest.mark.parametrize("workers", [0, "two", "-1"])
def test_aWrongNumberIsRefused(workers: int | str) -> None:
    """
    The error says what was expected.
    """
    with pytest.raises(ValueError, match=r"^workers: expected a number, 1 or more"):
        run(lambda: None, workers=workers)


@pytest.mark.parametrize(
    ("workers", "spares", "why"),
    [
        (2, -1, "expected a number, 0 or more, got -1"),
        (2, "1", "expected a number, 0 or more, got '1'"),
        (None, 1, "only with workers"),
    ],
)
def test_aWrongNumberOfSpareWorkersIsRefused(
    workers: int | None, spares: Any, why: str
) -> None:
    """
    The error says what was expected.
    """
    with pytest.raises(ValueError, match=f"^spareWorkers: {why}"):
        run(lambda: None, workers=workers, spareWorkers=spares)
