# -*- test-case-name: tests.test_testing -*-
"""
L{MemorySignals}: a dispatcher for tests, without the system.

It is the dispatcher that programs have, with the same handlers, holds, streams
and closing; only what it has from the kernel comes from the test instead::

    signals = MemorySignals()
    server = Server(signals)        # code under test: signals.addHandler(...)
    signals.deliver(SigInfo.make(SIGHUP, pid=4242))
    assert server.reloads == 1

Nothing of the process is touched, no mask, disposition or descriptor, and no
signal is sent, so tests may run in any thread, beside each other, and where
signals are not to be had.
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
    A signal was delivered that nobody watches.  A process would have got it as
    if there were no dispatcher: most signals would have ended it.
    """


class MemoryBackend:
    """
    Keeps what is watched.

    @ivar signals: See L{Backend}.
    @ivar receivable: What can be delivered; nothing after L{stop}.
    """

    def __init__(self, reactor: Any, lost: Callable[[Failure], object]) -> None:
        self._reactor = reactor
        self._lost = lost
        self._forgetReactor: Callable[[], None] = lambda: None
        self.signals: frozenset[int] = frozenset()
        self.receivable: frozenset[int] = frozenset()

    def describe(self) -> BackendDescription:
        """
        See L{Backend}.
        """
        return BackendDescription("memory", 0)

    def checkProcess(self) -> None:
        """
        Every process has its own.
        """

    def watch(self, signals: Collection[int]) -> None:
        """
        See L{Backend}.
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
        See L{Backend}.  Nothing is ever pending.
        """
        self.signals = self.receivable = self.signals.difference(signals)

    def stop(self) -> None:
        """
        See L{Backend}.
        """
        self.receivable = frozenset()

    def close(self) -> None:
        """
        See L{Backend}.
        """
        self._forgetReactor()
        self.signals = frozenset()

    def _reactorStopped(self) -> None:
        self.stop()
        self.close()
        self._lost(Failure(ConnectionLost("the reactor has stopped")))


class MemorySignals(SignalDispatcher):
    """
    A L{SignalDispatcher} whose signals are those of L{deliver}.

    It needs no reactor: handlers are called before L{deliver} returns, and
    Deferreds fire when the test fires them.  Two of them are two processes:
    each may watch the same signal.
    """

    def __init__(self, reactor: Any = None) -> None:
        """
        @param reactor: A reactor or a clock for code that asks for
            L{SignalDispatcher.reactor}, or gets its dispatcher by
            C{dispatcherFor(reactor)}: until L{close
            <SignalDispatcher.close>} that is this one.  By default a
            C{twisted.internet.task.Clock} of its own.
        @raise RuntimeError: When the reactor has a dispatcher already.
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
        Have signals come: several are like one read of several.  Each is one
        signal, where the kernel makes one of several C{SIGHUP} that come
        before they are read.  In a handler it returns at once, and they are
        handed out after what came before.

        @param infos: What L{SigInfo.make} makes.
        @raise SignalNotWatched: For a signal that is not watched, before
            anything is handed out.
        @raise TypeError: For what is no L{SigInfo}.
        """
        for info in infos:
            if not isinstance(info, SigInfo):
                raise TypeError(f"{info!r} is no SigInfo: make one by SigInfo.make")
            if info.signo not in self._memory.receivable:
                names = namesOf(self._memory.receivable)
                raise SignalNotWatched(
                    f"nobody watches {info.name} (watched: {names}): a process would"
                    " have got it as if it had no dispatcher"
                )
        self._table.receive(list(infos))
