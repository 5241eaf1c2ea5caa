"""
The workers of one generation, with ends of channels in the place of processes.
"""

from __future__ import annotations

from signal import SIGHUP
from time import monotonic
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ProcessDone
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel
from twisted.python.failure import Failure

from tests.support.observers import Logged
from txsignalfd._proc.reason import RemoteError
from txsignalfd._workers import process, workerset
from txsignalfd._workers.channel import Channel, Message, socketPair
from txsignalfd._workers.command import Command
from txsignalfd._workers.limits import Limits
from txsignalfd._workers.process import State, WorkerProcess
from txsignalfd._workers.sockets import Sockets
from txsignalfd._workers.spares import Spares
from txsignalfd._workers.supervisor import Supervisor
from txsignalfd._workers.workerset import Setup, WorkerSet


class Workers:
    """
    A set of workers without processes, whose messages and ends a test makes.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        count: int,
        limits: Limits = Limits(age=1000.0),  # noqa: B008
    ) -> None:
        monkeypatch.setattr(
            WorkerProcess, "start", lambda worker, _: self._connect(worker)
        )
        self.clock: Any = MemoryReactorClock()
        self.reports: list[list[str]] = []
        self.setup = Setup(
            Command("/"),
            Sockets(self.clock),
            60.0,
            0.0,
            limits,
            self.reports.append,
            self.clock,
            Spares(0, Command("/"), self.clock),
        )
        self.set = WorkerSet(count, self.setup, None)
        self.made: list[WorkerProcess] = []

    def _connect(self, worker: WorkerProcess) -> None:
        mine, other = socketPair()
        other.close()
        worker._channel = Channel(mine, self.clock, worker.receive, worker._lost)
        self.made.append(worker)

    def serve(self) -> None:
        """
        Start the service, and let its workers start.
        """
        self.set.startService()
        for worker in self.made:
            tell(worker, ready=True)
        assert self.set.isServing

    def end(self) -> None:
        """
        End all workers.
        """
        self.set.retire(0, False)
        for worker in self.made:
            end(worker)
        assert not self.set.processes


def tell(worker: WorkerProcess, **fields: Any) -> None:
    worker.receive(Message(fields, []))


def end(worker: WorkerProcess) -> None:
    reason = ProcessDone(0)
    worker.reason = reason
    worker.processEnded(Failure(reason))


def failureOf(deferred: Deferred[None]) -> Any:
    failures: list[Failure] = []
    deferred.addErrback(failures.append)
    return failures[0].value if failures else None


def test_aWorkerThatEndsBeforeTheOthersHaveStartedFailsTheStart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    The error names it.
    """
    workers = Workers(monkeypatch, 2)
    started = workers.set.startService()
    first, second = workers.made
    tell(first, ready=True)
    end(first)
    tell(second, ready=True)
    error = failureOf(started)
    assert isinstance(error, RemoteError)
    assert "status 0 before the others had started" in str(error)
    workers.end()


def test_aStopWhileTheOldWorkersAreSuspendedEndsTheStart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    No worker serves then, or is started again.
    """
    workers = Workers(monkeypatch, 1)
    old: Any = workers.set
    workers.serve()
    (first,) = workers.made
    workers.set = WorkerSet(1, workers.setup, old)
    started = workers.set.startService()
    tell(workers.made[1], ready=True)
    workers.set.retire(0, False)
    started.cancel()
    assert isinstance(failureOf(started), CancelledError)
    workers.end()
    old.retire(0, False)
    end(first)
    workers.clock.advance(30)
    assert len(workers.made) == 2


def test_aRetiredGenerationIsNotSuspended(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    It has drained when its workers have ended, also if a reload goes on meanwhile.
    """
    workers = Workers(monkeypatch, 1)
    workers.serve()
    workers.set.retire(0, False)
    workers.set.suspend([])
    drained = workers.set.whenDrained()
    workers.end()
    assert drained.called


def test_onlyAServingGenerationReportsChanges(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The code of one that is starting or draining is not what runs.
    """
    workers = Workers(monkeypatch, 1)
    workers.set.startService()
    (worker,) = workers.made
    tell(worker, changed=["early.py"])
    tell(worker, ready=True)
    tell(worker, changed=["app.py"])
    workers.end()
    tell(worker, changed=["late.py"])
    assert workers.reports == [["app.py"]]


def test_theNumberMayChangeDuringAStart(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The added worker starts afterwards, and does not serve if a reload is faster.
    """
    workers = Workers(monkeypatch, 1)
    workers.set.startService()
    workers.set.resize(2)
    assert len(workers.made) == 1
    tell(workers.made[0], ready=True)
    _, added = workers.made
    workers.set.suspend([])
    tell(added, ready=True)
    assert added.state is State.READY
    workers.end()


def test_aReplacementIsNotNeededAfterAReload(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    It ends if the next generation serves before it has started.
    """
    workers = Workers(monkeypatch, 1)
    workers.serve()
    workers.made[0].ageLimit = -1
    workers.clock.advance(1)
    _, new = workers.made
    workers.set.suspend([])
    tell(new, ready=True)
    assert new.state is State.DRAINING
    workers.end()


def test_aFailedReplacementIsTriedAgain(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    After a pause, in which the old worker serves.
    """
    workers = Workers(monkeypatch, 1)
    workers.serve()
    old = workers.made[0]
    old.ageLimit = -1
    workers.clock.advance(1)
    end(workers.made[1])
    assert old.state is State.SERVING
    old.ageLimit = -1
    workers.clock.advance(29)
    assert len(workers.made) == 2
    workers.clock.pump([1, 1])
    assert len(workers.made) == 3
    workers.end()


def test_aLimitOfMemoryThatIsTooLowReplacesNoWorkerAllTheTime(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    The replacement has half a minute, in which another worker has its turn.
    """
    monkeypatch.setattr(workerset, "memoryOf", lambda _: 2)
    workers = Workers(monkeypatch, 2, Limits(memory=1.0))
    workers.serve()
    for made in (3, 4):
        workers.clock.advance(1)
        tell(workers.made[-1], ready=True)
        assert len(workers.made) == made
    workers.clock.advance(1)
    assert [each.number for each in workers.made] == [1, 2, 1, 2]
    workers.made[2]._began -= 31
    workers.clock.advance(1)
    assert workers.made[4].number == 1
    workers.end()


def test_aWorkerThatIsRemovedBeforeItServesIsNoError(
    monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    """
    One that fails has its number in the log.
    """
    workers = Workers(monkeypatch, 1)
    workers.serve()
    workers.set.resize(2)
    workers.set.resize(1)
    end(workers.made[1])
    workers.set.resize(2)
    tell(workers.made[2], failed="ValueError: x", traceback="")
    end(workers.made[2])
    errors = [each for each in logged if each["log_level"] is LogLevel.error]
    assert Logged(errors).texts[0] == "worker 2 (pid 0) cannot start: ValueError: x"
    workers.end()


def test_aWorkerThatWasGivenUpHasNotStarted(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Although its last message says so.
    """
    workers = Workers(monkeypatch, 1)
    started = workers.set.startService()
    (worker,) = workers.made
    worker.fail("is too slow")
    tell(worker, ready=True)
    assert "is too slow" in str(failureOf(started))
    assert not workers.set.isServing
    workers.end()


def test_anUnknownMessageProvesATurn(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    As any other one does.
    """
    workers = Workers(monkeypatch, 1)
    workers.serve()
    (worker,) = workers.made
    worker._heard -= 100
    assert not worker.isServing
    tell(worker, unknown=1)
    assert worker.isServing
    workers.end()


def test_aSupervisorServesIfAnyWorkerDoes(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The watchdog of systemd asks.  The log calls it the supervisor.
    """
    workers = Workers(monkeypatch, 1)
    supervisor = Supervisor(lambda: 1, workers.setup)
    workers.set = supervisor()
    assert not supervisor.isServing
    workers.serve()
    assert supervisor.isServing
    assert str(supervisor) == "the supervisor"
    workers.end()


def test_aSignalIsPassedOnToProgramsThatHaveStarted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    It would end one that has not installed its handler yet.
    """
    sent: list[tuple[int, int]] = []
    workers = Workers(monkeypatch, 1)
    monkeypatch.setattr(
        WorkerProcess, "kill", lambda it, signo: sent.append((it.number, signo))
    )
    supervisor = Supervisor(lambda: 1, workers.setup)
    workers.set = supervisor()
    workers.serve()
    workers.set.resize(2)
    supervisor.signal(SIGHUP)
    assert sent == [(1, SIGHUP)]
    workers.end()


def test_limitsAreForWorkersThatServe(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    One that is still starting is not replaced.
    """
    workers = Workers(monkeypatch, 1)
    workers.serve()
    workers.set.resize(2)
    workers.made[1].ageLimit = -1
    workers.clock.advance(1)
    assert len(workers.made) == 2
    workers.end()


def test_workersThatDoNotServeYetEndBeforeAnUpgrade(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    Those that serve stay.
    """
    workers = Workers(monkeypatch, 1)
    supervisor = Supervisor(lambda: 1, workers.setup)
    workers.set = supervisor()
    workers.serve()
    workers.set.resize(2)
    first, second = workers.made
    supervisor.endStarting()
    assert (first.state, second.state) == (State.SERVING, State.DRAINING)
    workers.end()


def test_aWorkerThatDrainsKeepsItsDeadlineInAnUpgrade(
    monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    """
    It takes no place among those that are to serve.
    """
    monkeypatch.setattr(process, "AdoptedProcess", lambda *_: None)
    workers = Workers(monkeypatch, 1)
    passed = {
        "number": 1,
        "pid": 2,
        "serves": False,
        "began": 0.0,
        "connections": 1,
        "closed": 0,
        "limit": "",
        "deadlines": [monotonic() + 5],
        "channel": -1,
        "pipes": [],
        "output": [],
    }
    workers.set.adopt([passed])
    (worker,) = workers.set.processes
    assert worker.state is State.DRAINING
    assert not workers.set._members
    workers.clock.advance(6)
    assert logged.contains("worker 1 (pid 2) does not end, and is killed")
    end(worker)
