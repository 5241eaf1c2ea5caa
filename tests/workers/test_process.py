"""
One worker, as the supervisor sees it.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.support.inreactor import inReactor
from tests.support.observers import Logged
from tests.support.reactors import until
from txsignalfd._children.reaper import ChildReaper
from txsignalfd._dispatch.dispatcher import SignalDispatcher
from txsignalfd._proc.reason import RemoteError
from txsignalfd._workers import collecting, process, workerset
from txsignalfd._workers.channel import Message
from txsignalfd._workers.command import Command
from txsignalfd._workers.limits import Limits
from txsignalfd._workers.process import State, WorkerProcess
from txsignalfd._workers.sockets import Sockets
from txsignalfd._workers.spares import Spares
from txsignalfd._workers.workerset import Pauses, Phase, Setup, WorkerSet


def python(source: str) -> Command:
    """
    Return a command that runs a program in the place of a worker.
    """
    return Command("/", sys.executable, ["python", "-S", "-c", source])


#: Makes the program deaf to SIGTERM, and says when it is.
DEAF = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(1, b"deaf\\n")
signal.pause()
"""


class Heard(WorkerProcess):
    """
    A worker whose first output is waited for.
    """

    def __init__(self, reactor: Any) -> None:
        super().__init__(1, self, Sockets(reactor), reactor)
        self.heard: Deferred[None] = Deferred()

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        super().childDataReceived(childFD, data)
        self.heard.callback(None)


@inReactor
async def test_aWorkerThatDoesNotEndIsKilled(
    reactor: Any, dispatcher: SignalDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Some time after its connections have been closed.
    """
    ChildReaper(dispatcher)
    monkeypatch.setattr(process, "GRACE", 0.1)
    worker = Heard(reactor)
    worker.start(python(DEAF))
    await worker.heard
    worker.end(0, False)
    with pytest.raises(RemoteError, match="deaf"):
        await worker.started
    await worker.ended.wait()
    worker.end(0, False)
    assert worker.state is State.ENDED


@inReactor
async def test_aWorkerThatIsAboutToExitIsPassedOn(
    reactor: Any, dispatcher: SignalDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    In an upgrade: its channel is closed already, and its exit is still to come.
    """
    reaper = ChildReaper(dispatcher)
    monkeypatch.setattr(process, "AdoptedProcess", lambda *_: None)
    worker = WorkerProcess(1, None, Sockets(reactor), reactor)
    worker.start(python("import os, signal; os.close(3); signal.pause()"))
    while worker._channel.fileno() >= 0:
        await _turn(reactor)
    descriptors: list[int] = []
    passed = worker.passOn(descriptors)
    assert (passed["channel"], len(descriptors)) == (-1, 2)
    adopted = WorkerProcess(1, None, Sockets(reactor), reactor)
    adopted.adopt(passed)
    adopted.serve(hasPeers=False)
    assert (adopted.pid, adopted._channel.fileno()) == (worker.pid, -1)
    ended = reaper.whenExited(worker.pid)
    worker.fail("is not needed")
    with pytest.raises(RemoteError):
        await worker.started
    await ended
    await worker.ended.wait()


@inReactor
async def test_aSystemWithoutProcessesIsTriedAgain(
    reactor: Any, dispatcher: SignalDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    After a pause; the first start fails.
    """

    def spawnProcess(worker: WorkerProcess, *_: object, **__: object) -> None:
        starts.append(worker.number)
        raise BlockingIOError("no process left")

    starts: list[int] = []
    monkeypatch.setattr(reactor, "spawnProcess", spawnProcess)
    monkeypatch.setattr(workerset, "_LONGEST_PAUSE", 0.01)
    sockets = Sockets(reactor)
    spares = Spares(0, python(""), reactor)
    setup = Setup(python(""), sockets, 60.0, 0.0, Limits(), print, reactor, spares)
    workers = WorkerSet(1, setup, None)
    with pytest.raises(BlockingIOError):
        await workers.startService()
    workers._phase = Phase.SERVING
    workers.resize(1)
    while len(starts) < 3:
        await _turn(reactor)
    workers.retire(0, False)
    await workers.whenDrained()


def _turn(reactor: Any) -> Deferred[None]:
    turned: Deferred[None] = Deferred()
    reactor.callLater(0.001, turned.callback, None)
    return turned


@inReactor
async def test_aStartThatTakesTooLongSaysWhatItWaitsFor(
    reactor: Any, dispatcher: SignalDispatcher
) -> None:
    """
    If the worker has said that.
    """
    worker = WorkerProcess(1, None, Sockets(reactor), reactor)
    worker.receive(Message({"waits": "the program has opened no port"}, []))
    worker.fail("has not started within 1 s")
    with pytest.raises(RemoteError, match="within 1 s: the program has opened no port"):
        await worker.started


def test_pausesGrow() -> None:
    """
    Up to a limit.  Each second in which the worker has served makes them shorter.
    """
    pauses = Pauses()
    found = [pauses.next(0.9) for _ in range(12)]
    assert found[:4] == [0, 0.1, 0.2, 0.4]
    assert found[-1] == 30
    assert pauses.next(8) == 0.2
    assert pauses.next(31) == 0
    assert pauses.next(1.5) == 0
    assert pauses.next(0) == 0.1


class Sent(list[dict[str, Any]]):
    """
    The channel and the transport of a worker.
    """

    pauses = 0

    def send(self, **fields: Any) -> None:
        self.append(fields)

    def pauseProducing(self) -> None:
        self.pauses += 1

    def resumeProducing(self) -> None:
        self.pauses -= 1


@inReactor
async def test_aWorkerIsAskedOnceAtATime(reactor: Any) -> None:
    """
    Each question has the answer; one that still starts is not asked.
    """
    worker: Any = WorkerProcess(1, None, Sockets(reactor), reactor)
    worker._channel = sent = Sent()
    assert worker.ask().called
    worker.report("SIGUSR2")
    assert sent == []
    worker.state = State.SERVING
    first, second = worker.ask(), worker.ask()
    assert sent == [{"do": "tell"}]
    worker.receive(Message({"connections": 1, "asked": False}, []))
    assert worker.status()["state"] == "is busy"
    worker.receive(Message({"connections": 2, "asked": True}, []))
    assert first.called
    assert second.called
    assert worker.status()["state"] == "serves"
    worker.state = State.DRAINING
    worker.ask()
    assert worker.status()["state"] == "drains"
    assert worker.describe().startswith("worker 1 (pid 0) drains: 2 connections, ")


@inReactor
async def test_outputCollectsBeforeMoreIsRead(
    reactor: Any, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    """
    All that a pipe has is read, and no time is lost where it was full.
    """
    monkeypatch.setattr(collecting, "_MUCH", 8000)
    worker: Any = WorkerProcess(1, None, Sockets(reactor), reactor)
    worker.transport = Sent()
    read, written = os.pipe2(os.O_NONBLOCK)
    with open(read, "rb") as pipe, open(written, "wb", 0) as end:
        worker.transport.pipes = {2: pipe}
        end.write(b"x" * 4000 + b"\n")
        worker.childDataReceived(2, b"x" * 5000)
        assert worker.transport.pauses == 0
        worker.childDataReceived(2, b"x" * 5000 + b"\n")
        end.write(b"one\n")
        worker.childDataReceived(2, b"two\n")
        assert worker.transport.pauses == 1
        await until(lambda: len(logged) == 4)
        assert worker.transport.pauses == 1
        await until(lambda: not worker.transport.pauses)
    assert [len(event["text"]) for event in logged] == [9010, 5010, 13, 13]
