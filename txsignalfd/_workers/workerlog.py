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
from collections.abc import Callable
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

#: The most bytes of a line.  A longer one is logged in pieces of this size.
LONGEST_LINE: Final = 1 << 20


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
        fields = {
            "time": event["log_time"],
            "level": level.name,
            "namespace": event.get("log_namespace") or "-",
            "text": text,
        }
        if "log_system" in event:
            fields["system"] = str(event["log_system"])
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

    def __init__(self, number: int) -> None:
        """
        @param number: The number of the worker.
        """
        self._prefix = f"worker {number}: "
        #: The last line of stderr, which often has the reason of an end.
        self.last = ""
        self._lines = {1: Lines(self._logEvent), 2: Lines(self._logRaw)}

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
        return [(number, lines.passOn()) for number, lines in self._lines.items()]

    def adopt(self, passed: list[Any]) -> None:
        """
        Continue with the result of L{passOn}.
        """
        for number, text in passed:
            self._lines[number].adopt(text)

    def _logEvent(self, line: bytes) -> None:
        try:
            fields = json.loads(line)
            text, namespace = fields["text"], fields["namespace"]
            level = LogLevel.levelWithName(fields["level"])
        except (KeyError, TypeError, ValueError):
            # Written before the worker has opened its log.
            self._logRaw(line)
            return
        self._publish(text, level, namespace, fields)

    def _logRaw(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()
        if text:
            self.last = text
            self._publish(text, LogLevel.info, "txsignalfd.workers", {})

    def _publish(
        self, text: str, level: Any, namespace: str, fields: dict[str, Any]
    ) -> None:
        event: LogEvent = {
            "log_level": level,
            "log_namespace": namespace,
            "log_format": "{prefix}{text}",
            "log_time": fields.get("time") or time(),
            "prefix": self._prefix,
            "text": text,
        }
        if "system" in fields:
            event["log_system"] = fields["system"]
        globalLogPublisher(event)
