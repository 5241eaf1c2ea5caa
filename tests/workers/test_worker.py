"""
A worker, as it sees its supervisor.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from socket import MSG_DONTWAIT
from typing import Any

import pytest
from twisted.internet.testing import MemoryReactorClock
from twisted.python.usage import UsageError

from txsignalfd._workers import worker as module
from txsignalfd._workers.channel import Channel, Message, socketPair
from txsignalfd._workers.membership import Membership
from txsignalfd._workers.worker import Worker


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Worker, Channel]]:
    """
    A worker in this process, and the supervisor's end of its channel.
    """
    for name in ("supplyListeners", "inherit"):
        monkeypatch.setattr(module, name, lambda *_: None)
    reactor: Any = MemoryReactorClock()
    mine, other = socketPair()
    worker = Worker(Membership(1, os.getpid(), other.detach()), reactor)
    supervisor = Channel(mine, reactor, print, print)
    yield worker, supervisor
    supervisor.close()
    worker._channel.close()


def test_aWrongCommandLineIsReportedByTheCaller(ends: tuple[Worker, Channel]) -> None:
    """
    Other errors end the worker, and the supervisor learns the reason.
    """
    worker, supervisor = ends
    with pytest.raises(UsageError), worker.making(UsageError):
        raise UsageError("no such option")
    with pytest.raises(SystemExit), worker.making(UsageError):
        raise ValueError("no such file")
    message = supervisor._receive(0)
    assert message is not None
    assert message.fields["failed"] == "ValueError: no such file"


@pytest.mark.parametrize("text", ["x", "\u20ac", "\U0001f600"])
def test_aLongReasonFitsIntoAMessage(text: str, ends: tuple[Worker, Channel]) -> None:
    """
    As far as a reader wants it, whatever characters it has.
    """
    worker, supervisor = ends
    with pytest.raises(SystemExit), worker.making(UsageError):
        raise ValueError(text * 100_000)
    message = supervisor._receive(MSG_DONTWAIT)
    assert message is not None
    assert message.fields["failed"].startswith(f"ValueError: {text * 7000}")


def test_theSocketsOfAReloadFitIntoAMessage(ends: tuple[Worker, Channel]) -> None:
    """
    Also those of a honeypot with thousands of ports.
    """
    worker, supervisor = ends
    keys = [["TCP", "127.0.0.1", 10_000 + number] for number in range(5000)]
    supervisor.send(do="other", replaced=keys)
    message = worker._channel._receive(MSG_DONTWAIT)
    assert message is not None
    assert message.fields["replaced"] == keys


def test_anUnknownMessageIsIgnored(ends: tuple[Worker, Channel]) -> None:
    """
    The next one is received.
    """
    worker, _ = ends
    worker._received(Message({"do": "dance"}, []))
    assert not worker._mayServe.fired
    worker._received(Message({"do": "serve"}, []))
    assert worker._mayServe.fired
