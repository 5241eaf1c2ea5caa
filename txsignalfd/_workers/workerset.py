# -*- test-case-name: tests.workers.test_workers -*-
"""
L{WorkerSet}: the workers of one generation, as a service.

L{txsignalfd._reload.service.ReloadService} reloads it like any other service.  The
old workers stop accepting before the new ones begin: in between, for some
milliseconds, connections wait in the listen queue.  So no client that the new code has
served is served by the old code on its next connection.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from math import inf
from signal import SIGQUIT
from typing import Any, Final, NamedTuple

from twisted.internet.defer import CancelledError, Deferred, FirstError, gatherResults
from twisted.logger import Logger
from twisted.python.failure import Failure

from txsignalfd._proc.reason import RemoteError
from txsignalfd._reload.draining import DrainingService
from txsignalfd._reload.generation import whereIs
from txsignalfd._reload.transaction import OneShotEvent, Timer, firesWithin
from txsignalfd._workers.cgroup import MemoryEvents
from txsignalfd._workers.command import Command
from txsignalfd._workers.ending import describeEnd
from txsignalfd._workers.limits import Limits, memoryOf
from txsignalfd._workers.process import State, WorkerProcess
from txsignalfd._workers.sockets import Sockets
from txsignalfd._workers.spares import Spares
from txsignalfd._workers.workerevent import Batch
from txsignalfd._workers.workerlog import publishEach

_log: Final = Logger("txsignalfd.workers.WorkerSet")

#: Seconds that the old workers have to stop accepting, before the new ones begin.
_SUSPEND: Final = 1.0

#: Seconds between two checks of the limits.
_CHECK: Final = 1.0

#: The shortest and the longest pause before another start, in seconds.
_SHORTEST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 30.0

#: The most failures that are remembered, after which the pause is the longest.
_MOST_FAILURES: Final = 10


class Pauses:
    """
    How long to wait before a worker is started again.
    """

    def __init__(self) -> None:
        self._failures = 0

    def next(self, seconds: float) -> float:
        """
        Return the pause after the end of a worker.

        @param seconds: How long the worker has served.  Each second makes up for one
            failure before.
        """
        failures = max(0, self._failures - int(seconds))
        self._failures = min(failures + 1, _MOST_FAILURES)
        if not failures:
            return 0
        return float(min(_SHORTEST_PAUSE * 2 ** (failures - 1), _LONGEST_PAUSE))


class Setup(NamedTuple):
    """
    The settings and resources that the workers of all generations share.
    """

    #: Starts a worker.
    command: Command
    #: The listening sockets.
    sockets: Sockets
    #: Seconds in which a worker has to start.
    startTimeout: float
    #: Seconds that connections of a worker have to drain when others serve.
    drain: float
    #: When a worker is replaced although it has not ended.
    limits: Limits
    #: Called with the files of the program that have changed, for C{--watch}.
    changed: Callable[[list[str]], object]
    reactor: Any
    #: Processes that wait to become workers.
    spares: Spares
    #: Writes events of a worker to the log.
    write: Callable[[Batch], bool] = publishEach


class Phase(Enum):
    """
    What a L{WorkerSet} is doing::

        ========= ============================================= =========
        phase     event                                         new phase
        ========= ============================================= =========
        NEW       it gets the workers of the program before     ADOPTED
        NEW,      its workers have started, and the old ones    SERVING
        ADOPTED   have stopped accepting connections
        SERVING   the workers of a new generation have started  SUSPENDED
        any       it is retired                                 RETIRED
        ========= ============================================= =========
    """

    NEW = auto()
    ADOPTED = auto()
    SERVING = auto()
    SUSPENDED = auto()
    RETIRED = auto()


class WorkerSet(DrainingService):
    """
    The workers of one generation.
    """

    def __init__(self, count: int, setup: Setup, previous: WorkerSet | None) -> None:
        """
        @param count: The number of workers.
        @param setup: The settings and resources that all generations share.
        @param previous: The workers that serve now.
        """
        self._count = count
        self._setup = setup
        self._sockets = setup.sockets
        self._reactor = setup.reactor
        self._previous = previous
        #: The living processes, also those that drain.
        self.processes: set[WorkerProcess] = set()
        #: The process of each number that is to serve.
        self._members: dict[int, WorkerProcess] = {}
        #: Processes that have ended, and whose sockets stay open until others serve.
        self._unreleased: list[WorkerProcess] = []
        self._pauses: dict[int, Pauses] = {}
        self._phase = Phase.NEW
        self._drained = OneShotEvent()
        self._timers: dict[object, Timer] = {}
        self._memory = MemoryEvents()
        #: The worker that takes the place of another one.
        self._replacement: WorkerProcess | None = None

    @property
    def isServing(self) -> bool:
        """
        Whether its workers accept connections.
        """
        return self._phase is Phase.SERVING

    def adopt(self, passed: list[dict[str, Any]]) -> dict[int, object]:
        """
        Take over the workers of the program that this one has replaced, in place of
        starting some.

        @param passed: What L{WorkerProcess.passOn} has returned for each of them.
        @return: The workers by their pids.
        """
        self._phase = Phase.ADOPTED
        for each in passed:
            process = self._newProcess(each["number"])
            process.adopt(each)
            self._add(process)
            if each["serves"]:
                self._members[process.number] = process
        return {process.pid: process for process in self.processes}

    def startService(self) -> Deferred[None]:
        """
        Start the workers.

        @return: A Deferred that fires when all of them accept connections, or fails
            with the reason of the first one that cannot start.
        """
        super().startService()
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        isAdopted = self._phase is Phase.ADOPTED
        numbers = range(0) if isAdopted else range(1, self._count + 1)
        starts = [self._join(number) for number in numbers]
        try:
            await gatherResults(starts, consumeErrors=True)
        except FirstError as first:
            error: Any = first.subFailure
            raise error.value from None
        for process in self._members.values():
            if process.state is State.ENDED:
                how = describeEnd(process.reason)
                raise RemoteError(f"{process} {how} before the others had started")
        previous, self._previous = self._previous, None
        if previous is not None:
            await previous.suspend(self._sockets.keys(self))
        if self._phase is Phase.RETIRED:
            # That has cancelled the wait, which does not fail then.
            raise CancelledError
        self._phase = Phase.SERVING
        for process in self._members.values():
            process.serve(self._count > 1)
        # The number may have changed meanwhile.
        self.resize(self._count)
        if self._setup.limits.areSet:
            self._callLater("check", _CHECK, self._check)

    def _join(self, number: int) -> Deferred[None]:
        process = self._spawn(number)
        self._members[number] = process
        return self._started(process)

    def _spawn(self, number: int) -> WorkerProcess:
        process = self._newProcess(number)
        spare = self._setup.spares.take(self._setup.command)
        if spare is None:
            process.start(self._setup.command)
        else:
            spare.begin(process)
        self._add(process)
        return process

    def _newProcess(self, number: int) -> WorkerProcess:
        setup = self._setup
        process = WorkerProcess(number, self, setup.sockets, setup.reactor, setup.write)
        process.changed = self._changed
        process.loaded = setup.spares.learn
        process.ageLimit = self._setup.limits.ageOfOne()
        return process

    def _add(self, process: WorkerProcess) -> None:
        self.processes.add(process)
        process.ended.wait().addCallback(lambda _: self._ended(process))

    def _changed(self, paths: list[str]) -> None:
        if self.isServing:
            self._setup.changed(paths)

    def _started(self, process: WorkerProcess) -> Deferred[None]:
        seconds = self._setup.startTimeout
        text = f"has not started within {seconds:g} s (--start-timeout)"
        timer = Timer(self._reactor, seconds, lambda: process.fail(text))

        def cancel(result: Any) -> Any:
            timer.cancel()
            return result

        return process.started.addBoth(cancel)

    def suspend(self, keys: list[Any]) -> Deferred[Any]:
        """
        Stop accepting connections: other workers will accept them.

        @param keys: The keys of the sockets from which they will accept.
        @return: A Deferred that fires when no worker accepts, or when one of them
            takes too long.
        """
        if self.isServing:
            self._stopServing(Phase.SUSPENDED)
        suspended = gatherResults([each.suspend(keys) for each in self.processes])
        return Deferred.fromCoroutine(firesWithin(_SUSPEND, suspended, self._reactor))

    def _stopServing(self, phase: Phase) -> None:
        self._phase = phase
        while self._timers:
            self._timers.popitem()[1].cancel()

    def retire(self, seconds: float, isReplaced: bool) -> None:
        """
        Stop accepting connections, and end when those that are open have drained.
        """
        self._stopServing(Phase.RETIRED)
        for process in list(self.processes):
            process.end(seconds, isReplaced)
        self._checkDrained()

    def whenDrained(self) -> Deferred[None]:
        """
        @return: A Deferred that fires when all workers have ended after L{retire}.
        """
        return self._drained.wait()

    def cut(self) -> None:
        """
        Abort all connections, and end at once.
        """
        for process in list(self.processes):
            process.kill(SIGQUIT)

    def resize(self, count: int) -> None:
        """
        Start more workers, or drain and end some.

        @param count: The number of workers that are to serve.
        """
        self._count = count
        if not self.isServing:
            return
        for number in range(1, count + 1):
            if number not in self._members:
                self._restart(number)
        for number in [each for each in self._members if each > count]:
            self._stopTimer(number)
            self._members.pop(number).end(self._setup.drain, True)
        for process in self._members.values():
            if process.state is State.SERVING:
                process.serve(count > 1)

    def _ended(self, process: WorkerProcess) -> None:
        self.processes.discard(process)
        self.closed += process.closed
        self.limit = process.limit or self.limit
        isOutOfMemory = self._memory.hasKilled()
        isMember = self._members.get(process.number) is process
        if self.isServing and isMember:
            self._unreleased.append(process)
            self._startAgain(process, describeEnd(process.reason, isOutOfMemory))
        self._checkDrained()

    def _startAgain(self, process: WorkerProcess, how: str) -> None:
        pauses = self._pauses.setdefault(process.number, Pauses())
        pause = pauses.next(process.servedSeconds)
        _log.error(
            "{worker} {how} after {seconds:.1f} s; starting it again{when}",
            worker=process,
            how=how,
            seconds=process.seconds,
            when=f" in {pause:g} s" if pause else "",
        )
        self._callLater(process.number, pause, lambda: self._restart(process.number))

    def _callLater(
        self, key: object, seconds: float, call: Callable[[], object]
    ) -> None:
        self._timers[key] = Timer(self._reactor, seconds, call)

    def _stopTimer(self, key: object) -> None:
        if timer := self._timers.pop(key, None):
            timer.cancel()

    def _checkDrained(self) -> None:
        if self._phase is Phase.RETIRED and not self.processes:
            self._sockets.releaseAll(self)
            self._drained.fire()

    def _restart(self, number: int) -> None:
        self._stopTimer(number)
        try:
            started = self._join(number)
        except OSError as error:
            # The system has no process or no descriptor left.
            _log.error(
                "worker {number} cannot be started: {error};"
                " trying again in {pause:g} s",
                number=number,
                error=error,
                pause=_LONGEST_PAUSE,
            )
            self._callLater(number, _LONGEST_PAUSE, lambda: self._restart(number))
            return
        process = self._members[number]
        # How it has ended is logged then.
        started.addCallbacks(
            lambda _: self._serve(process),
            lambda it: self._cannotStart(process, process, it.value),
        )

    def _cannotStart(
        self, process: WorkerProcess, member: WorkerProcess, reason: object
    ) -> None:
        """
        Log why a process has not started, unless it was told to end.

        @param process: The process.
        @param member: The process whose place it has, or was to take.
        @param reason: The reason.
        """
        if self.isServing and self._members.get(process.number) is member:
            text = str(reason)
            if not text.startswith(str(process)):
                text = f"{process} cannot start: {text}"
            _log.error("{text}", text=text)

    def _serve(self, process: WorkerProcess) -> None:
        if self.isServing and self._members.get(process.number) is process:
            process.serve(self._count > 1)
            _log.info("{worker} serves", worker=process)
            while self._unreleased:
                self._sockets.forget(self, self._unreleased.pop())

    def _check(self) -> None:
        """
        Look for workers that have reached a limit.
        """
        self._callLater("check", _CHECK, self._check)
        timeout, memory, _ = self._setup.limits
        for process in list(self._members.values()):
            if process.state is not State.SERVING:
                continue
            if process.silence > timeout:
                process.abort(timeout)
            elif process.seconds > process.ageLimit:
                self._replace(process, "--max-age")
            elif (
                memory < inf
                and process.seconds > process.memoryLimitFrom
                and memoryOf(process.pid) > memory
            ):
                self._replace(process, "--max-memory")

    def _replace(self, old: WorkerProcess, option: str) -> None:
        """
        Start another worker, and then let the old one drain.  Only one at a time.
        """
        if self._replacement is not None:
            return
        _log.info(
            "{worker} has reached {option}: replacing it", worker=old, option=option
        )
        new = self._replacement = self._spawn(old.number)
        if option == "--max-memory":
            # A limit that is too low must not replace workers all the time.
            new.memoryLimitFrom = _LONGEST_PAUSE

        def started(_: object) -> None:
            self._replacement = None
            if self.isServing and self._members.get(old.number) is old:
                self._members[old.number] = new
                self._serve(new)
                old.end(self._setup.drain, True)
            else:
                new.end(0, True)

        def failed(it: Failure) -> None:
            self._cannotStart(new, old, it.value)
            old.ageLimit = old.seconds + _LONGEST_PAUSE
            # Not before that time, for memory too.
            self._callLater("replace", _LONGEST_PAUSE, self._mayReplace)

        self._started(new).addCallbacks(started, failed)

    def _mayReplace(self) -> None:
        self._replacement = None

    def status(self) -> dict[str, Any]:
        """
        Describe the workers, by what each of them has said last.
        """
        processes = self._inOrder()
        return {
            "connections": sum(each.connections for each in processes),
            "addresses": list(map(whereIs, self._sockets.ports(self))),
            "workers": [each.status() for each in processes],
            "spareWorkers": self._setup.spares.status() if self.isServing else [],
        }

    def describe(self) -> list[str]:
        """
        Describe each worker in a line of a report.
        """
        spares = self._setup.spares.describe() if self.isServing else []
        return [*map(WorkerProcess.describe, self._inOrder()), *spares]

    def _inOrder(self) -> list[WorkerProcess]:
        return sorted(self.processes, key=lambda each: (each.number, each.pid))
