# -*- test-case-name: tests.test_descriptor -*-
"""
L{Opened}: a descriptor of the process that has opened it, and has to close it.
"""

from __future__ import annotations

import os
from warnings import warn

from txsignalfd._forking import checkIsParent


class Opened:
    """
    A descriptor that belongs to the process that has opened it.

    One that becomes garbage while it is open is told of by a
    C{ResourceWarning}, as Python's own files and sockets are.  Nothing is given
    back then: garbage may be found in any thread, in the middle of anything.
    """

    #: Its number, or -1 until it is open, and when it is closed.
    _fd = -1

    def __init__(self) -> None:
        self._pid = os.getpid()

    def fileno(self) -> int:
        """
        Its number, or -1 when it is closed.
        """
        return self._fd

    def checkProcess(self) -> None:
        """
        @raise WatchedByParent: In a child that was forked since.
        """
        checkIsParent(self._pid)

    def __del__(self) -> None:
        if self._fd != -1 and os.getpid() == self._pid:
            warn(
                f"unclosed {self!r}, which keeps what it has taken",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )
