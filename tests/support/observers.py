"""
Observers of the log for tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from twisted.logger import (
    ILogObserver,
    LogEvent,
    Logger,
    formatEvent,
    globalLogPublisher,
)
from twisted.python.failure import Failure

LOG: Final = Logger("example")


@contextmanager
def logging(*observers: ILogObserver) -> Iterator[None]:
    """
    Log to these observers only.
    """
    others = globalLogPublisher._observers
    globalLogPublisher._observers = list(observers)
    try:
        yield
    finally:
        globalLogPublisher._observers = others


class Logged(list[LogEvent]):
    """
    The events that were logged during a test.
    """

    @property
    def texts(self) -> list[str]:
        """
        The messages.
        """
        return [str(formatEvent(event)) for event in self]

    def textsOf(self, namespace: str) -> list[str]:
        """
        Return the messages of a namespace and of those below it.
        """
        return Logged(
            event for event in self if event["log_namespace"].startswith(namespace)
        ).texts

    def contains(self, text: str) -> bool:
        """
        Whether a message contains the text.
        """
        return any(text in each for each in self.texts)

    @property
    def failures(self) -> list[Failure]:
        """
        The failures.
        """
        return [event["log_failure"] for event in self if "log_failure" in event]
