# -*- test-case-name: tests.workers.test_workers -*-
"""
L{WorkerSet}: the workers of one generation, as a service.

L{txsignalfd._reload.service.ReloadService} reloads it like any other service.  The
old workers stop accepting before the new ones begin: in between, for some
milliseconds, connections wait in the listen queue.  So no client that has met the new
code meets the old code on its next connection.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.logger import Logger

from txsignalfd._proc.reason import RemoteError
from txsignalfd._reload.draining import DrainingService
from txsignalfd._reload.generation import whereIs
from txsignalfd._reload.transaction import OneShotEvent, Timer, firesWithin
from txsignalfd._workers.command import Command
from txsignalfd._workers.ending import MemoryEvents, describeEnd
from txsignalfd._workers.process import WorkerProcess
from txsignalfd._workers.sockets import Sockets

_log: Final = Logger("txsignalfd.workers.WorkerSet")

#: Seconds that the old workers have to stop accepting, before the new ones begin.
_SUSPEND: Final = 1.0

#: A worker that has lived longer, in seconds, is replaced at once.
_LONG: Final = 30.0

#: The shortest and the longest pause before another start, in seconds.
_SHORTEST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 30.0


class Pauses:
    """
    How long to wait before a worker is started again.
    """

    def __init__(self) -> None:
        self._failures = 0

    def next(self, seconds: float) -> float:
        """
        Return the pause after the end of a worker.

        @param seconds: How long the worker has lived.
        """
        if seconds > _LONG:
            self._failures = 0
        failures, self._failures = self._failures, self._failures + 1
        if not failures:
            return 0
        return float(min(_SHORTEST_PAUSE * 2 ** (failures - 1), _LONGEST_PAUSE))


class Setup(NamedTuple):
    """
    What the workers of all generations share.
    """

    #: Starts a worker.
    command: Command
    #: The listening sockets.
    sockets: Sockets
    #: Seconds in which a worker has to start.
    startTimeout: float
    reactor: Any


class WorkerSet(DrainingService):
    """
    The workers of one generation.
    """

    def __init__(self, count: int, setup: Setup, previous: WorkerSet | None) -> None:
        """
        @param count: The number of workers.
        @param setup: What all generations share.
        @param previous: The workers that serve now.
        """
        self._setup = setup
        self._sockets = setup.sockets
        self._reactor = setup.reactor
        self._previous = previous
        #: The living processes.
        self.processes: set[WorkerProcess] = set()
        self._pauses = {number: Pauses() for number in range(1, count + 1)}
        #: Whether its workers accept connections.
        self.isServing: bool = False
        self._isRetired = False
        self._drained = OneShotEvent()
        self._restarts: dict[int, Timer] = {}
        self._memory = MemoryEvents()

    def startService(self) -> Deferred[None]:
        """
        Start the workers.

        @return: A Deferred that fires when all of them accept connections, or fails
            with the reason of the first one that cannot start.
        """
        super().startService()
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        starts = [self._started(self._spawn(number)) for number in self._pauses]
        try:
            await gatherResults(starts, consumeErrors=True)
        except FirstError as first:
            error: Any = first.subFailure
            raise error.value from None
        lost = self._pauses.keys() - {each.number for each in self.processes}
        if lost:
            raise RemoteError(f"worker {min(lost)} has ended before the others served")
        previous, self._previous = self._previous, None
        if previous is not None:
            await previous.suspend(self._sockets.keys(self))
        self.isServing = True
        for process in self.processes:
            process.serve()

    def _spawn(self, number: int) -> WorkerProcess:
        process = WorkerProcess(number, self, self._sockets, self._reactor)
        process.start(self._setup.command)
        self.processes.add(process)
        process.ended.wait().addCallback(lambda _: self._ended(process))
        return process

    def _started(self, process: WorkerProcess) -> Deferred[None]:
        text = (
            f"has not started within {self._setup.startTimeout:g} s (--start-timeout)"
        )
        timer = Timer(
            self._reactor, self._setup.startTimeout, lambda: process.fail(text)
        )

        def cancel(result: Any) -> Any:
            timer.cancel()
            return result

        return process.started.addBoth(cancel)

    def suspend(self, keys: list[Any]) -> Deferred[Any]:
        """
        Accept no more connections: other workers are about to.

        @param keys: The keys of the sockets from which they will accept.
        @return: A Deferred that fires when no worker accepts, or when one of them
            takes too long.
        """
        self.isServing = False
        self._stopRestarts()
        suspended = gatherResults([each.suspend(keys) for each in self.processes])
        return Deferred.fromCoroutine(firesWithin(_SUSPEND, suspended, self._reactor))

    def _stopRestarts(self) -> None:
        while self._restarts:
            self._restarts.popitem()[1].cancel()

    def retire(self, seconds: float, isReplaced: bool) -> None:
        """
        Accept no more connections, and end when those that are open have drained.
        """
        self.isServing, self._isRetired = False, True
        self._stopRestarts()
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
            process.cut()

    def _ended(self, process: WorkerProcess) -> None:
        self.processes.discard(process)
        self.closed += process.closed
        self.limit = process.limit or self.limit
        isOutOfMemory = self._memory.hasKilled()
        if self.isServing:
            pause = self._pauses[process.number].next(process.seconds)
            _log.error(
                "{worker} {how} after {seconds:.1f} s; starting it again{when}",
                worker=process,
                how=describeEnd(process.reason, isOutOfMemory),
                seconds=process.seconds,
                when=f" in {pause:g} s" if pause else "",
            )
            self._restarts[process.number] = Timer(
                self._reactor, pause, lambda: self._restart(process.number)
            )
        self._checkDrained()

    def _checkDrained(self) -> None:
        if self._isRetired and not self.processes:
            self._sockets.releaseAll(self)
            self._drained.fire()

    def _restart(self, number: int) -> None:
        self._restarts.pop(number, None)
        process = self._spawn(number)

        def started(_: object) -> None:
            if self.isServing:
                process.serve()
                _log.info("{worker} serves", worker=process)

        # How it has ended is logged then.
        self._started(process).addCallbacks(
            started, lambda it: _log.error("{reason}", reason=it.value)
        )

    def status(self) -> dict[str, Any]:
        """
        Describe the workers.
        """
        workers = [
            {"number": each.number, "pid": each.pid, "state": each.state.value}
            for each in sorted(self.processes, key=lambda each: each.number)
        ]
        addresses = list(map(whereIs, self._sockets.ports(self)))
        return {"connections": 0, "addresses": addresses, "workers": workers}
