# -*- test-case-name: tests.test_taken -*-
"""
L{Taken}: what one generation of a service has taken of the system.
"""

from __future__ import annotations

import gc
import os
from typing import Any
from weakref import WeakSet

from twisted.internet.defer import Deferred, succeed

from txsignalfd.latch import Latch
from txsignalfd.triggers import Triggers


class Taken:
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
        self.triggers = Triggers()
        #: Duplicates of systemd's sockets that were not adopted yet.
        self.descriptors = set() if descriptors is None else descriptors
        #: Whether what takes it has not started yet.
        self.starting = True
        self._quiet: Latch | None = None

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
            quiet.happen()

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
            self._quiet = Latch()
        return self._quiet.wait()

    def close(self) -> None:
        """
        Close the descriptors that were never adopted.
        """
        while self.descriptors:
            os.close(self.descriptors.pop())
