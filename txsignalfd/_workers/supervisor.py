# -*- test-case-name: tests.workers.test_workers -*-
"""
L{Supervisor}: makes the workers of each generation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger

from txsignalfd._reload.transaction import firesWithin
from txsignalfd._workers.process import WorkerProcess
from txsignalfd._workers.workerset import Setup, WorkerSet

_log: Final = Logger("txsignalfd.workers.Supervisor")

#: Seconds that a worker has to answer a question.
_PATIENCE: Final = 1.0


class Supervisor:
    """
    Makes a L{WorkerSet} at each call, as the factory of a C{ReloadService}.
    """

    def __init__(self, count: Callable[[], int], setup: Setup) -> None:
        """
        @param count: Returns how many workers there are to be.
        @param setup: What the workers of all generations share.
        """
        self._count = count
        #: How many workers were added, or, if it is negative, removed.
        self._added = 0
        self._setup = setup
        self.sockets = setup.sockets
        self._sets: list[WorkerSet] = []
        setup.reactor.addSystemEventTrigger("after", "shutdown", self._close)

    def __repr__(self) -> str:
        return "the supervisor"

    def __call__(self) -> WorkerSet:
        """
        Return the workers of another generation, which have not started.
        """
        self._sets = [each for each in self._sets if each.processes or each.isServing]
        serving = [each for each in self._sets if each.isServing]
        previous = serving[-1] if serving else None
        new = WorkerSet(self.count, self._setup, previous)
        self._sets.append(new)
        return new

    @property
    def count(self) -> int:
        """
        How many workers there are to be.
        """
        return max(1, self._count() + self._added)

    @property
    def isServing(self) -> bool:
        """
        Whether any worker serves.
        """
        return any(process.isServing for process in self._processes())

    def resize(self, change: int) -> None:
        """
        Add or remove workers, now and for later generations.

        @param change: How many to add, or, if it is negative, to remove.
        """
        before = self.count
        self._added = max(before + change, 1) - self._count()
        _log.info("workers: {before}, now {now}", before=before, now=self.count)
        for each in self._sets:
            each.resize(self.count)

    def _close(self) -> None:
        # If the daemon stops at once, a worker may hang.
        for each in self._sets:
            each.kill()
        # Ports that were opened late keep their sockets for a while.
        self._setup.sockets.close()

    def rotate(self) -> None:
        """
        Let the workers open log files again that were moved.
        """
        for each in self._sets:
            each.rotate()

    def ask(self) -> Deferred[Any]:
        """
        Ask all workers for their connections.

        @return: A Deferred that fires when each has answered, or after a second.
            A worker without an answer is busy then.
        """
        answers = gatherResults([process.ask() for process in self._processes()])
        return Deferred.fromCoroutine(
            firesWithin(_PATIENCE, answers, self._setup.reactor)
        )

    def report(self, requester: str) -> None:
        """
        Let all workers write a report to the log, as soon as they can.

        @param requester: The signal that has requested it, and its sender.
        """
        for process in self._processes():
            process.report(requester)

    def _processes(self) -> Iterator[WorkerProcess]:
        for each in self._sets:
            yield from each.processes
