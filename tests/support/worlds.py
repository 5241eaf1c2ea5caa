"""
Worlds: the signals of a test come from the kernel, or from L{MemorySignals}.

Tests with the fixture C{world} run in both worlds.  Those with the mark C{@kernelOnly}
run only with the kernel, because they are about a whole process.
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

#: The backend of all dispatchers: the whole suite runs with each backend.
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
    Real signals, sent to this process.
    """

    def dispatcherFor(self, reactor: Any) -> SignalDispatcher:
        return realDispatcherFor(reactor)

    def send(self, signo: int) -> None:
        os.kill(os.getpid(), signo)

    def queue(self, signo: int, values: Iterable[int]) -> None:
        for value in values:
            lowlevel.sigqueue(os.getpid(), signo, value)


class Memory:
    """
    The dispatcher for unit tests, with signals as the kernel would send them.
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
    Make L{send}, L{queue} and L{dispatcherFor} use another world.
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
    Send signals to this process.
    """
    for signo in signals:
        _current.send(signo)


def queue(*values: int, signo: int = SIGRTMIN) -> None:
    """
    Queue a realtime signal for this process, once for each value.
    """
    _current.queue(signo, values)


def dispatcherFor(reactor: Any) -> SignalDispatcher:
    """
    Return the dispatcher of a reactor.
    """
    return _current.dispatcherFor(reactor)


needsSignalfd = pytest.mark.skipif(
    BACKEND != "signalfd", reason="the handler backend differs: see docs/backends.rst"
)


def maskWhile(watched: Collection[int], before: Collection[int] = ()) -> set[int]:
    """
    Return what the reactor's thread blocks while signals are watched.

    Watched signals are blocked with a signalfd, and unblocked with a handler.
    """
    if BACKEND == "signalfd":
        return {*before, *watched}
    return set(before).difference(watched)
