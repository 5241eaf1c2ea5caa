"""
The place of a worker among the others.
"""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.support.processes import runPython
from txsignalfd import workerNumber
from txsignalfd._workers.membership import Membership

SHOW = """
import os
from txsignalfd import workerNumber
from txsignalfd._workers.membership import membership
print(workerNumber(), workerNumber(), len(os.environ) - before, end=" ")
print(*(os.get_inheritable(fd) for fd in (0, 1)))
"""


def started(place: Membership) -> subprocess.CompletedProcess[str]:
    """
    Run a program as a worker.
    """
    source = "import os; before = len(os.environ)" + SHOW
    added = place.variables()
    return runPython("-c", source, added=added, stdin=subprocess.DEVNULL)


def test_aWorkerKnowsItsNumber() -> None:
    """
    Its children learn nothing of it, and inherit no descriptor.
    """
    done = started(Membership(3, os.getpid(), 0, [1], ["web"]))
    assert done.stdout == "3 3 -1 False False\n"


def test_aWorkerWhoseSupervisorHasEndedExits() -> None:
    """
    It does not become a supervisor itself.
    """
    done = started(Membership(3, 1 << 30, 0))
    assert (done.stdout, done.returncode) == ("", 1)
    assert "the supervisor of this worker has ended" in done.stderr


def test_aProgramWithoutWorkersIsTheFirst() -> None:
    """
    So code that belongs to worker 1 runs there, too.
    """
    assert workerNumber() == 1


@pytest.mark.parametrize("name", ["NOTIFY_SOCKET", "LISTEN_FDS", "WATCHDOG_USEC"])
def test_variablesForTheSupervisorStayThere(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Workers do not notify systemd.
    """
    from txsignalfd._workers.command import Command

    monkeypatch.setenv(name, "1")
    environment = Command("/").environment()
    assert name not in environment
    assert environment["PWD"] == "/"
    assert environment["PATH"] == os.environ["PATH"]
