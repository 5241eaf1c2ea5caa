# -*- test-case-name: tests.workers.test_spares -*-
"""
L{Spares}: processes that have imported Twisted already, and wait to become workers.

To import Twisted takes most of the CPU time of a worker's start.  Spare workers do it
in advance, when nothing else happens: one at a time, and not before the old workers of
a reload have ended.  Unless their number is given there are none before the first
reload, because a daemon that is never reloaded would keep them in memory for nothing.
L{txsignalfd._workers.spare} is what they run.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from time import time_ns
from typing import Any, Final

from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from txsignalfd._reload.transaction import Timer
from txsignalfd._workers.channel import Channel, Message
from txsignalfd._workers.command import Command
from txsignalfd._workers.ending import describeEnd
from txsignalfd._workers.limits import memoryOf
from txsignalfd._workers.process import WorkerProcess
from txsignalfd._workers.program import Program

_log: Final = Logger("txsignalfd.workers.Spares")

#: Seconds after the last start of a worker, and after a failed start of a spare one.
_PAUSE: Final = 1.5
_LONG_PAUSE: Final = 30.0

#: Seconds between two checks whether another one can start.
_INTERVAL: Final = 0.25


class Spare(ProcessProtocol):
    """
    A process that waits, and then belongs to a L{WorkerProcess}.
    """

    transport: Any

    def __init__(self, ended: Callable[[Spare, Any], object]) -> None:
        """
        @param ended: Called with the reason if it ends while it waits.
        """
        self.channel: Channel
        self.pid = 0
        #: The result of L{Command.conditions} at its start.
        self.conditions: Any = None
        #: Whether it has imported everything.
        self.isPrepared = False
        self._ended = ended
        self._worker: WorkerProcess | None = None
        self._receive: Callable[[Message], object] = print
        self._hasBegun = False
        self._command: Command

    def __str__(self) -> str:
        return f"spare worker (pid {self.pid})"

    def start(
        self, command: Command, program: Program, modules: list[str], reactor: Any
    ) -> None:
        """
        Start the process.

        @param command: The command of a worker.
        @param program: Its program.
        @param modules: The modules to import.
        @param reactor: The reactor.
        @raise OSError: If the system has no process or descriptor left.
        """
        self._command = command
        self.conditions = command.conditions()
        began = time_ns()
        end = command.spare(program).start(self, 0, reactor)
        self.pid = self.transport.pid
        self.channel = Channel(end, reactor, self._received, lambda: None)
        self.channel.start()
        self.channel.send(prepare=modules, began=began)

    def connectionMade(self) -> None:
        """
        Leave its output to the worker that it becomes.
        """
        self.transport.pauseProducing()

    def begin(self, worker: WorkerProcess) -> None:
        """
        Become the process of a worker.
        """
        self._worker, self._receive = worker, worker.receive
        worker.use(self.transport, self.channel)
        self.channel.send(begin=worker.number)
        self.transport.resumeProducing()

    def end(self) -> None:
        """
        End the process.
        """
        self._ended = lambda *_: None
        self.channel.close()

    def status(self) -> dict[str, Any]:
        """
        Describe it for a program.
        """
        return {
            "pid": self.pid,
            "state": "waits" if self.isPrepared else "starts",
            "memory": memoryOf(self.pid),
        }

    def _received(self, message: Message) -> None:
        match message.fields:
            case {"prepared": True}:
                self.isPrepared = True
            case {"begun": True}:
                self._hasBegun = True
            case _:
                self._receive(message)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """
        Receive output of the worker.
        """
        if self._worker is not None:
            self._worker.childDataReceived(childFD, data)

    def processExited(self, reason: Failure) -> None:
        """
        Note the end of the process.
        """
        self.channel.doRead()
        if self._hasBegun and self._worker is not None:
            self._worker.processExited(reason)
        else:
            self.transport.resumeProducing()

    def processEnded(self, reason: Failure) -> None:
        """
        Note the end of the process and of its output.
        """
        worker = self._worker
        if worker is None:
            self.channel.close()
            self._ended(self, reason.value)
        elif self._hasBegun:
            worker.processEnded(reason)
        elif not (worker.isStarting and self._startAgain(worker)):
            worker.processExited(reason)

    def _startAgain(self, worker: WorkerProcess) -> bool:
        """
        Start a process for a worker: this one had ended when it was told to begin.

        @return: Whether the system has a process.
        """
        self.channel.close()
        try:
            worker.start(self._command)
        except OSError:
            return False
        return True


class Spares:
    """
    Keeps some spare workers, while the supervisor has nothing else to do.
    """

    def __init__(self, most: float, command: Command, reactor: Any) -> None:
        """
        @param most: The most spare workers to keep, or infinity for one for each
            worker as soon as L{isWanted} is set.  There are never more than workers.
        @param command: The command of a worker.
        @param reactor: The reactor.
        """
        #: Whether a reload is to be expected.
        self.isWanted = isfinite(most)
        self._program = command.program() if most else None
        self._most = most
        self._command = command
        self._reactor = reactor
        #: Returns how many workers there are.
        self.workers: Callable[[], int] = lambda: 0
        #: Returns whether all workers serve, and no other ones drain.
        self.areSettled: Callable[[], bool] = lambda: False
        #: The modules that they import.
        self.modules: list[str] = []
        self._waiting: list[Spare] = []
        self._timer: Timer | None = None
        self._hasStopped = False

    def learn(self, modules: list[str]) -> None:
        """
        Note which modules a worker has loaded.
        """
        self.modules = modules

    def take(self, command: Command) -> Spare | None:
        """
        Return a spare worker that has started as a new one would start now.

        @param command: The command of the worker.  Later spare workers have it, too.
        """
        self._command = command
        self.fill()
        conditions = command.conditions()
        # The first one has had the most time to import.
        while self._waiting:
            spare = self._waiting.pop(0)
            if spare.conditions == conditions:
                return spare
            spare.end()
        return None

    def fill(self, pause: float | None = None) -> None:
        """
        Begin to start spare workers, or to end surplus ones, after a pause.

        @param pause: The seconds, or C{None} for as many as after a start.
        """
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if self._program is not None and not self._hasStopped:
            seconds = _PAUSE if pause is None else pause
            self._timer = Timer(self._reactor, seconds, self._adjust)

    def _adjust(self) -> None:
        """
        Start or end spare workers.
        """
        number = min(self._most, self.workers()) if self.isWanted else 0
        while len(self._waiting) > number:
            self._waiting.pop().end()
        if len(self._waiting) == number:
            return
        self.fill(_INTERVAL)
        if self.areSettled() and all(each.isPrepared for each in self._waiting):
            try:
                self._start()
            except OSError as error:
                # The system has no process or no descriptor left.
                _log.warn("a spare worker cannot be started: {error}", error=error)
                self.fill(_LONG_PAUSE)

    def _start(self) -> None:
        assert self._program is not None, "there are none otherwise"
        spare = Spare(self._ended)
        spare.start(self._command, self._program, self.modules, self._reactor)
        self._waiting.append(spare)

    def _ended(self, spare: Spare, reason: Any) -> None:
        self._waiting.remove(spare)
        _log.info(
            "{spare} {how}; starting another in {pause:g} s",
            spare=spare,
            how=describeEnd(reason),
            pause=_LONG_PAUSE,
        )
        self.fill(_LONG_PAUSE)

    def stop(self) -> None:
        """
        End all spare workers, and do not start others.
        """
        self._hasStopped = True
        self.fill()
        while self._waiting:
            self._waiting.pop().end()

    def status(self) -> list[dict[str, Any]]:
        """
        Describe them for a program.
        """
        return [each.status() for each in self._waiting]

    def describe(self) -> list[str]:
        """
        Describe each one in a line of a report.
        """
        line = "spare worker (pid {pid}) {state}: {size} MiB"
        return [
            line.format(**each, size=each["memory"] >> 20) for each in self.status()
        ]
