# -*- test-case-name: tests.workers.test_workerlog -*-
"""
L{write}: the events of workers in the log of the supervisor.

At full load an access log has thousands of events a second.  To publish each of them
would cost the supervisor a tenth of the CPU time that a worker needs for the request.
Where the only observer is the text file of twistd, all events that were read together
are written together.  The lines are those that the observer would have written.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from operator import itemgetter
from typing import Any

from twisted.logger import (
    FileLogObserver,
    LogEvent,
    LogPublisher,
    globalLogPublisher,
)

from txsignalfd._twistd.logs import fileOf
from txsignalfd._workers.workerevent import Batch, WorkerEvent


def write(batch: Batch) -> bool:
    """
    Write events that were read together to the log.

    @return: Whether the log is a text file that can be written so.
    """
    observer = _onlyObserver()
    if observer is None or not _isUsual(
        observer.formatEvent, batch.sample, batch.shown
    ):
        return False
    file = fileOf(observer)
    if not _hasCharacters(file, batch.text):
        return False
    _publisherOf(file)({"text": batch.text})
    return True


def _onlyObserver() -> FileLogObserver | None:
    # Private.  A log_trace shows the same, but is an event for every observer.
    observers = globalLogPublisher._observers  # noqa: SLF001
    if len(observers) != 1 or not isinstance(observers[0], FileLogObserver):
        return None
    return observers[0]


@lru_cache(maxsize=1)
def _publisherOf(file: Any) -> LogPublisher:
    # It ignores errors of its only observer, such as a full disk.
    return LogPublisher(FileLogObserver(file, itemgetter("text")))


@lru_cache(maxsize=4)
def _isUsual(
    formatEvent: Callable[[LogEvent], str | None], sample: WorkerEvent, shown: str
) -> bool:
    """
    Whether an observer writes the lines of C{textFileLogObserver}.
    """
    return formatEvent(sample.asEvent()) == shown


def _hasCharacters(file: Any, text: str) -> bool:
    """
    Whether a file can be written with all characters of a text.
    """
    try:
        text.encode(getattr(file, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
