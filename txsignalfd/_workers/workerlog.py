# -*- test-case-name: tests.workers.test_workerlog -*-
"""
The log of a worker, which is written by the supervisor.

A worker writes each event as one line of JSON to its stdout, a pipe that the
supervisor reads.  Whatever else is written to stdout and stderr, by C code or by a
child process, goes to stderr, another such pipe: each of its lines is an event.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import floor
from time import time
from typing import Any, Final, NamedTuple

from twisted.logger import (
    ILogObserver,
    LogEvent,
    LogLevel,
    eventAsText,
    formatTime,
    globalLogPublisher,
)
from zope.interface import provider

#: The most bytes of a line.  A longer one is logged in pieces of this size.
LONGEST_LINE: Final = 1 << 20


class WorkerEvent(NamedTuple):
    """
    An event of a worker.
    """

    time: float
    #: The name of its level.
    level: str
    namespace: str
    #: The system of an event of the older log, or C{None}.
    system: str | None
    text: str

    def asEvent(self) -> LogEvent:
        """
        Return the event for the log of this process.
        """
        event: LogEvent = {
            "log_level": LogLevel.levelWithName(self.level),
            "log_namespace": self.namespace,
            "log_format": "{text}",
            "log_time": self.time,
            "text": self.text,
        }
        if self.system is not None:
            event["log_system"] = self.system
        return event

    def asLine(self) -> str:
        """
        Return the line that C{textFileLogObserver} writes.
        """
        system = self.system or f"{self.namespace}#{self.level}"
        text = self.text.replace("\n", "\n\t")
        return f"{_timeOf(floor(self.time))} [{system}] {text}\n"


@lru_cache(maxsize=4)
def _timeOf(second: int) -> str:
    return formatTime(second)


def publish(events: Sequence[WorkerEvent]) -> None:
    """
    Publish events in the log of this process.
    """
    for event in events:
        globalLogPublisher(event.asEvent())


def observer() -> ILogObserver:
    """
    Make the log observer of a worker, for C{--logger} of twistd.
    """
    pipe = os.dup(1)
    os.dup2(2, 1)
    lock = threading.Lock()

    @provider(ILogObserver)
    def write(event: LogEvent) -> None:
        text = eventAsText(event, includeTimestamp=False, includeSystem=False)
        if not text:
            return
        level = event.get("log_level") or LogLevel.info
        system = event.get("log_system")
        fields = WorkerEvent(
            event["log_time"],
            level.name,
            event.get("log_namespace") or "-",
            None if system is None else str(system),
            text,
        )
        data = json.dumps(fields).encode() + b"\n"
        with lock:
            while data:
                data = data[os.write(pipe, data) :]

    writing: ILogObserver = write
    return writing


class Lines:
    """
    Splits what is read from a pipe into lines.
    """

    def __init__(self, receive: Callable[[bytes], object]) -> None:
        """
        @param receive: Called with each line.
        """
        self._receive = receive
        self._partial = b""

    def add(self, data: bytes) -> None:
        """
        Receive bytes.
        """
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._receive(line)
        if len(self._partial) > LONGEST_LINE:
            self.end()

    def passOn(self) -> str:
        """
        Return the incomplete last line for the program that replaces this one.
        """
        return self._partial.decode("latin-1")

    def adopt(self, passed: str) -> None:
        """
        Continue with the result of L{passOn}.
        """
        self._partial = passed.encode("latin-1")

    def end(self) -> None:
        """
        Receive an incomplete last line.
        """
        partial, self._partial = self._partial, b""
        if partial:
            self._receive(partial)


class WorkerOutput:
    """
    Logs what one worker writes.
    """

    def __init__(
        self, number: int, write: Callable[[list[WorkerEvent]], object]
    ) -> None:
        """
        @param number: The number of the worker.
        @param write: Writes events to the log.
        """
        self._prefix = f"worker {number}: "
        self._write = write
        self._events: list[WorkerEvent] = []
        #: The last line of stderr, which often has the reason of an end.
        self.last = ""
        self._lines = {1: Lines(self._addEvent), 2: Lines(self._addRaw)}

    def received(self, descriptor: int, data: bytes) -> None:
        """
        Receive output of the worker.

        @param descriptor: 1 or 2.
        @param data: The output.
        """
        self._lines[descriptor].add(data)
        self._flush()

    def _flush(self) -> None:
        events, self._events = self._events, []
        if events:
            self._write(events)

    def ended(self) -> None:
        """
        Log an incomplete last line.
        """
        for lines in self._lines.values():
            lines.end()
        self._flush()

    def passOn(self) -> list[Any]:
        """
        Describe what was read for the program that replaces this one.
        """
        return [(number, lines.passOn()) for number, lines in self._lines.items()]

    def adopt(self, passed: list[Any]) -> None:
        """
        Continue with the result of L{passOn}.
        """
        for number, text in passed:
            self._lines[number].adopt(text)

    def _addEvent(self, line: bytes) -> None:
        try:
            seconds, level, namespace, system, text = json.loads(line)
            text = self._prefix + text
            event = WorkerEvent(float(seconds), level, namespace, system, text)
        except (TypeError, ValueError):
            # Written before the worker has opened its log, or by another version.
            self._addRaw(line)
        else:
            self._events.append(event)

    def _addRaw(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()
        if text:
            self.last = text
            text = self._prefix + text
            self._events.append(
                WorkerEvent(time(), "info", "txsignalfd.workers", None, text)
            )
