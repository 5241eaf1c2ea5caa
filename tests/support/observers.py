"""
Observers of the log for tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from twisted.logger import ILogObserver, Logger, globalLogPublisher

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
