# -*- test-case-name: tests.workers.test_process -*-
"""
L{WorkerProcess}: one worker, as the supervisor sees it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from math import inf
from signal import SIGABRT, SIGKILL, SIGTERM
from time import monotonic
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from txsignalfd._proc.quoting import counted
from txsignalfd._proc.reason import RemoteError
from txsignalfd._reload.transaction import OneShotEvent, Timer
from txsignalfd._workers.adopted import AdoptedProcess, pipesOf
from txsignalfd._workers.channel import Channel, Message
from txsignalfd._workers.collecting import Collector
from txsignalfd._workers.command import Command
from txsignalfd._workers.ending import describeEnd, lastReason
from txsignalfd._workers.limits import memoryOf
from txsignalfd._workers.sockets import Sockets
from txsignalfd._workers.workerevent import Batch
from txsignalfd._workers.workerlog import WorkerOutput, publishEach

_log: Final = Logger("txsignalfd.workers.WorkerProcess")

#: Seconds that a worker has to end after its connections.
GRACE: Final = 10.0

#: Seconds after which a worker that says nothing does not serve.
_SILENT: Final = 2.5

#: Seconds that a worker has to write the stacks of its threads.
_ABORT: Final = 2.0

#: Seconds to read the remaining output after the process has ended.
_LINGER: Final = 0.1


class State(Enum):
    """
    The states of a worker; the value describes it in a report.
    """

    STARTING = "starts"
    READY = "has started"
    SERVING = "serves"
    DRAINING = "drains"
    ENDED = "has ended"


#: The states in which a worker answers, unless it is busy.
_ANSWERING: Final = (State.READY, State.SERVING, State.DRAINING)


class WorkerProcess(ProcessProtocol):
    """
    The process of a worker.

    @ivar number: The number of the worker.
    @ivar state: Its state.
    @ivar started: Fires when its service has started, or fails with a
        L{RemoteError}.
    @ivar ended: Fires when the process has ended.
    @ivar reason: How it has ended, as Twisted's C{ProcessTerminated}.
    @ivar closed: How many connections were still open after their time limit.
    @ivar limit: That time limit.
    """

    transport: Any

    def __init__(
        self,
        number: int,
        user: object,
        sockets: Sockets,
        reactor: Any,
        write: Callable[[Batch], bool] = publishEach,
    ) -> None:
        """
        @param number: The number of the worker.
        @param user: The generation, as a user of sockets.
        @param sockets: The sockets of the supervisor.
        @param reactor: The reactor.
        @param write: Writes events of the worker to the log, if it can.
        """
        self.number = number
        self.state = State.STARTING
        self.started: Deferred[None] = Deferred(lambda _: self.end(0, False))
        self.ended = OneShotEvent()
        self.pid = 0
        #: Seconds after which it is replaced.
        self.ageLimit = inf
        #: Age in seconds from which it is replaced for its memory.
        self.memoryLimitFrom = 0.0
        #: Its open connections, when it was heard last.
        self.connections = 0
        self.closed, self.limit = 0, ""
        self.reason: Any = None
        self._user = user
        self._sockets = sockets
        self._reactor = reactor
        self._began = self._heard = monotonic()
        self._served: float | None = None
        self._output = WorkerOutput(number, write)
        self._failure: RemoteError | None = None
        #: What its start waits for, if the worker has said so.
        self._waits = ""
        #: Called with the files that have changed, for C{--watch}.
        self.changed: Callable[[list[str]], object] = lambda _: None
        #: Called with the modules that a spare worker can import.
        self.loaded: Callable[[list[str]], object] = lambda _: None
        self._suspended = OneShotEvent()
        #: Fires with the answer to the last question.
        self._answer = OneShotEvent()
        self._answer.fire()
        self._timers: list[Timer] = []
        self._collector = Collector(reactor, self._output.received)
        self._channel: Channel

    def __str__(self) -> str:
        return f"worker {self.number} (pid {self.pid})"

    @property
    def seconds(self) -> float:
        """
        The age of the process.
        """
        return monotonic() - self._began

    @property
    def servedSeconds(self) -> float:
        """
        The time since it began to accept connections, or 0 if it never did.
        """
        return 0 if self._served is None else monotonic() - self._served

    @property
    def silence(self) -> float:
        """
        The time since the last turn of its reactor that is known.
        """
        return monotonic() - self._heard

    @property
    def isServing(self) -> bool:
        """
        Whether it accepts connections, and has made a turn lately.
        """
        return self.state is State.SERVING and self.silence <= _SILENT

    def ask(self) -> Deferred[None]:
        """
        Ask the worker for its connections.

        @return: A Deferred that fires with the answer, or with the end of the worker.
        """
        if self.state not in _ANSWERING:
            return succeed(None)
        if self._answer.fired:
            self._answer = OneShotEvent()
            self._channel.send(do="tell")
        return self._answer.wait()

    def report(self, requester: str) -> None:
        """
        Let the worker write a report to the log.

        @param requester: The signal that has requested it, and its sender.
        """
        if self.state in _ANSWERING:
            self._channel.send(do="report", requester=requester)

    def status(self) -> dict[str, Any]:
        """
        Describe the worker for a program.

        One that serves is busy if L{ask} has no answer yet.
        """
        isBusy = not self._answer.fired and self.state is State.SERVING
        return {
            "number": self.number,
            "pid": self.pid,
            "state": "is busy" if isBusy else self.state.value,
            "connections": self.connections,
            "uptime": round(self.seconds, 3),
            "memory": memoryOf(self.pid),
        }

    def describe(self) -> str:
        """
        Describe the worker in a line of a report.
        """
        status = self.status()
        connections = counted(self.connections, "connection")
        return (
            f"{self} {status['state']}: {connections}, {status['memory'] >> 20} MiB,"
            f" {self.seconds:.1f} s old"
        )

    def start(self, command: Command) -> None:
        """
        Start the process.

        @raise OSError: If the system has no process or descriptor left.
        """
        mine = command.start(self, self.number, self._reactor)
        channel = Channel(mine, self._reactor, self.receive, self._lost)
        self.use(self.transport, channel)
        channel.start()

    def use(self, transport: Any, channel: Channel) -> None:
        """
        Use a process that runs already, such as a spare worker.

        @param transport: Its process transport.
        @param channel: The supervisor's end of the channel to it.
        """
        self.transport, self._channel = transport, channel
        self.pid = transport.pid

    @property
    def isStarting(self) -> bool:
        """
        Whether it has neither started nor failed, and is not told to end.
        """
        return self.state is State.STARTING and not self.started.called

    def passOn(self, descriptors: list[int]) -> dict[str, Any]:
        """
        Describe the worker for the program that replaces this one.

        @param descriptors: Where to add the descriptors that it needs.
        """
        pipes = pipesOf(self.transport)
        # The worker has closed its end already if it is about to exit.
        channel = self._channel.fileno()
        descriptors += [each for each in (channel, *pipes.values()) if each >= 0]
        return {
            "number": self.number,
            "pid": self.pid,
            "serves": self.state is State.SERVING,
            "began": self._began,
            "connections": self.connections,
            "closed": self.closed,
            "limit": self.limit,
            "deadlines": [timer.due for timer in self._timers],
            "channel": channel,
            "pipes": list(pipes.items()),
            "output": self._output.passOn(),
        }

    def adopt(self, passed: dict[str, Any]) -> None:
        """
        Take over a worker of the program that this one has replaced.

        @param passed: The result of L{passOn}.
        """
        self.state = State.SERVING if passed["serves"] else State.DRAINING
        self.started.callback(None)
        self._began = self._served = passed["began"]
        self.connections = passed["connections"]
        self.closed, self.limit = passed["closed"], passed["limit"]
        self._output.adopt(passed["output"])
        for due in passed["deadlines"]:
            left = max(0, due - monotonic())
            self._timers.append(Timer(self._reactor, left, self._killOverdue))
        self._channel = self._adoptChannel(passed["channel"])
        self.pid = passed["pid"]
        AdoptedProcess(self._reactor, self, self.pid, dict(passed["pipes"]))

    def _adoptChannel(self, descriptor: int) -> Channel:
        isOpen = descriptor >= 0
        end = socket.socket(socket.AF_UNIX, fileno=descriptor if isOpen else None)
        channel = Channel(end, self._reactor, self.receive, self._lost)
        (channel.start if isOpen else channel.close)()
        return channel

    @property
    def hasOutput(self) -> bool:
        """
        Whether the process has exited, and its last output is still being read.
        """
        return self.reason is not None and self.state is not State.ENDED

    def serve(self, hasPeers: bool) -> None:
        """
        Let the worker accept connections.

        @param hasPeers: Whether others of its generation accept connections, too.
        """
        self.state = State.SERVING
        if self._served is None:
            self._served = monotonic()
        self._heard = monotonic()
        self._channel.send(do="serve", hasPeers=hasPeers)

    def suspend(self, replaced: list[Any]) -> Deferred[None]:
        """
        Make the worker stop accepting connections.

        @param replaced: The keys of the sockets from which others will accept.
        @return: A Deferred that fires when it accepts none.
        """
        self._channel.send(do="suspend", replaced=replaced)
        return self._suspended.wait()

    def end(self, seconds: float, isReplaced: bool) -> None:
        """
        Let the worker drain its connections, and end.

        Each call adds a time limit; the earliest one counts.

        @param seconds: The time limit.
        @param isReplaced: Whether others serve.
        """
        if self.state is State.ENDED:
            return
        if self.state is State.STARTING:
            self.kill(SIGTERM)
        self.state = State.DRAINING
        self._channel.send(do="end", seconds=seconds, replaced=isReplaced)
        self._timers.append(Timer(self._reactor, seconds + GRACE, self._killOverdue))

    def _killOverdue(self) -> None:
        _log.warn("{worker} does not end, and is killed", worker=self)
        self.kill(SIGKILL)

    def rotate(self) -> None:
        """
        Let the worker open log files again that were moved.
        """
        self._channel.send(do="rotate")

    def abort(self, seconds: float) -> None:
        """
        Let the worker write the stacks of its threads, and kill it.

        @param seconds: The time in which it has made no turn.
        """
        _log.error(
            "{worker} has made no turn for {seconds:g} s (--worker-timeout):"
            " killing it",
            worker=self,
            seconds=seconds,
        )
        self.state = State.DRAINING
        self.kill(SIGABRT)
        self._timers.append(Timer(self._reactor, _ABORT, lambda: self.kill(SIGKILL)))

    def kill(self, signo: int) -> None:
        """
        Send a signal to the worker, unless it has ended.
        """
        with suppress(Exception):
            self.transport.signalProcess(signo)

    def receive(self, message: Message) -> None:
        """
        Receive a message of the worker.
        """
        self._heard = monotonic()
        self._waits = message.fields.get("waits", self._waits)
        match message.fields:
            case {"connections": int(connections), "asked": bool(asked)}:
                self.connections = connections
                if asked:
                    self._answer.fire()
            case {"claim": list(key), "options": dict(options)}:
                self._supply(tuple(key), options)
            case {"release": list(key)}:
                self._sockets.release(tuple(key), self._user, self)
            case {"ready": True, **more}:
                self.loaded(more.get("modules", []))
                self.state = State.READY
                self._startedWith(None)
            case {"failed": str(reason), "traceback": str(traceback)}:
                self._failure = RemoteError(reason)
                self._failure.traceback = traceback
            case {"changed": list(paths)}:
                self.changed(paths)
            case {"suspended": True}:
                self._suspended.fire()
            case {"closed": int(closed), "limit": str(limit)}:
                self.closed, self.limit = closed, limit

    def _supply(self, key: tuple[Any, ...], options: dict[str, Any]) -> None:
        try:
            copy = self._sockets.claim(key, options, self._user, self)
        except Exception as error:
            # The worker waits for an answer in any case.
            cause = getattr(error, "socketError", error)
            number = cause.errno if isinstance(cause, OSError) else None
            text = os.strerror(number) if number else str(cause)
            self._channel.send(answer={"errno": number, "text": text})
            return
        with copy:
            isStored = self._sockets.store is not None
            self._channel.send([copy.fileno()], answer={"isStored": isStored})

    def _lost(self) -> None:
        """
        The worker has closed its end: it ends.
        """

    def _startedWith(self, result: RemoteError | None) -> None:
        if self.started.called:
            return
        if result is None:
            self.started.callback(None)
        else:
            self.started.errback(Failure(result))

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """
        Log output of the worker.
        """
        self._collector.receive(self.transport, childFD, data)

    def processExited(self, reason: Failure) -> None:
        """
        Note the end of the process, when its last output was read.
        """
        self.reason = reason.value
        self._reactor.callLater(_LINGER, self.processEnded, reason)

    def processEnded(self, reason: Failure) -> None:
        """
        Note the end of the process and of its output.
        """
        if self.state is State.ENDED:
            return
        self.state = State.ENDED
        for timer in self._timers:
            timer.cancel()
        self._output.ended()
        self._channel.doRead()
        self._channel.close()
        self._suspended.fire()
        self._answer.fire()
        self._startedWith(self._failure or self._failureFromEnd())
        self.ended.fire()

    def _failureFromEnd(self) -> RemoteError:
        how = f"{self} {describeEnd(self.reason)}"
        reason = lastReason(self._output.last)
        if not self.reason.exitCode:
            # A program that has reported no error may have written anything.
            waits = "" if self.reason.signal else self._waits
            reason = ": ".join(filter(None, [how, reason or waits]))
        return RemoteError(reason or how)

    def fail(self, reason: str) -> None:
        """
        Kill a worker that has not started.
        """
        why = filter(None, [f"{self} {reason}", self._waits])
        self._startedWith(RemoteError(": ".join(why)))
        self.kill(SIGKILL)
