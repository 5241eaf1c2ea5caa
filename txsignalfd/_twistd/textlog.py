# -*- test-case-name: tests.workers.test_workerlog -*-
"""
L{write}: the events of workers in the log of the supervisor.

At full load an access log has thousands of events a second.  To publish each of them
would cost the supervisor a tenth of the CPU time that a worker needs for the request.
Where the only observer is the text file of twistd, all events that were read together
are written together.  The lines are those that the observer would have written.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from twisted.logger import FileLogObserver, globalLogPublisher

from txsignalfd._twistd.logs import fileOf
from txsignalfd._workers.workerlog import WorkerEvent, publish


def write(events: Sequence[WorkerEvent]) -> None:
    """
    Write events that were read together to the log.
    """
    observer = _onlyObserver()
    if observer is None or len(events) == 1 or not _isUsual(observer, events[0]):
        publish(events)
        return
    text = "".join(map(WorkerEvent.asLine, events))
    whole = FileLogObserver(fileOf(observer), itemgetter("text"))
    whole({"text": text})


def _onlyObserver() -> FileLogObserver | None:
    # Private.  A log_trace shows the same, but is an event for every observer.
    observers = globalLogPublisher._observers  # noqa: SLF001
    if len(observers) != 1 or not isinstance(observers[0], FileLogObserver):
        return None
    return observers[0]


def _isUsual(observer: FileLogObserver, event: WorkerEvent) -> bool:
    """
    Whether an observer writes the lines of C{textFileLogObserver}.
    """
    return observer.formatEvent(event.asEvent()) == event.asLine()
