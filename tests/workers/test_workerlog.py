"""
The log of a worker in the log of its supervisor.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any

import pytest
from twisted.logger import (
    LogEvent,
    Logger,
    LogLevel,
    eventAsText,
    globalLogPublisher,
    textFileLogObserver,
)
from twisted.python.failure import Failure

from tests.support.observers import logging
from txsignalfd._twistd.textlog import write
from txsignalfd._workers import workerlog
from txsignalfd._workers.workerevent import Batch, WorkerEvent
from txsignalfd._workers.workerlog import WorkerOutput, observer, publishEach


@pytest.fixture
def events() -> Any:
    """
    The events of the log.
    """
    seen: list[LogEvent] = []
    globalLogPublisher.addObserver(seen.append)  # type: ignore[arg-type]
    yield seen
    globalLogPublisher.removeObserver(seen.append)  # type: ignore[arg-type]


def text(event: LogEvent) -> str:
    return str(event["text"])


@pytest.mark.forked
def test_anEventIsTheSameInBothProcesses() -> None:
    """
    Its level, its namespace, its system, its time, and all of its lines.
    """
    read, write = os.pipe()
    os.dup2(write, 1)
    written = observer()
    example = Logger("example", observer=written)
    example.warn("two\nlines {here}", here="{here}")
    written({"log_level": None, "log_time": 17.0, "log_format": "", "log_system": "x"})
    written({"log_time": 17.0, "log_format": "old", "log_system": "Site,0"})
    data = os.read(read, 10000)
    seen: list[LogEvent] = []
    globalLogPublisher.addObserver(seen.append)  # type: ignore[arg-type]
    output = WorkerOutput(2, publishEach)
    # In pieces, as a pipe brings it.
    output.received(1, data[:30])
    output.received(1, data[30:])
    first, second = seen
    assert text(first) == "worker 2: two\nlines {here}"
    assert first["log_level"] is LogLevel.warn
    assert first["log_namespace"] == "example"
    assert (text(second), second["log_time"]) == ("worker 2: old", 17.0)
    assert second["log_system"] == "Site,0"


def test_otherOutputIsLoggedByLines(events: list[LogEvent]) -> None:
    """
    Also an incomplete last one; empty lines are not.
    """
    output = WorkerOutput(1, publishEach)
    output.received(2, b"one\n\ntwo")
    output.received(1, b"no JSON\n[]\n")
    # As another version may write it, before an upgrade.
    output.received(1, b'{"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}\n')
    output.received(1, b"\x02no event\n")
    output.ended()
    assert list(map(text, events)) == [
        "worker 1: one",
        "worker 1: no JSON",
        "worker 1: []",
        'worker 1: {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}',
        "worker 1: \x02no event",
        "worker 1: two",
    ]
    assert output.last == "two"


def test_aLineWithoutEndIsLoggedInPieces(
    events: list[LogEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    So that it does not fill the memory.
    """
    monkeypatch.setattr(workerlog, "LONGEST_LINE", 10)
    output = WorkerOutput(1, publishEach)
    output.received(2, b"twelve bytes")
    output.received(2, b"more\n")
    assert list(map(text, events)) == ["worker 1: twelve bytes", "worker 1: more"]


@pytest.mark.parametrize(
    "event",
    [
        {"log_format": "{text}", "text": "a {text}"},
        {"log_format": "{text}", "text": 7},
        {"log_format": "{text()}", "text": lambda: "called"},
        {"log_format": "{text}, {text}", "text": "twice"},
        {"log_format": b"{text}", "text": "bytes"},
        {"log_format": "{text}"},
        {"log_format": ["no format"]},
        {"log_format": "{text}", "text": "why", "log_failure": Failure(OSError(1, ""))},
    ],
)
def test_theTextIsThatOfTwisted(event: LogEvent) -> None:
    """
    Also where Twisted is not asked for it.
    """
    expected = eventAsText(event, includeTimestamp=False, includeSystem=False)
    assert workerlog._textOf(event) == expected


#: Events as workers send them: of the new log, and of the older log.
EVENTS = [
    WorkerEvent(1e9 + 0.5, "info", "example", None, "{one}"),
    WorkerEvent(1e9 + 1, "warn", "example", None, "zw\u00f6lf"),
    WorkerEvent(1e9 + 2, "info", "log_legacy", "-", "three"),
]

#: Events that are not written together with others: with several lines, with control
#: characters, with a system that is empty, and with characters that UTF-8 has not.
SINGLE = [
    WorkerEvent(1e9, "info", "example", None, "two\nlines"),
    WorkerEvent(1e9, "info", "example", None, "\x02control\x03"),
    WorkerEvent(1e9, "info", "log_legacy", "a\x1fb", "control"),
    WorkerEvent(1e9, "info", "log_legacy", "", "no system"),
    WorkerEvent(1e9, "info", "example", None, "\udc80"),
]


def sent(*events: WorkerEvent) -> bytes:
    """
    Return the lines by which a worker sends events.
    """
    return b"".join(event.asLine() for event in events)


class File(io.TextIOWrapper):
    """
    A text file in memory that counts how often it is written.
    """

    writes = 0

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding, "backslashreplace", newline="")

    def write(self, text: str) -> int:
        self.writes += 1
        return super().write(text)

    @property
    def text(self) -> str:
        """
        The written lines.
        """
        self.seek(0)
        return self.read()


ISO = "%Y-%m-%dT%H:%M:%S%z"


@pytest.mark.parametrize(
    ("events", "timeFormat", "encoding", "writes"),
    [
        (EVENTS, ISO, "utf-8", 1),
        (EVENTS, "%H:%M", "utf-8", 3),
        (EVENTS, ISO, "ascii", 3),
        (SINGLE, ISO, "utf-8", 5),
        (SINGLE + EVENTS, ISO, "utf-8", 8),
    ],
)
def test_eventsAreWrittenTogether(
    events: list[WorkerEvent], timeFormat: str, encoding: str, writes: int
) -> None:
    """
    As the observer of twistd writes each of them, where that is known.
    """
    file, expected = File(encoding), File(encoding)
    for event in events:
        text = f"worker 2: {event.text}"
        textFileLogObserver(expected, timeFormat)(event._replace(text=text).asEvent())
    with logging(textFileLogObserver(file, timeFormat)):
        WorkerOutput(2, write).received(1, sent(*events))
    assert file.text == expected.text
    assert file.writes == writes


@pytest.mark.parametrize("how", [write, publishEach])
def test_otherObserversSeeEachEvent(how: Callable[[Batch], bool]) -> None:
    """
    With its level, its namespace, its system and its time.
    """
    seen: list[LogEvent] = []
    file = File()
    with logging(textFileLogObserver(file), seen.append):  # type: ignore[arg-type]
        output = WorkerOutput(2, how)
        output.received(1, sent(*EVENTS))
        output.received(1, sent(*SINGLE))
    levels = [LogLevel.levelWithName(each.level) for each in (*EVENTS, *SINGLE)]
    assert [each["log_level"] for each in seen] == levels
    for event, each in zip(seen, (*EVENTS, *SINGLE), strict=True):
        assert event["log_namespace"] == each.namespace
        assert event.get("log_system") == each.system
        assert event["log_time"] == each.time
    assert file.writes == len(seen)


def test_aFullDiskEndsNoWorker() -> None:
    """
    Twisted ignores that its log file cannot be written, too.
    """
    with open("/dev/full", "w") as file, logging(textFileLogObserver(file)):
        output = WorkerOutput(1, write)
        output.received(1, sent(*EVENTS))
        output.received(1, sent(*SINGLE))
        # Otherwise the file is closed with an error.
        with open(os.devnull, "w") as null:
            os.dup2(null.fileno(), file.fileno())
