# -*- test-case-name: tests.test_service -*-
"""
L{HandlerGroup}: handlers that come and go together.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Final
from weakref import WeakKeyDictionary

from txsignalfd._dispatch.dispatcher import DispatcherClosed, SignalDispatcher
from txsignalfd._dispatch.registration import Handler

#: The signals that groups have begun to watch, by dispatcher.  Whichever of
#: them is the last to handle one gives it back.
_begun: Final[WeakKeyDictionary[SignalDispatcher, set[int]]] = WeakKeyDictionary()


class HandlerGroup:
    """
    Handlers of several signals, and the watching of these.  Use it from the
    reactor's thread.
    """

    def __init__(
        self, dispatcher: SignalDispatcher, handlers: Iterable[tuple[int, Handler]]
    ) -> None:
        """
        Watch the signals and add the handlers, in their order.

        @param dispatcher: The dispatcher that has them.
        @param handlers: Each a signal's number and what to call for it.
        @raise SignalAlreadyWatched: And the other errors of
            L{SignalDispatcher.watch}.  Then nothing is watched.
        """
        wanted = list(handlers)
        signals = {signo for signo, _ in wanted}
        self._dispatcher = dispatcher
        before = dispatcher.watching
        dispatcher.watch(*signals)
        # Somebody may have unwatched what an earlier group has begun.
        begun = _begun.setdefault(dispatcher, set())
        begun.intersection_update(before)
        begun.update(signals - before)
        self._registrations = [
            dispatcher.addHandler(signo, handler) for signo, handler in wanted
        ]

    def remove(self) -> None:
        """
        Call the handlers no more.  Their signals stay watched.
        """
        for registration in self._registrations:
            registration.remove()

    def restore(self) -> None:
        """
        Call the handlers for what is pending, and then no more, and give back
        what nobody else handles, and was not watched before this group or
        another began to.
        """
        # A dispatcher that was closed has given back all.
        with suppress(DispatcherClosed):
            # What is pending first: whoever is called may want the signals.
            self._dispatcher.unwatch()
            idle = self._idle()
            begun = _begun[self._dispatcher]
            self._dispatcher.unwatch(*(idle & begun))
            begun -= idle
        self.remove()

    def _idle(self) -> set[int]:
        """
        The signals that nobody else handles.
        """
        ours = set(self._registrations)
        return {
            registration.signal
            for registration in ours
            if ours.issuperset(self._dispatcher.handlersOf(registration.signal))
        }
