# -*- test-case-name: tests.test_service -*-
"""
L{HandlerGroup}: handlers that come and go together.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from txsignalfd.dispatcher import DispatcherClosed, SignalDispatcher
from txsignalfd.registration import Handler


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
        self._dispatcher = dispatcher
        self._foreign = dispatcher.watching
        dispatcher.watch(*(signo for signo, _ in wanted))
        self._registrations = [
            dispatcher.addHandler(signo, handler) for signo, handler in wanted
        ]

    def remove(self) -> None:
        """
        Call the handlers no more.  Their signals stay watched.
        """
        for registration in self._registrations:
            registration.remove()

    def giveBack(self) -> None:
        """
        Call the handlers for what is pending, and then no more, and give back
        what nobody else handles, and was not watched before.
        """
        ours = set(self._registrations)
        idle = {
            registration.signal
            for registration in ours
            if ours.issuperset(self._dispatcher.handlersOf(registration.signal))
        }
        # A dispatcher that was closed has given back all.
        with suppress(DispatcherClosed):
            self._dispatcher.unwatch(*(idle - self._foreign))
        self.remove()
