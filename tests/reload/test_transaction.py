"""
What is told of a reload: who has asked for it, and why it has failed.
"""

from __future__ import annotations

import os
import subprocess
from signal import SIGHUP
from typing import Any

import pytest
from twisted.application.service import Service
from twisted.python.failure import Failure

from tests.support.reactors import sleep, spin, until
from txsignalfd import ReloadService, SignalService
from txsignalfd._reload.transaction import Reload, ReloadRequest
from txsignalfd.siginfo import SigInfo


def hangupFrom(pid: int) -> SigInfo:
    """
    As sent by kill(2).
    """
    return SigInfo.make(SIGHUP, pid=pid, uid=0)


def test_whoAsksWithoutPauseIsNamedOnce() -> None:
    """
    A line of the log tells how often.
    """
    askers = ReloadRequest()
    assert str(askers) == ""
    for _ in range(1000):
        askers.add(hangupFrom(2**30))
    askers.add(hangupFrom(2**30 + 1))
    assert str(askers) == (
        "SIGHUP from pid 1073741824 (uid 0) by kill (1000 times); "
        "SIGHUP from pid 1073741825 (uid 0) by kill"
    )
    assert askers.infos == [hangupFrom(2**30), hangupFrom(2**30 + 1)]


def test_ofManyWhoAskTheFirstAreNamed() -> None:
    """
    A log is no database.
    """
    askers = ReloadRequest()
    for number in range(1000):
        askers.add(hangupFrom(2**30 + number))
    assert str(askers).endswith("pid 1073741833 (uid 0) by kill; and 990 more")


def test_whoHasEndedSinceIsNamed() -> None:
    """
    A reload may begin later than it was asked for, when kill(1) is long gone.
    """
    told: list[str] = []

    async def main(reactor: Any) -> None:
        async def prepare() -> Any:
            await sleep(reactor, 0.005)
            return int, int

        reloads = ReloadService(Service, reactor=reactor)
        reloads.addParticipant(prepare)
        reloads.addWatcher(lambda reload: told.append(reload.asker), lambda _: None)
        signals = SignalService({SIGHUP: reloads.reload}, reactor=reactor)
        for service in (signals, reloads):
            service.privilegedStartService()
            service.startService()
        await reloads.reload()
        source = f"kill -HUP {os.getpid()}; read line"
        with subprocess.Popen(["bash", "-c", source], stdin=subprocess.PIPE) as asker:
            await until(reactor, lambda: reloads._request.infos or len(told) == 3)
        assert asker.poll() is not None
        await until(reactor, lambda: len(told) == 3)
        await reloads.stopService()
        signals.stopService()

    spin(main)
    assert told[:2] == ["the program", "the program"]
    assert "(bash, uid " in told[2]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyError("port"), "KeyError: 'port'"),
        (AssertionError(), "AssertionError"),
        (
            ValueError("expected a block\n  in line 1\n"),
            "ValueError: expected a block in line 1",
        ),
    ],
)
def test_theReasonIsALine(error: Exception, reason: str) -> None:
    """
    Whatever the message.
    """
    reload = Reload(2, ReloadRequest())
    reload.end(Failure(error))
    assert reload.reason == reason
