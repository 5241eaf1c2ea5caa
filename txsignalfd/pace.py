# -*- test-case-name: tests.test_pace -*-
"""
L{Pace}: how soon something may be done again that takes the reactor's time from
others.

Rejected: one interval for all (too short for what takes long, and felt where
nothing was taken); to measure CPU time (of one thread it cannot be told what
was done for whom while something waits).
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.task import deferLater

#: The longest rest, in seconds: somebody waits for what comes after it.
LONGEST: Final = 0.5


class Pace:
    """
    After what took a while, a rest of many times as long.
    """

    def __init__(self, reactor: Any, share: float) -> None:
        """
        @param reactor: The reactor.
        @param share: The part of the time that it may take: 0.01 is a rest of
            99 times as long.
        """
        self._reactor = reactor
        self._rests = 1 / share - 1
        self._began = self._until = 0.0

    async def begin(self) -> None:
        """
        Wait until it may be done again, which begins then.
        """
        # A reactor's clock may be set back.
        left = min(self._until - self._reactor.seconds(), LONGEST)
        if left > 0:
            await deferLater(self._reactor, left)
        self._began = self._reactor.seconds()

    def end(self) -> None:
        """
        It is done.
        """
        now = self._reactor.seconds()
        self._until = now + min((now - self._began) * self._rests, LONGEST)
