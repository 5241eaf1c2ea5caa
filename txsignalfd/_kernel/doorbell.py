# -*- test-case-name: tests.kernel.test_spawn -*-
"""
L{Doorbell}: wakes a reactor when the C handler has deferred signals.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer


@implementer(IReadDescriptor)
class Doorbell:
    """
    An eventfd by which the C handler wakes a reactor for deferred signals.
    """

    def __init__(self, wake: Callable[[], object]) -> None:
        """
        @param wake: Called in the reactor's thread.
        """
        self._wake = wake
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """
        Return the descriptor's number, or -1 if it is closed.
        """
        return self._fd

    def logPrefix(self) -> str:
        """
        Return the name for the reactor's log.
        """
        return type(self).__name__

    def doRead(self) -> None:
        """
        Wake the owner once, however often the handler has rung.
        """
        with suppress(BlockingIOError):  # a nested turn of the reactor was faster
            os.read(self._fd, 8)
        self._wake()

    def connectionLost(self, reason: Failure) -> None:
        """
        Wait for L{close}: until the signals are restored, the handler may ring.
        """

    def close(self) -> None:
        """
        Close the eventfd, when its signals have been restored.
        """
        fd, self._fd = self._fd, -1
        os.close(fd)
