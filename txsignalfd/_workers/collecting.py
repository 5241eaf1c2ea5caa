# -*- test-case-name: tests.workers.test_process -*-
"""
L{Collector}: read much output of a worker at once.

To read and to write many lines together costs less than each by itself.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any, Final

from txsignalfd._workers.adopted import pipesOf

#: Seconds in which output collects before it is read, unless there is more than this
#: number of bytes.
_SECONDS: Final = 0.02
_MUCH: Final = 1 << 15

#: Twisted reads a few kilobytes.  If it has read more than this number of bytes, the
#: rest is read at once, which is at most what a pipe has.
_FEW: Final = 4096
_PIPE: Final = 1 << 16


class Collector:
    """
    Pauses the output of one process after each time that it was read.
    """

    def __init__(self, reactor: Any) -> None:
        """
        @param reactor: The reactor.
        """
        self._reactor = reactor
        self._isPaused = False

    def readMore(self, transport: Any, childFD: int, data: bytes) -> bytes:
        """
        Read what else there is, and then no more for a moment.

        @param transport: The process transport.
        @param childFD: The number of the pipe in the process.
        @param data: What was read.
        @return: That, and what was read now.
        """
        if len(data) >= _FEW:
            with suppress(BlockingIOError):
                data += os.read(pipesOf(transport)[childFD], _PIPE)
        if len(data) < _MUCH and not self._isPaused:
            self._isPaused = True
            transport.pauseProducing()
            self._reactor.callLater(_SECONDS, self._resume, transport)
        return data

    def _resume(self, transport: Any) -> None:
        self._isPaused = False
        transport.resumeProducing()
