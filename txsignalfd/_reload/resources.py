# -*- test-case-name: tests.reload.test_resources -*-
"""
L{Resources}: the ports, connections, descriptors and triggers of a generation.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakSet

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.logger import Logger

_log: Final = Logger("txsignalfd.reload.ReloadService")


class OneShotEvent:
    """
    An event that happens once, and that any number of callers may wait for.
    """

    def __init__(self) -> None:
        self.fired: bool = False
        self._waiting: list[Deferred[None]] = []

    def fire(self) -> None:
        """
        Call back all waiting Deferreds.  A second call does nothing.
        """
        self.fired = True
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)

    def wait(self) -> Deferred[None]:
        """
        @return: A Deferred that fires with the event, and can be cancelled.
        """
        deferred: Deferred[None] = Deferred(self._waiting.remove)
        if self.fired:
            deferred.callback(None)
        else:
            self._waiting.append(deferred)
        return deferred


class Triggers:
    """
    The shutdown triggers that a generation has added to the reactor.

    A plugin may make something for as long as the reactor runs, and stop it by a
    shutdown trigger, as C{web --wsgi} does with its thread pool.  A generation
    ends before the reactor does, and its triggers fire then.
    """

    def __init__(self) -> None:
        self._added: list[tuple[str, Any, Callable[[], Any]]] = []

    def add(self, phase: str, identity: Any, call: Callable[[], Any]) -> None:
        """
        Note a trigger that was added to the reactor.

        @param phase: C{before}, C{during} or C{after}.
        @param identity: The result of C{addSystemEventTrigger}.
        @param call: The function of the trigger, with its arguments.
        """
        self._added.append((phase, identity, call))

    def leave(self) -> None:
        """
        Leave all triggers to the reactor.
        """
        self._added.clear()

    async def fire(self, reactor: Any) -> None:
        """
        Fire the triggers in the reactor's order, and remove them there.
        """
        added, self._added = self._added, []
        for wanted in ("before", "during", "after"):
            for phase, identity, call in added:
                if phase == wanted and self._remove(reactor, identity):
                    try:
                        await maybeDeferred(call)
                    except Exception:
                        _log.failure("the trigger {call!r} has failed", call=call)

    def _remove(self, reactor: Any, identity: Any) -> bool:
        """
        @return: Whether the reactor still had the trigger.
        """
        try:
            reactor.removeSystemEventTrigger(identity)
        except ValueError:
            return False
        return True


class Resources:
    """
    What one generation owns.

    @ivar ports: Its open ports, in the order in which they were opened.
    @ivar connections: The open connections that its ports have accepted.  The set
        is weak: code that passes a connection to a child process drops it without
        ending it.
    @ivar triggers: Its shutdown triggers.
    @ivar descriptors: Duplicates of inherited sockets that are not adopted yet.
    @ivar starting: Whether the generation has not started yet.
    """

    def __init__(self, descriptors: set[int] | None = None) -> None:
        """
        @param descriptors: Duplicates that were made before.
        """
        self.ports: list[Any] = []
        self.connections: WeakSet[Any] = WeakSet()
        self.triggers: Triggers = Triggers()
        self.descriptors: set[int] = set() if descriptors is None else descriptors
        self.starting: bool = True
        self._quiet: OneShotEvent | None = None

    def started(self) -> None:
        """
        Accept connections, also on sockets that another generation shares.
        """
        self.starting = False
        for port in self.ports:
            port.startReading()

    def opened(self, connection: Any) -> None:
        """
        Note a connection that a port has accepted.
        """
        self.connections.add(connection)

    def ended(self, connection: Any) -> None:
        """
        Note the end of a connection.
        """
        self.connections.discard(connection)
        self._check()

    def suspended(self) -> None:
        """
        Note that a port no longer accepts connections.
        """
        self._check()

    def _check(self) -> None:
        if self._quiet is not None and self.isQuiet:
            quiet, self._quiet = self._quiet, None
            quiet.fire()

    def collect(self) -> None:
        """
        Collect dropped connections that are in a reference cycle.
        """
        if self.connections:
            gc.collect()
        # An earlier collection may have emptied the set without a check.
        self._check()

    @property
    def lingering(self) -> list[Any]:
        """
        The ports whose address a new generation may still open.
        """
        return [port for port in self.ports if port.lingers]

    @property
    def isQuiet(self) -> bool:
        """
        Whether there is neither an open connection nor a lingering port.
        """
        return not self.connections and not self.lingering

    def whenQuiet(self) -> Deferred[None]:
        """
        @return: A Deferred that fires when L{isQuiet} becomes true.
        """
        if self.isQuiet:
            return succeed(None)
        if self._quiet is None:
            self._quiet = OneShotEvent()
        return self._quiet.wait()

    def close(self) -> None:
        """
        Close the duplicates that were never adopted.
        """
        while self.descriptors:
            os.close(self.descriptors.pop())
