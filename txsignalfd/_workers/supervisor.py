# -*- test-case-name: tests.workers.test_workers -*-
"""
L{Supervisor}: makes the workers of each generation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from signal import SIGKILL
from typing import Any, Final

from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger

from txsignalfd._reload.transaction import firesWithin
from txsignalfd._workers.process import State, WorkerProcess
from txsignalfd._workers.workerset import Setup, WorkerSet

_log: Final = Logger("txsignalfd.workers.Supervisor")

#: Seconds that a worker has to answer a question.
_PATIENCE: Final = 1.0


class Supervisor:
    """
    Makes a L{WorkerSet} at each call, as the factory of a C{ReloadService}.
    """

    def __init__(
        self,
        count: Callable[[], int],
        setup: Setup,
        variables: Callable[[], dict[str, str]] = dict,
    ) -> None:
        """
        @param count: Returns how many workers there are to be.
        @param setup: The settings and resources that all generations share.
        @param variables: Reads what a new generation adds to the environment.
        """
        self._variables = variables
        #: The variables of the generation that a reload is about to start.
        self._next: dict[str, str] | None = None
        self._count = count
        #: How many workers were added, or, if it is negative, removed.
        self._added = 0
        self._setup = setup
        self.sockets = setup.sockets
        self._sets: list[WorkerSet] = []
        #: The state of the previous program, if this one has replaced it.
        self._passed: dict[str, Any] | None = None
        setup.spares.workers = lambda: self.count
        setup.spares.areSettled = self._areSettled
        reactor = setup.reactor
        reactor.addSystemEventTrigger("before", "shutdown", setup.spares.stop)
        reactor.addSystemEventTrigger("after", "shutdown", self._close)

    def __repr__(self) -> str:
        return "the supervisor"

    def __call__(self) -> WorkerSet:
        """
        Return the workers of another generation, which have not started.
        """
        self._sets = [each for each in self._sets if each.processes or each.isServing]
        serving = [each for each in self._sets if each.isServing]
        previous = serving[-1] if serving else None
        if previous is not None:
            # A daemon that was reloaded once will be reloaded again.
            self._setup.spares.isWanted = True
        passed, self._passed = self._passed, None
        variables = self._next
        if passed is not None:
            variables = passed.get("variables", {})
        elif variables is None:
            variables = self._variables()
        command = replace(self._setup.command, variables=variables)
        self._setup = self._setup._replace(command=command)
        new = WorkerSet(self.count, self._setup, previous)
        self._sets.append(new)
        if passed is not None:
            workers = new.adopt(passed["workers"])
            self.sockets.adopt(passed["sockets"], new, workers)
        return new

    def prepare(self) -> tuple[Callable[[], None], Callable[[], None]]:
        """
        Read the variables of the next generation, before old workers may be stopped.

        L{ReloadService.addParticipant
        <txsignalfd._reload.service.ReloadService.addParticipant>} calls this.
        """
        self._next = self._variables()

        def forget() -> None:
            self._next = None

        return forget, forget

    @property
    def isIdle(self) -> bool:
        """
        Whether the output of every worker that has exited was read to its end.
        """
        return not any(process.hasOutput for process in self._processes())

    def _areSettled(self) -> bool:
        """
        Whether all workers serve, and no other ones drain.
        """
        states = {each.state for each in self._processes()}
        return states == {State.SERVING}

    @property
    def pids(self) -> set[int]:
        """
        The processes of all workers.
        """
        return {process.pid for process in self._processes()}

    def endStarting(self) -> None:
        """
        End the workers that do not serve yet: the next program starts others.
        """
        for process in list(self._processes()):
            if process.state in (State.STARTING, State.READY):
                process.end(0, True)

    def passOn(self, descriptors: list[int]) -> dict[str, Any]:
        """
        Describe workers and sockets for the program that replaces this one.

        @param descriptors: Where to add the descriptors that it needs.
        """
        # None, if the first workers are starting, or a reload is just being completed.
        serving = next((each for each in self._sets if each.isServing), None)
        return {
            "added": self._added,
            "variables": self._setup.command.variables,
            "workers": [each.passOn(descriptors) for each in self._processes()],
            "sockets": self.sockets.passOn(serving, descriptors),
        }

    def adopt(self, passed: dict[str, Any]) -> None:
        """
        Let the first generation be the workers of the previous program.

        @param passed: The result of L{passOn}.
        """
        self._added = passed["added"]
        self._passed = passed

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

    @property
    def hasWorkers(self) -> bool:
        """
        Whether there are workers that are to serve, also if all of them have crashed.
        """
        return any(each.isServing for each in self._sets)

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
        self._setup.spares.fill()

    def _close(self) -> None:
        # If the daemon stops at once, a worker may hang.
        for process in self._processes():
            process.kill(SIGKILL)
        # Ports that were opened late keep their sockets for a while.
        self._setup.sockets.close()

    def rotate(self) -> None:
        """
        Let the workers open log files again that were moved.
        """
        for process in self._processes():
            process.rotate()

    def signal(self, signo: int) -> None:
        """
        Send a signal to all workers whose program has started.
        """
        for process in self._processes():
            if process.state is not State.STARTING:
                process.kill(signo)

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
