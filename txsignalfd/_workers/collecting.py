# -*- test-case-name: tests.workers.test_process -*-
"""
L{Collector}: read much output of a worker at once.

Reading and writing many lines together costs less than one line at a time.  So after
each read, nothing is read for a moment, while output accumulates in the pipes.  As long
as there is output after such a pause, the pipes are read directly: to let the reactor
watch them in between would cost more.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

from txsignalfd._workers.adopted import pipesOf

#: Seconds of a pause, in which output accumulates.  A read of at least _MUCH bytes is
#: followed by no pause.
_SECONDS: Final = 0.02
_MUCH: Final = 1 << 15

#: Twisted reads a few kilobytes at a time.  After at least _FEW bytes the rest of the
#: pipe is read too, which is at most _PIPE bytes.
_FEW: Final = 4096
_PIPE: Final = 1 << 16


class Collector:
    """
    Reads the output of one process.
    """

    def __init__(self, reactor: Any, received: Callable[[int, bytes], object]) -> None:
        """
        @param reactor: The reactor.
        @param received: Called with the number of a pipe in the process, and output.
        """
        self._reactor = reactor
        self._received = received
        self._isPaused = False

    def receive(self, transport: Any, childFD: int, data: bytes) -> None:
        """
        Receive output that Twisted has read.

        @param transport: The process transport.
        @param childFD: The number of the pipe in the process.
        @param data: The output.
        """
        if len(data) >= _FEW:
            data += _read(pipesOf(transport)[childFD])
        self._received(childFD, data)
        if len(data) < _MUCH and not self._isPaused:
            self._isPaused = True
            transport.pauseProducing()
            self._reactor.callLater(_SECONDS, self._readAll, transport)

    def _readAll(self, transport: Any) -> None:
        sizes = []
        for childFD, fd in pipesOf(transport).items():
            data = _read(fd)
            sizes.append(len(data))
            if data:
                self._received(childFD, data)
        if 0 < max(sizes, default=0) < _MUCH:
            self._reactor.callLater(_SECONDS, self._readAll, transport)
        else:
            self._isPaused = False
            transport.resumeProducing()


def _read(fd: int) -> bytes:
    """
    Return the content of a pipe.  Twisted notices its end.
    """
    try:
        return os.read(fd, _PIPE)
    except BlockingIOError:
        return b""
