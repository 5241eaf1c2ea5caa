# -*- test-case-name: tests.test_testing -*-
"""
L{MemorySignals}: a dispatcher for tests that needs no real signals.

It is the dispatcher that programs use, with the same handlers, holds, streams and
closing.  Only the signals come from the test instead of the kernel::

    signals = MemorySignals()
    server = Server(signals)        # code under test: signals.addHandler(...)
    signals.deliver(SigInfo.make(SIGHUP, pid=4242))
    assert server.reloads == 1

The mask, the dispositions and the descriptors of the process stay as they are, and
no signal is sent.  So tests may run in any thread, concurrently, and on systems
without signals.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from txsignalfd._dispatch.backends import Backend, atShutdown
from txsignalfd._dispatch.description import BackendDescription
from txsignalfd._dispatch.dispatcher import SignalDispatcher, dispatchers
from txsignalfd._kernel.mask import checkWatchable
from txsignalfd._proc.report import namesOf
from txsignalfd.siginfo import SigInfo


class SignalNotWatched(RuntimeError):
    """
    A delivered signal is not watched.

    In a real process it would have had its default action, which for most signals
    ends the process.
    """


class MemoryBackend:
    """
    A source of signals that tests deliver.

    @ivar signals: The signals that are watched.
    @ivar receivable: The signals that can be delivered; none after L{stop}.
    """

    def __init__(self, reactor: Any, lost: Callable[[Failure], object]) -> None:
        self._reactor = reactor
        self._lost = lost
        self._forgetReactor: Callable[[], None] = lambda: None
        self.signals: frozenset[int] = frozenset()
        self.receivable: frozenset[int] = frozenset()

    def describe(self) -> BackendDescription:
        """
        Describe the backend.
        """
        return BackendDescription("memory", 0)

    def checkProcess(self) -> None:
        """
        Do nothing: a forked child has a copy of its own.
        """

    def watch(self, signals: Collection[int]) -> None:
        """
        Watch more signals, all or none.
        """
        wanted = checkWatchable(signals)
        if wanted and not self.signals:
            self._forgetReactor()
            self._forgetReactor = atShutdown(
                self._reactor, "after", self._reactorStopped
            )
        self.signals = self.receivable = self.signals.union(wanted)

    def unwatch(self, signals: Collection[int]) -> None:
        """
        Release signals.  None are ever pending.
        """
        self.signals = self.receivable = self.signals.difference(signals)

    def setInternal(self, internal: bool) -> None:
        """
        Do nothing: the reactor reads no descriptor.
        """

    def pause(self) -> int:
        """
        Do nothing: no program is executed.
        """
        return 0

    def resume(self) -> None:
        """
        Do nothing.
        """

    def stop(self) -> None:
        """
        Receive no more signals.
        """
        self.receivable = frozenset()

    def close(self) -> None:
        """
        Release all signals.
        """
        self._forgetReactor()
        self.signals = frozenset()

    def _reactorStopped(self) -> None:
        self.stop()
        self.close()
        self._lost(Failure(ConnectionLost("the reactor has stopped")))


class MemorySignals(SignalDispatcher):
    """
    A L{SignalDispatcher} that receives the signals of L{deliver}.

    It needs no reactor: handlers are called before L{deliver} returns, and Deferreds
    fire when the test fires them.  Several instances are like several processes:
    each may watch the same signal.
    """

    def __init__(self, reactor: Any = None) -> None:
        """
        @param reactor: A reactor or a clock for code that uses
            L{SignalDispatcher.reactor} or C{dispatcherFor(reactor)}, which returns
            this object until L{close <SignalDispatcher.close>}.  By default a
            C{twisted.internet.task.Clock} of its own.
        @raise RuntimeError: When the reactor already has a dispatcher.
        """
        self._memory: MemoryBackend
        super().__init__(Clock() if reactor is None else reactor)
        if reactor is not None:
            if reactor in dispatchers:
                raise RuntimeError(f"{reactor!r} has {dispatchers[reactor]!r} already")
            dispatchers[reactor] = self

    def _makeBackend(self, name: str | None) -> Backend:
        self._memory = MemoryBackend(self.reactor, self._lost)
        return self._memory

    def deliver(self, *infos: SigInfo) -> None:
        """
        Receive signals, as from one read.

        Each is handled as a signal of its own, while the kernel merges several
        pending C{SIGHUP}.  A handler that calls this receives them after it has
        returned and the signals before them are handled.

        @param infos: Results of L{SigInfo.make}.
        @raise SignalNotWatched: For a signal that is not watched.  Then none of them
            is received.
        @raise TypeError: For an argument that is not a L{SigInfo}.
        """
        for info in infos:
            if not isinstance(info, SigInfo):
                raise TypeError(f"{info!r} is not a SigInfo: use SigInfo.make")
            if info.signo not in self._memory.receivable:
                names = namesOf(self._memory.receivable)
                raise SignalNotWatched(
                    f"{info.name} is not watched (watched: {names}): in a process it"
                    " would have its default action"
                )
        self._table.receive(list(infos))
