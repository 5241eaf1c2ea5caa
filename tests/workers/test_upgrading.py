"""
When a supervisor is not upgraded, and what a program inherits.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from signal import SIGUSR2
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.testing import MemoryReactor

from tests.support.daemons import childrenOf
from tests.support.inreactor import inReactor
from tests.support.processes import runPython
from tests.support.records import record
from txsignalfd._children.reaper import ChildReaper
from txsignalfd._dispatch.dispatcher import SignalDispatcher
from txsignalfd._reload.transaction import History
from txsignalfd._twistd import upgrading as module
from txsignalfd._twistd.upgrading import Upgrade
from txsignalfd._workers.command import Command
from txsignalfd._workers.inheritance import Inheritance
from txsignalfd.siginfo import parse

#: A program whose trial succeeds.
GOOD = "import os; os.write(4, b'Python 9')"

(REQUEST,) = parse(record(SIGUSR2))


class Daemon:
    """
    The daemon and the supervisor of an upgrade, without a service.
    """

    def __init__(self) -> None:
        #: The verdict of the upgrade.
        self.verdict: Deferred[str] = Deferred()
        self.resumed = 0
        self.reloads = SimpleNamespace(
            postpone=lambda: succeed(None),
            resume=self._resume,
            postponed="",
            running=1,
            number=1,
        )
        self.answers = SimpleNamespace(
            upgraded=self._upgraded, passOn=lambda _: {}, statuses=0
        )
        self.history = History()
        self.description = SimpleNamespace(began=0.0)
        self.notifier = SimpleNamespace(watchdogInterval=1.0)
        self.isIdle = True
        self.pids: set[int] = set()

    def _resume(self) -> None:
        self.resumed += 1

    def _upgraded(self, outcome: str, succeeded: bool) -> None:
        assert not succeeded
        self.verdict.callback(outcome)

    def passOn(self, descriptors: list[int]) -> dict[str, Any]:
        return {}

    def endStarting(self) -> None:
        """
        There are no workers.
        """


def upgrading(
    daemon: Daemon,
    reactor: Any,
    source: str,
    seconds: float = 60.0,
    where: str = "/",
    executable: str = sys.executable,
) -> Upgrade:
    """
    Begin an upgrade to a Python program.
    """
    command = Command(where, executable, ["python", "-S", "-c", source])
    either: Any = daemon
    upgrade = Upgrade(either, either, command, seconds, reactor)
    upgrade.request(REQUEST)
    return upgrade


@pytest.mark.parametrize(
    ("source", "seconds", "reason"),
    [
        ("raise SystemExit('no licence')", 60.0, "no licence"),
        ("raise SystemExit(3)", 60.0, "the new program has exited with status 3"),
        (
            "import time; time.sleep(60)",
            0.2,
            "the new program has not started within 0.2 s (--start-timeout)",
        ),
    ],
)
@inReactor
async def test_aFailedTrialIsTheReason(
    reactor: Any, dispatcher: SignalDispatcher, source: str, seconds: float, reason: str
) -> None:
    """
    Nothing has happened then.
    """
    ChildReaper(dispatcher)
    daemon = Daemon()
    upgrading(daemon, reactor, source, seconds)
    outcome = await daemon.verdict
    assert outcome.startswith("not upgraded, after ")
    assert outcome.endswith(f" s: {reason}")
    assert not daemon.resumed


@inReactor
async def test_aSecondRequestJoinsTheFirst(
    reactor: Any, dispatcher: SignalDispatcher
) -> None:
    """
    And a stop ends both.
    """
    reaper = ChildReaper(dispatcher)
    daemon = Daemon()
    upgrade = upgrading(daemon, reactor, "import time; time.sleep(60)")
    upgrade.request(REQUEST)
    (trial,) = childrenOf(os.getpid())
    ended = reaper.whenExited(trial)
    upgrade.cancel()
    assert (await daemon.verdict).endswith(" s: the service is being stopped")
    upgrade.cancel()
    await ended


@inReactor
async def test_aServiceThatIsBeingStoppedIsNotUpgraded(reactor: Any) -> None:
    """
    Nothing is tried.
    """
    daemon = Daemon()
    daemon.reloads.running = 0
    upgrading(daemon, reactor, GOOD)
    assert (await daemon.verdict).endswith(" s: the service is being stopped")


@inReactor
async def test_anActionThatDoesNotEndPreventsIt(
    reactor: Any, dispatcher: SignalDispatcher
) -> None:
    """
    Its child, or what it waits for, would be lost.
    """
    ChildReaper(dispatcher)
    daemon = Daemon()
    with dispatcher.hold(10):
        upgrading(daemon, reactor, GOOD, 5.0)
        outcome = await daemon.verdict
    assert outcome.endswith(
        "a signal is still being handled after 5 s (--start-timeout)"
    )
    assert daemon.resumed == 1


def notListed() -> set[int]:
    raise OSError("this system does not list children")


@inReactor
async def test_aProgramThatCannotBeExecutedReplacesNothing(
    reactor: Any,
    dispatcher: SignalDispatcher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    The process is in its directory again.
    """
    ChildReaper(dispatcher)
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    before = os.getcwd()
    monkeypatch.setattr(module, "childProcesses", notListed)
    daemon = Daemon()
    source = f"{GOOD}; os.unlink('python')"
    upgrading(daemon, reactor, source, where=str(tmp_path), executable=str(python))
    assert " s: FileNotFoundError: [Errno 2] " in await daemon.verdict
    assert (daemon.resumed, os.getcwd()) == (1, before)


def test_aDirectoryThatIsGoneExecutesNothing(tmp_path: Path) -> None:
    """
    Descriptors are closed at execve(2) again.
    """
    with open(os.devnull) as file:
        found = Inheritance({}, [file.fileno()])
        with pytest.raises(FileNotFoundError):
            found.execute(Command(str(tmp_path / "gone")), {})
        assert not os.get_inheritable(file.fileno())


SHOW = """
import os
from txsignalfd._workers.inheritance import inheritance
print(inheritance(), "TXSIGNALFD_INHERITANCE" in os.environ)
"""


def show(*value: object) -> subprocess.CompletedProcess[str]:
    """
    Run a program with a variable that it may inherit.
    """
    added = {"TXSIGNALFD_INHERITANCE": json.dumps(value)}
    return runPython("-c", SHOW, added=added, close_fds=False)


def test_childrenInheritNothing() -> None:
    """
    The variable names the process, and is removed.
    """
    assert show(1 << 30, 3, False).stdout == "None False\n"


def test_anUnknownFormatNeedsARestart() -> None:
    """
    The trial says so.
    """
    descriptor = Inheritance({"format": 99}, []).write()
    os.set_inheritable(descriptor, True)
    done = show(os.getpid(), descriptor, True)
    os.close(descriptor)
    assert done.returncode == 1
    assert "(format 99): restart the daemon" in done.stderr


def test_anErrorAfterTheReloadIsNoOutcomeOfTheUpgrade(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    Another upgrade may be pending then: the command says that the process has ended.
    """
    either: Any = (daemon := Daemon())
    upgrade = Upgrade(either, either, Command("/"), 60.0, MemoryReactor())
    monkeypatch.setattr(sys, "last_value", OSError("later"), raising=False)
    upgrade._ended()
    assert not daemon.verdict.called
