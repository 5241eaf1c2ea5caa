# -*- test-case-name: tests.test_triggers -*-
"""
L{Triggers}: what a generation of a service wants done when the reactor stops.

A plugin may make something for as long as the reactor runs, as C{web --wsgi}
makes a pool of threads, and have it ended by a trigger of its shutdown.  A
generation that another one follows ends earlier, and so do these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.logger import Logger


class Triggers:
    """
    Triggers of a reactor's shutdown.
    """

    _log = Logger()

    def __init__(self) -> None:
        self._added: list[tuple[str, Any, Callable[[], Any]]] = []

    def add(self, phase: str, identity: Any, call: Callable[[], Any]) -> None:
        """
        Note what the reactor was told.

        @param phase: C{before}, C{during} or C{after}.
        @param identity: What C{addSystemEventTrigger} has returned.
        @param call: What it does.
        """
        self._added.append((phase, identity, call))

    def leave(self) -> None:
        """
        Leave them to the reactor.
        """
        self._added.clear()

    async def fire(self, reactor: Any) -> None:
        """
        Do now what the reactor would do when it stops, in its order.
        """
        added, self._added = self._added, []
        for wanted in ("before", "during", "after"):
            for phase, identity, call in added:
                if phase == wanted and self._remove(reactor, identity):
                    try:
                        await maybeDeferred(call)
                    except Exception:
                        self._log.failure("{call!r} has failed", call=call)

    def _remove(self, reactor: Any, identity: Any) -> bool:
        """
        @return: Whether it was still there.
        """
        try:
            reactor.removeSystemEventTrigger(identity)
        except ValueError:
            return False
        return True
