# -*- test-case-name: tests.workers.test_workerlog -*-
"""
L{WorkerEvent}: an event of a worker, and the line by which the supervisor gets it.

At full load an access log has thousands of events a second.  To format each of them
twice, in both processes, costs a tenth of the CPU time of a request or more.  So the
worker formats the event as a text log shows it, after a header.  Without their headers,
lines that are read together can be written together::

    STX seconds US level US namespace US system ETX time [system] ETX text

STX, US and ETX are control characters of ASCII.  An event with unprintable characters,
such as one of several lines, is sent as a line of JSON.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from math import floor
from typing import Final, NamedTuple

from twisted.logger import LogEvent, LogLevel, formatTime

_HEADER: Final = re.compile(rb"\x02[^\x03]*\x03")
_ETX: Final = "\x03"


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

    def asLine(self) -> bytes:
        """
        Return the line for the supervisor.
        """
        seconds, level, namespace, system, text = self
        middle = _middle(floor(seconds), level, namespace, system)
        if middle is not None and text.isprintable():
            return f"\x02{seconds!r}{middle}{text}\n".encode()
        return json.dumps(self).encode() + b"\n"


@lru_cache(maxsize=32)
def _middle(second: int, level: str, namespace: str, system: str | None) -> str | None:
    """
    Return the part between the seconds and the text, which changes once a second.
    """
    shown = f"{namespace}#{level}" if system is None else system
    # An empty system is shown, too, but is not the same as none.
    if system == "" or not f"{shown}{namespace}".isprintable():
        return None
    fields = "\x1f".join(["", level, namespace, system or ""])
    return f"{fields}\x03{formatTime(second)} [{shown}] \x03"


def parse(line: bytes, worker: str) -> WorkerEvent:
    """
    Return the event of a line.

    @param line: The line, without its end.
    @param worker: The beginning of the text, which names the worker.
    @raise TypeError: The line is no event.
    @raise ValueError: The line is no event.
    """
    if line.startswith(b"\x02"):
        header, _, text = line[1:].decode().split(_ETX)
        seconds, level, namespace, system = header.split("\x1f")
        return WorkerEvent(
            float(seconds), level, namespace, system or None, worker + text
        )
    seconds, level, namespace, ofOlderLog, text = json.loads(line)
    return WorkerEvent(float(seconds), level, namespace, ofOlderLog, worker + text)


class Batch(NamedTuple):
    """
    Events that were read together, as a text log shows them.

    @ivar sample: An event of the same second and system as the first one.
    @ivar shown: How a text log shows it.
    @ivar text: The lines of all events.
    """

    sample: WorkerEvent
    shown: str
    text: str


def batchOf(lines: bytes, worker: str) -> Batch | None:
    """
    Return the events of several lines, unless a line has to be parsed by itself.

    @param lines: The lines, with their ends.
    @param worker: The beginning of each text, which names the worker.
    """
    headless, count = _HEADER.subn(b"", lines)
    if count != lines.count(b"\n"):
        return None
    first = lines[: lines.index(b"\n")].decode()
    event = parse(first.encode(), "")
    sample = event._replace(time=floor(event.time), text=worker)
    shown = f"{first.split(_ETX)[1]}{worker}\n"
    text = headless.replace(_ETX.encode(), worker.encode()).decode()
    return Batch(sample, shown, text)
