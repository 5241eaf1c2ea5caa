# -*- test-case-name: tests.reload.test_resources -*-
"""
L{Resources}: what one generation of a service has taken of the system.

L{Triggers}: what a generation of a service wants done when the reactor stops.

A plugin may make something for as long as the reactor runs, as C{web --wsgi}
makes a pool of threads, and have it ended by a trigger of its shutdown.  A
generation that another one follows ends earlier, and so do these.

L{OneShotEvent}: something that happens once, and that many may wait for.
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
    It has happened or not.  A Deferred can be waited for by one only.
    """

    def __init__(self) -> None:
        #: Whether it has.
        self.fired = False
        self._waiting: list[Deferred[None]] = []

    def fire(self) -> None:
        """
        It happens now; nothing if it has already.
        """
        self.fired = True
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)

    def wait(self) -> Deferred[None]:
        """
        @return: Fires when it has happened; can be cancelled.
        """
        deferred: Deferred[None] = Deferred(self._waiting.remove)
        if self.fired:
            deferred.callback(None)
        else:
            self._waiting.append(deferred)
        return deferred


class Triggers:
    """
    Triggers of a reactor's shutdown.
    """

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
                        _log.failure("{call!r} has failed", call=call)

    def _remove(self, reactor: Any, identity: Any) -> bool:
        """
        @return: Whether it was still there.
        """
        try:
            reactor.removeSystemEventTrigger(identity)
        except ValueError:
            return False
        return True


class Resources:
    """
    The ports, connections and descriptors of one generation.
    """

    def __init__(self, descriptors: set[int] | None = None) -> None:
        """
        @param descriptors: Those that it has already.
        """
        #: Where it listens, in the order in which it began to.
        self.ports: list[Any] = []
        #: What its ports have accepted, and has not ended.  Weak, for what
        #: hands a connection to a child process lets it go without an end.
        self.connections: WeakSet[Any] = WeakSet()
        #: What it wants done when the reactor stops.
        self.triggers: Triggers = Triggers()
        #: Duplicates of systemd's sockets that were not adopted yet.
        self.descriptors: set[int] = set() if descriptors is None else descriptors
        #: Whether what takes it has not started yet.
        self.starting: bool = True
        self._quiet: OneShotEvent | None = None

    def started(self) -> None:
        """
        What takes it has started: it accepts where others do too.
        """
        self.starting = False
        for port in self.ports:
            port.startReading()

    def opened(self, connection: Any) -> None:
        """
        A port has accepted a connection.
        """
        self.connections.add(connection)

    def ended(self, connection: Any) -> None:
        """
        A connection has ended.
        """
        self.connections.discard(connection)
        self._check()

    def suspended(self) -> None:
        """
        A port accepts no more.
        """
        self._check()

    def _check(self) -> None:
        if self._quiet is not None and self.isQuiet:
            quiet, self._quiet = self._quiet, None
            quiet.fire()

    def collect(self) -> None:
        """
        Have connections that were let go of no longer count.  A cycle may keep
        them until then.
        """
        if self.connections:
            gc.collect()
        # They may have gone at any time since.
        self._check()

    @property
    def lingering(self) -> list[Any]:
        """
        The ports where a new generation may listen later.
        """
        return [port for port in self.ports if port.lingers]

    @property
    def isQuiet(self) -> bool:
        """
        Whether no connection is open, nor a port that lingers.
        """
        return not self.connections and not self.lingering

    def whenQuiet(self) -> Deferred[None]:
        """
        @return: Fires when it is quiet.
        """
        if self.isQuiet:
            return succeed(None)
        if self._quiet is None:
            self._quiet = OneShotEvent()
        return self._quiet.wait()

    def close(self) -> None:
        """
        Close the descriptors that were never adopted.
        """
        while self.descriptors:
            os.close(self.descriptors.pop())
