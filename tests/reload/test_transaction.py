"""
L{ReloadRequest} and L{Reload}: the requesters of a reload, and its outcome.
"""

from __future__ import annotations

import os
import subprocess
from signal import SIGHUP
from typing import Any

import pytest
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tests.support.generations import serving, start
from tests.support.inreactor import inReactor
from tests.support.observers import Logged
from tests.support.reactors import sleep, until, untilLength
from txsignalfd import SignalService
from txsignalfd._reload.transaction import Reload, ReloadRequest
from txsignalfd.siginfo import SigInfo


def hangupFrom(pid: int) -> SigInfo:
    """
    A SIGHUP as sent by kill(2).
    """
    return SigInfo.make(SIGHUP, pid=pid, uid=0)


def test_aSenderOfManySignalsIsNamedOnce() -> None:
    """
    With the number of its signals.
    """
    request = ReloadRequest()
    assert str(request) == ""
    for _ in range(1000):
        request.add(hangupFrom(2**30))
    request.add(hangupFrom(2**30 + 1))
    assert str(request) == (
        "SIGHUP from pid 1073741824 (uid 0) by kill (1000 times); "
        "SIGHUP from pid 1073741825 (uid 0) by kill"
    )
    assert request.infos == [hangupFrom(2**30), hangupFrom(2**30 + 1)]


def test_aForgedSenderIsNamedInASentence() -> None:
    """
    The log line is: reloading: requested by SIGHUP, which claims to come from …
    """
    request = ReloadRequest()
    request.add(SigInfo.make(SIGHUP, "SI_QUEUE", pid=42, uid=0))
    assert str(request).startswith("SIGHUP, which claims to come from pid 42 (uid 0)")


def test_ofManySendersTheFirstTenAreRecorded() -> None:
    """
    A flood of signals needs no memory; the others are counted.
    """
    request = ReloadRequest()
    for _ in range(2):
        for number in range(1000):
            request.add(hangupFrom(2**30 + number))
    assert len(request.infos) == 10
    named = "pid 1073741833 (uid 0) by kill (2 times); and 1980 more"
    assert str(request).endswith(named)


@inReactor
async def test_aFloodOfSignalsDuringALongStartIsLoggedOnce(
    logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    So is a flood during a stop.
    """
    monkeypatch.setattr("txsignalfd._reload.transaction._LONG", 0.0)
    async with serving(Deferred) as (reloads, _):
        for number in range(1000):
            reloads.reload(hangupFrom(2**30 + number))
        stopped = reloads.stopService()
        for number in range(1000):
            reloads.reload(hangupFrom(2**30 + number))
        await stopped
    lines = logged.texts
    assert sum("has been starting for" in line for line in lines) == 1
    assert sum("the service is being stopped; requested" in line for line in lines) == 1


@inReactor
async def test_aSenderThatHasExitedIsNamed(reactor: Any) -> None:
    """
    A reload may begin long after kill(1) has exited.
    """
    requesters: list[str] = []

    async def prepare() -> Any:
        await sleep(0.005)
        return int, int

    async with serving(Service) as (reloads, _):
        reloads.addParticipant(prepare)
        reloads.addObserver(lambda r: requesters.append(r.requester), lambda _: None)
        signals = SignalService({SIGHUP: reloads.reload}, reactor=reactor)
        start(signals)
        await reloads.reload()
        source = f"kill -HUP {os.getpid()}; read line"
        with subprocess.Popen(["bash", "-c", source], stdin=subprocess.PIPE) as sender:
            await until(lambda: reloads._request.infos or len(requesters) == 2)
        assert sender.poll() is not None
        await untilLength(requesters, 2)
        signals.stopService()
    assert requesters[0] == "the program"
    assert "(bash, uid " in requesters[1]


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
def test_theReasonIsOneLine(error: Exception, reason: str) -> None:
    reload = Reload(2, ReloadRequest())
    reload.end(Failure(error))
    assert reload.reason == reason
