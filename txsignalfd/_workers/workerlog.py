# -*- test-case-name: tests.workers.test_workerlog -*-
"""
The log of a worker, which is written by the supervisor.

A worker writes each event as one line to its stdout, a pipe that the supervisor reads.
Other output to stdout and stderr, by C code or by a child process, goes to
stderr, another such pipe: each of its lines is an event.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from functools import lru_cache
from time import time
from typing import Any, Final

from twisted.logger import (
    ILogObserver,
    LogEvent,
    LogLevel,
    eventAsText,
    globalLogPublisher,
)
from zope.interface import provider

from txsignalfd._workers.workerevent import Batch, WorkerEvent, batchOf, parse

#: The most bytes of a line.  A longer one is logged in pieces of this size.
LONGEST_LINE: Final = 1 << 20

#: A format that is nothing but a field.
_FIELD: Final = re.compile(r"\{([A-Za-z_]\w*)\}")

#: The fields that say more than the format.
_WITH_MORE: Final = ("log_failure", "log_flattened")


def publishEach(_: Batch) -> bool:
    """
    Write no batch, so that each of its events is published in the log of this process.
    """
    return False


def observer() -> ILogObserver:
    """
    Make the log observer of a worker, for C{--logger} of twistd.
    """
    pipe = os.dup(1)
    os.dup2(2, 1)
    lock = threading.Lock()

    @provider(ILogObserver)
    def write(event: LogEvent) -> None:
        text = _textOf(event)
        if not text:
            return
        level = event.get("log_level") or LogLevel.info
        system = event.get("log_system")
        data = WorkerEvent(
            event["log_time"],
            level.name,
            event.get("log_namespace") or "-",
            None if system is None else str(system),
            text,
        ).asLine()
        with lock:
            while data:
                data = data[os.write(pipe, data) :]

    writing: ILogObserver = write
    return writing


def _textOf(event: LogEvent) -> str:
    # Twisted takes many times longer, and the events of an access log are like this.
    form = event.get("log_format")
    text = event.get(_onlyField(form)) if isinstance(form, str) else None
    if type(text) is str and event.keys().isdisjoint(_WITH_MORE):
        return text
    return eventAsText(event, includeTimestamp=False, includeSystem=False)


@lru_cache
def _onlyField(form: str) -> str:
    """
    Return the name of the field if a format is nothing else, or an empty name.
    """
    found = _FIELD.fullmatch(form)
    return "" if found is None else found[1]


class Lines:
    """
    Splits what is read from a pipe into lines.
    """

    def __init__(self, receive: Callable[[bytes], object]) -> None:
        """
        @param receive: Called with lines, and their ends, that were read together.
        """
        self._receive = receive
        #: The incomplete last line.
        self.partial = b""

    def add(self, data: bytes) -> None:
        """
        Receive bytes.
        """
        end = data.rfind(b"\n") + 1
        if end:
            lines, self.partial = self.partial + data[:end], data[end:]
            self._receive(lines)
        else:
            self.partial += data
        if len(self.partial) > LONGEST_LINE:
            self.end()

    def end(self) -> None:
        """
        Receive an incomplete last line.
        """
        partial, self.partial = self.partial, b""
        if partial:
            self._receive(partial)


class WorkerOutput:
    """
    Logs what one worker writes.
    """

    def __init__(self, number: int, write: Callable[[Batch], bool]) -> None:
        """
        @param number: The number of the worker.
        @param write: Writes events to the log, or returns C{False} if each has to be
            published by itself.
        """
        self._prefix = f"worker {number}: "
        self._write = write
        #: The last line of stderr, which often has the reason of an end.
        self.last = ""
        self._lines = {1: Lines(self._logEvents), 2: Lines(self._logRaw)}

    def received(self, descriptor: int, data: bytes) -> None:
        """
        Receive output of the worker.

        @param descriptor: 1 or 2.
        @param data: The output.
        """
        self._lines[descriptor].add(data)

    def ended(self) -> None:
        """
        Log an incomplete last line.
        """
        for lines in self._lines.values():
            lines.end()

    def passOn(self) -> list[Any]:
        """
        Describe what was read for the program that replaces this one.
        """
        return [
            (number, lines.partial.decode("latin-1"))
            for number, lines in self._lines.items()
        ]

    def adopt(self, passed: list[Any]) -> None:
        """
        Continue with the result of L{passOn}.
        """
        for number, text in passed:
            self._lines[number].partial = text.encode("latin-1")

    def _logEvents(self, lines: bytes) -> None:
        batch = batchOf(lines, self._prefix)
        if batch is None or not self._write(batch):
            for line in lines.split(b"\n"):
                self._logEvent(line)

    def _logEvent(self, line: bytes) -> None:
        try:
            event = parse(line, self._prefix)
        except (TypeError, ValueError):
            # Written before the worker has opened its log, or by another version.
            self._logRaw(line)
        else:
            globalLogPublisher(event.asEvent())

    def _logRaw(self, lines: bytes) -> None:
        for line in lines.decode(errors="replace").split("\n"):
            if text := line.rstrip():
                self.last = text
                text = self._prefix + text
                event = WorkerEvent(time(), "info", "txsignalfd.workers", None, text)
                globalLogPublisher(event.asEvent())
