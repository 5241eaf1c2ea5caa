"""
A failed reload with C{--stop-first} is tried again: its old workers have ended.
"""

from __future__ import annotations

from pathlib import Path
from signal import SIGHUP, SIGTERM
from typing import Any

import pytest
from twisted.internet.testing import MemoryReactorClock

from tests.support.clients import fetch, tcp
from tests.support.daemons import program
from tests.support.deployed import application, deploy
from tests.support.freeports import freePort
from tests.support.observers import Logged
from txsignalfd._reload.transaction import Reload, ReloadObserver, ReloadRequest
from txsignalfd._workers.retrying import Retries
from txsignalfd._workers.sockets import Sockets


def test_aFailedReloadIsTriedAgainUntilWorkersServe(tmp_path: Path) -> None:
    """
    With the code that is there then.  New connections wait.
    """
    port = freePort()
    deploy(tmp_path, port, b"old")
    with program(
        tmp_path, *application(tmp_path, "--workers=1", "--stop-first")
    ) as daemon:
        daemon.waitForOutput(f"pid {daemon.pid} serves")
        (tmp_path / "answers.py").write_text("1 / 0\n")
        daemon.kill(SIGHUP)
        daemon.waitForOutput("new connections wait: reloading again\n")
        assert "generation 1 does not serve any more: " in daemon.output()
        deploy(tmp_path, port, b"new")
        assert fetch(tcp(port)) == b"new"
        daemon.kill(SIGTERM)
        assert daemon.wait() == -SIGTERM
        assert "requested by the reload that has failed\n" in daemon.output()
        assert "cannot be started again" not in daemon.output()


class Reloads:
    """
    A service whose reloads a test makes.
    """

    def __init__(self) -> None:
        self.clock: Any = MemoryReactorClock()
        self.running = True
        self.hasWorkers = False
        self.requests: list[str] = []
        whole: Any = self
        Retries(whole, lambda: self.hasWorkers, self.clock)

    def addObserver(self, before: ReloadObserver, after: ReloadObserver) -> None:
        self.before, self.after = before, after

    def request(self, requester: str) -> None:
        self.requests.append(requester)

    def reload(self, isStart: bool = False) -> None:
        reload = Reload(1, ReloadRequest())
        reload.isStart = isStart
        self.before(reload)
        self.after(reload)


def test_anotherReloadIsNotRepeated(logged: Logged) -> None:
    """
    One that the user has requested in the pause makes that before superfluous.
    """
    reloads = Reloads()
    reloads.reload()
    reloads.reload()
    assert "reloading again in 0.1 s" in logged.texts[-1]
    reloads.clock.advance(0.05)
    assert reloads.requests == []
    reloads.hasWorkers = True
    reloads.reload()
    reloads.clock.advance(1)
    assert reloads.requests == []


@pytest.mark.parametrize("isStart", [False, True])
def test_nothingIsTriedAgainThatEndsTheDaemon(isStart: bool) -> None:
    """
    A start that fails, and a stop.
    """
    reloads = Reloads()
    reloads.running = isStart
    reloads.reload(isStart)
    reloads.clock.advance(1)
    assert reloads.requests == []


OPTIONS = {"backlog": 5, "late": False}


def test_aSocketStaysOpenUntilAReloadSucceeds() -> None:
    """
    Several may fail before; after them, it is closed if nothing uses it.
    """
    sockets = Sockets(MemoryReactorClock())
    key = ("TCP", "127.0.0.1", 0)
    sockets.claim(key, OPTIONS, "old", "worker").close()
    for _ in range(2):
        _, rollback = sockets.prepare()
        sockets.releaseAll("old")
        rollback()
        (entry,) = sockets._entries.values()
    commit, _ = sockets.prepare()
    sockets.claim(key, OPTIONS, "new", "worker").close()
    commit()
    assert list(entry.users) == ["new"]
    _, rollback = sockets.prepare()
    rollback()
    sockets.releaseAll("new")
    assert not sockets._entries
