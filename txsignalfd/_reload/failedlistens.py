# -*- test-case-name: tests.reload.test_failedlistens -*-
"""
Failures to open a port that a service only logs.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.error import CannotListenError
from twisted.logger import LogEvent

from txsignalfd._reload.generation import Resources


class FailedListen:
    """
    A failure to open a port while a service starts.

    A service may try again, or try one port after another until one is free.  So the
    failure is handled if the address is open in the end, or if the factory listens
    elsewhere; or, where each attempt has a factory of its own, if another factory of
    the same class listens.  The last does not count for a failure that was logged:
    nothing else has handled the error, so the other factory belongs to another part
    of the service.
    """

    def __init__(self, key: Any, factory: Any, error: BaseException) -> None:
        """
        @param key: The kind of port and the address.
        @param factory: The factory or protocol.
        @param error: The reason.
        """
        self.key = key
        self.error = error
        self._factory = _unwrapped(factory)
        self._isLogged = False
        self._hasListened = self._hasClassListened = False

    def observe(self, event: LogEvent) -> None:
        """
        Observe the log.
        """
        failure = event.get("log_failure") or event.get("failure")
        if getattr(failure, "value", None) is self.error:
            self._isLogged = True

    def listened(self, key: Any, factory: Any) -> None:
        """
        Note a port that was opened later.
        """
        factory = _unwrapped(factory)
        self._hasListened |= key == self.key
        if key[0] == self.key[0]:
            self._hasListened |= factory is self._factory
            self._hasClassListened |= type(factory) is type(self._factory)

    @property
    def isHandled(self) -> bool:
        """
        Whether the service listens elsewhere instead.
        """
        return self._hasListened or (self._hasClassListened and not self._isLogged)


def checkListens(new: Resources, old: Resources | None) -> None:
    """
    Check that a generation has opened its ports, when its service has started.

    The first generation has to listen somewhere, if it tried.  A later one has to
    open each port that it tries to open; what the old one could not open either may
    stay closed.

    @param new: The resources of the generation.
    @param old: Those of the previous generation, if there is one.
    @raise CannotListenError: If it has not.
    """
    failed = [each for each in new.failedListens if not each.isHandled]
    if old is None:
        failed = [] if new.ports else failed
    elif new.ports or not old.ports:
        known = [each.key for each in old.failedListens]
        failed = [each for each in failed if each.key not in known]
    for first in failed:
        if isinstance(first.error, CannotListenError):
            raise first.error
        _, *address = first.key
        interface = address[0] if len(address) > 1 else None
        raise CannotListenError(interface, address[-1], first.error)


def _unwrapped(factory: Any) -> Any:
    # Each attempt to listen with TLS wraps the factory again.
    while hasattr(factory, "wrappedFactory"):
        factory = factory.wrappedFactory
    return factory
