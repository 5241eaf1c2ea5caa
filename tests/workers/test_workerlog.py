"""
The log of a worker in the log of its supervisor.
"""

from __future__ import annotations

import io
import os
from typing import Any

import pytest
from twisted.logger import (
    LogEvent,
    Logger,
    LogLevel,
    globalLogPublisher,
    textFileLogObserver,
)

from tests.support.observers import logging
from txsignalfd._twistd.textlog import write
from txsignalfd._workers import workerlog
from txsignalfd._workers.workerlog import WorkerEvent, WorkerOutput, observer, publish


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
    output = WorkerOutput(2, publish)
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
    output = WorkerOutput(1, publish)
    output.received(2, b"one\n\ntwo")
    output.received(1, b"no JSON\n[]\n")
    # As another version may write it, before an upgrade.
    output.received(1, b'{"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}\n')
    output.ended()
    assert list(map(text, events)) == [
        "worker 1: one",
        "worker 1: no JSON",
        "worker 1: []",
        'worker 1: {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}',
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
    output = WorkerOutput(1, publish)
    output.received(2, b"twelve bytes")
    output.received(2, b"more\n")
    assert list(map(text, events)) == ["worker 1: twelve bytes", "worker 1: more"]


#: Events as workers send them: of the new log, with two lines, and of the older log.
EVENTS = [
    WorkerEvent(1e9 + 0.5, "info", "example", None, "worker 1: {one}"),
    WorkerEvent(1e9 + 1, "warn", "example", None, "worker 1: two\nlines"),
    WorkerEvent(1e9 + 2, "info", "log_legacy", "-", "worker 1: three"),
]


class Counted(io.StringIO):
    """
    Counts what is written at once.
    """

    writes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        return super().write(text)


@pytest.mark.parametrize(
    ("timeFormat", "writes"), [("%Y-%m-%dT%H:%M:%S%z", 1), ("%H:%M", len(EVENTS))]
)
def test_eventsAreWrittenTogether(timeFormat: str, writes: int) -> None:
    """
    As the observer of twistd writes each of them, and no other observer does.
    """
    file, expected = Counted(), io.StringIO()
    for event in EVENTS:
        textFileLogObserver(expected, timeFormat)(event.asEvent())
    with logging(textFileLogObserver(file, timeFormat)):
        write(EVENTS)
    assert file.getvalue() == expected.getvalue()
    assert file.writes == writes


def test_otherObserversSeeEachEvent() -> None:
    """
    With its level and its namespace.
    """
    seen: list[LogEvent] = []
    file = Counted()
    with logging(textFileLogObserver(file), seen.append):  # type: ignore[arg-type]
        write(EVENTS)
    assert [each["log_level"] for each in seen] == [
        LogLevel.info,
        LogLevel.warn,
        LogLevel.info,
    ]
    assert file.writes == len(EVENTS)
