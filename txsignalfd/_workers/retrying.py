# -*- test-case-name: tests.workers.test_retrying -*-
"""
L{Retries}: reload again, if a failed reload has left no worker.

With C{--stop-first} the old workers have ended before the new ones start.  Their code
cannot be started again: a new process loads the code as it is now, which has failed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from twisted.logger import Logger

from txsignalfd._reload.service import ReloadService
from txsignalfd._reload.transaction import Reload, Timer
from txsignalfd._workers.workerset import Pauses

_log: Final = Logger("txsignalfd.workers.Supervisor")


class Retries:
    """
    Reloads a service with growing pauses until its workers serve.
    """

    def __init__(
        self, reloads: ReloadService, hasWorkers: Callable[[], bool], reactor: Any
    ) -> None:
        """
        @param reloads: The service.
        @param hasWorkers: Returns whether there are workers that are to serve.
        @param reactor: The reactor.
        """
        self._reloads = reloads
        self._hasWorkers = hasWorkers
        self._reactor = reactor
        self._pauses = Pauses()
        self._timer: Timer | None = None
        reloads.addObserver(self._before, self._after)

    def _before(self, reload: Reload) -> None:
        # The user may be faster.
        if self._timer is not None:
            self._timer.cancel()

    def _after(self, reload: Reload) -> None:
        if self._hasWorkers():
            self._pauses = Pauses()
        elif self._reloads.running and not reload.isStart:
            pause = self._pauses.next(0)
            _log.error(
                "no worker serves, and new connections wait: reloading again{when}",
                when=f" in {pause:g} s" if pause else "",
            )
            again = partial(self._reloads.request, "the reload that has failed")
            self._timer = Timer(self._reactor, pause, again)
