# -*- test-case-name: tests.test_reload -*-
"""
L{Latch}: something that happens once, and that many may wait for.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred


class Latch:
    """
    It has happened or not.  A Deferred can be waited for by one only.
    """

    def __init__(self) -> None:
        #: Whether it has.
        self.happened = False
        self._waiting: list[Deferred[None]] = []

    def happen(self) -> None:
        """
        It happens now; nothing if it has already.
        """
        self.happened = True
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)

    def wait(self) -> Deferred[None]:
        """
        @return: Fires when it has happened; can be cancelled.
        """
        deferred: Deferred[None] = Deferred(self._waiting.remove)
        if self.happened:
            deferred.callback(None)
        else:
            self._waiting.append(deferred)
        return deferred
