"""
The log of a worker in the log of its supervisor.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from twisted.logger import LogEvent, Logger, LogLevel, globalLogPublisher

from txsignalfd._workers import workerlog
from txsignalfd._workers.workerlog import WorkerOutput, observer


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
    return f"{event['prefix']}{event['text']}"


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
    output = WorkerOutput(2)
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
    output = WorkerOutput(1)
    output.received(2, b"one\n\ntwo")
    output.received(1, b"no JSON\n[]\n")
    output.ended()
    assert list(map(text, events)) == [
        "worker 1: one",
        "worker 1: no JSON",
        "worker 1: []",
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
    output = WorkerOutput(1)
    output.received(2, b"twelve bytes")
    output.received(2, b"more\n")
    assert list(map(text, events)) == ["worker 1: twelve bytes", "worker 1: more"]
