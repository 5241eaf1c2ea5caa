# -*- test-case-name: tests.dispatch.test_holds -*-
"""
L{Holds}: the signals that are held, and those that are deferred meanwhile.

Rejected: keeping held signals in the kernel, by the signal mask.  The kernel
returns pending signals in the order of their numbers, and merges several of one
standard signal.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from twisted.logger import Logger

from txsignalfd._dispatch.description import someOf
from txsignalfd.siginfo import SigInfo

_log: Final = Logger("txsignalfd.dispatcher.SignalDispatcher")


class Hold:
    """
    A critical section in which signals are deferred.

    @ivar signals: The numbers of the signals.
    """

    def __init__(self, signals: Collection[int], limit: int) -> None:
        self.signals: Collection[int] = signals
        self._limit = limit
        self._count = 0
        self._hasWarned = False

    def isFull(self, info: SigInfo) -> bool:
        """
        Return whether the limit is reached, and log it once.
        """
        if self._count < self._limit:
            return False
        if not self._hasWarned:
            self._hasWarned = True
            _log.warn(
                "hold() has deferred {limit} signals, so that {info} is dropped"
                " (further ones are counted, and not logged)",
                limit=self._limit,
                info=info,
            )
        return True

    def count(self) -> None:
        """
        Count a deferred signal.
        """
        self._count += 1


class Holds:
    """
    All holds of a dispatcher, and the deferred signals in their order.

    @ivar held: The holds of each signal that is held now.
    """

    def __init__(self) -> None:
        self.held: dict[int, list[Hold]] = {}
        self._deferred: list[SigInfo] = []

    def add(self, hold: Hold) -> None:
        """
        Begin to defer the signals of a hold.
        """
        for signo in hold.signals:
            self.held.setdefault(signo, []).append(hold)

    def remove(self, hold: Hold) -> None:
        """
        Stop deferring the signals of a hold, as far as no other hold does.
        """
        for signo in hold.signals:
            self.held[signo].remove(hold)
            if not self.held[signo]:
                del self.held[signo]

    def defer(self, info: SigInfo) -> bool:
        """
        Defer a signal that is held.

        @return: Whether there was room for it.
        """
        holds = self.held[info.signo]
        if any(hold.isFull(info) for hold in holds):
            return False
        for hold in holds:
            hold.count()
        self._deferred.append(info)
        return True

    def release(self) -> list[SigInfo]:
        """
        Remove and return the deferred signals that are no longer held.
        """
        released = [info for info in self._deferred if info.signo not in self.held]
        self._deferred = [info for info in self._deferred if info.signo in self.held]
        return released

    def count(self, signo: int) -> int:
        """
        Return how many signals of a number are deferred.
        """
        return sum(info.signo == signo for info in self._deferred)

    def discard(self) -> None:
        """
        Discard and log the deferred signals: the reactor has stopped.
        """
        deferred, self._deferred = self._deferred, []
        if deferred:
            _log.warn(
                "the reactor has stopped during hold(), and {count} signals are not"
                " handled: {deferred}",
                count=len(deferred),
                deferred=someOf(deferred),
            )
