# -*- test-case-name: tests.workers.test_workers -*-
"""
L{Supervisor}: makes the workers of each generation.
"""

from __future__ import annotations

from collections.abc import Callable

from txsignalfd._workers.workerset import Setup, WorkerSet


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
        self._setup = setup
        self._sets: list[WorkerSet] = []
        # Ports that were opened late keep their sockets for a while.
        setup.reactor.addSystemEventTrigger("after", "shutdown", setup.sockets.close)

    def __repr__(self) -> str:
        return "the supervisor"

    def __call__(self) -> WorkerSet:
        """
        Return the workers of another generation, which have not started.
        """
        serving = [each for each in self._sets if each.isServing]
        new = WorkerSet(self._count(), self._setup, serving[-1] if serving else None)
        self._sets = [*serving, new]
        return new
