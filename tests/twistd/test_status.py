"""
L{DaemonStatus}: what a daemon reports about itself.
"""

from __future__ import annotations

import os
from signal import SIGHUP, SIGUSR1, SIGUSR2
from typing import Any

import pytest
from twisted.python.failure import Failure

from tests.support.inreactor import inReactor
from tests.support.processes import foreign
from txsignalfd import SigInfo, SignalDispatcher
from txsignalfd._reload.service import ReloadService
from txsignalfd._reload.transaction import History, Reload, ReloadRequest
from txsignalfd._twistd import status as module
from txsignalfd._twistd.actions import Action
from txsignalfd._twistd.status import LONGEST, DaemonStatus


def ignore(info: SigInfo) -> None:
    pass


def statusIn(reactor: Any) -> DaemonStatus:
    reloads = ReloadService(lambda: None, reactor=reactor)
    return DaemonStatus(reloads, History(), "/srv")


@inReactor
async def test_signalsAreCounted(reactor: Any, dispatcher: SignalDispatcher) -> None:
    """
    Of all watched signals, and of all that have an action.
    """
    status = statusIn(reactor)
    status.actions = {int(SIGHUP): Action("reload"), int(SIGUSR2): Action("leave")}
    dispatcher.addHandler(SIGHUP, ignore)
    dispatcher.addHandler(SIGHUP, ignore)
    dispatcher.watch(SIGUSR1)
    for signo in (SIGHUP, SIGUSR1):
        received = dispatcher.whenReceived(signo)
        os.kill(os.getpid(), signo)
        await received
    found = {each["name"]: each for each in status(dispatcher)["signals"]}
    assert found["SIGHUP"]["received"] == 1
    assert [each["handled"] for each in found["SIGHUP"]["handlers"]] == [1, 1]
    assert found["SIGUSR1"]["action"] is None
    assert found["SIGUSR2"] == {
        "name": "SIGUSR2",
        "action": "leave",
        "received": 0,
        "handlers": [],
    }


@inReactor
async def test_workersAreListed(reactor: Any, dispatcher: SignalDispatcher) -> None:
    """
    With the generation to which they belong.
    """
    status = statusIn(reactor)
    worker = {"number": 1, "pid": 4711, "state": "serves"}
    generation = {"number": 2, "addresses": [], "workers": [worker]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(status, "generations", lambda: [generation])
        found = status(dispatcher)
    assert found["workers"] == [{"generation": 2, **worker}]
    assert found["generations"] == [{"number": 2, "addresses": []}]


@inReactor
async def test_childrenAreListed(reactor: Any, dispatcher: SignalDispatcher) -> None:
    """
    With their commands.
    """
    with foreign("sleep", "1000") as pid:
        found = statusIn(reactor)(dispatcher)
    assert pid in {each["pid"] for each in found["children"]}
    assert found["childCount"] == len(found["children"])


@inReactor
async def test_withoutProcChildrenAreUnknown(
    reactor: Any, dispatcher: SignalDispatcher
) -> None:
    """
    Everything else is reported.
    """

    def fail() -> set[int]:
        raise OSError("no /proc")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "childProcesses", fail)
        found = statusIn(reactor)(dispatcher)
    assert (found["childCount"], found["children"]) == (None, [])


@inReactor
async def test_aLongReasonIsCut(reactor: Any, dispatcher: SignalDispatcher) -> None:
    """
    The status has to fit into a datagram.
    """
    history = History()
    reload = Reload(2, ReloadRequest())
    reload.end(Failure(ValueError("x" * 10 * LONGEST)))
    history.add(reload)
    reloads = ReloadService(lambda: None, reactor=reactor)
    found = DaemonStatus(reloads, history, "/srv")(dispatcher)["reloads"]
    (last,) = found["last"]
    assert (found["failed"], last["succeeded"]) == (1, False)
    assert len(last["outcome"]) == LONGEST + len("...")
