"""
Where the signals of a test come from: the kernel, or L{MemorySignals}.

Tests that take the fixture C{world} run in both, but for those that are
C{@kernelOnly}, which are about what only a process has.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from signal import SIGRTMIN
from typing import Any, Protocol

import pytest

from txsignalfd import SigInfo, SignalDispatcher, lowlevel
from txsignalfd import dispatcherFor as realDispatcherFor
from txsignalfd._dispatch.backends import bestBackend, checkBackend
from txsignalfd._native.extension import lib
from txsignalfd.testing import MemorySignals, SignalNotWatched

ME = os.getpid()

#: What dispatchers have their signals from: the whole suite runs with each.
BACKEND = checkBackend(None) or bestBackend()

kernelOnly = pytest.mark.kernelOnly

needsLinux = pytest.mark.skipif(
    not lib.TXS_LINUX, reason="this build uses nothing that Linux alone has"
)


class World(Protocol):
    def dispatcherFor(self, reactor: Any) -> SignalDispatcher: ...
    def send(self, signo: int) -> None: ...
    def queue(self, signo: int, values: Iterable[int]) -> None: ...


class Kernel:
    """
    Real signals, to ourselves.
    """

    def dispatcherFor(self, reactor: Any) -> SignalDispatcher:
        return realDispatcherFor(reactor)

    def send(self, signo: int) -> None:
        os.kill(ME, signo)

    def queue(self, signo: int, values: Iterable[int]) -> None:
        for value in values:
            lowlevel.sigqueue(ME, signo, value)


class Memory:
    """
    The dispatcher for tests, and what the kernel would give it.
    """

    def __init__(self) -> None:
        self.dispatchers: list[MemorySignals] = []

    def dispatcherFor(self, reactor: Any) -> SignalDispatcher:
        dispatcher = realDispatcherFor(reactor)
        if not isinstance(dispatcher, MemorySignals):
            dispatcher.close()
            dispatcher = MemorySignals(reactor)
            self.dispatchers.append(dispatcher)
        return dispatcher

    def send(self, signo: int) -> None:
        self._deliver(SigInfo.make(signo, pid=ME, uid=os.getuid()))

    def queue(self, signo: int, values: Iterable[int]) -> None:
        self._deliver(
            *(SigInfo.make(signo, "SI_QUEUE", pid=ME, int=value) for value in values)
        )

    def _deliver(self, *infos: SigInfo) -> None:
        for dispatcher in self.dispatchers:
            if infos[0].signo in dispatcher.watching:
                dispatcher.deliver(*infos)
                return
        raise SignalNotWatched(f"{infos}")


_current: World = Kernel()


@contextmanager
def using(world: World) -> Iterator[None]:
    """
    Have L{send}, L{queue} and L{dispatcherFor} be those of another world.
    """
    global _current
    before, _current = _current, world
    try:
        yield
    finally:
        _current = before


WORLDS: dict[str, Callable[[], World]] = {"kernel": Kernel, "memory": Memory}


def send(*signals: int) -> None:
    """
    Send signals to ourselves.
    """
    for signo in signals:
        _current.send(signo)


def queue(*values: int, signo: int = SIGRTMIN) -> None:
    """
    Queue a realtime signal to ourselves, once for each value.
    """
    _current.queue(signo, values)


def dispatcherFor(reactor: Any) -> SignalDispatcher:
    """
    The reactor's one dispatcher.
    """
    return _current.dispatcherFor(reactor)


needsSignalfd = pytest.mark.skipif(
    BACKEND != "signalfd", reason="a handler differs here: see docs/backends.rst"
)


def maskWhile(watched: Collection[int], before: Collection[int] = ()) -> set[int]:
    """
    What the reactor's thread blocks while signals are watched: they wait for a
    signalfd, and come to a handler.
    """
    if BACKEND == "signalfd":
        return {*before, *watched}
    return set(before).difference(watched)
