# -*- test-case-name: tests.test_service -*-
"""
Stop a reactor because of a signal, unless the user wants it to be ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from signal import SIG_IGN, SIG_UNBLOCK, SIGINT, SIGTERM, getsignal, pthread_sigmask
from typing import Final
from weakref import WeakKeyDictionary, WeakSet

from txsignalfd._dispatch.backends import atShutdown
from txsignalfd._dispatch.dispatcher import SignalDispatcher

_stopping: Final[WeakSet[SignalDispatcher]] = WeakSet()

#: The signals of L{overrideStops}, by dispatcher.
_overridden: Final[WeakKeyDictionary[SignalDispatcher, list[Collection[int]]]] = (
    WeakKeyDictionary()
)


def staysIgnored(signo: int) -> bool:
    """
    Return whether only an explicit request may watch a signal.

    nohup(1) ignores SIGHUP for its command, and a shell ignores SIGINT and SIGQUIT
    for the background jobs of a script.  SIGTERM is different, as in Twisted: a
    daemon that ignores it could not be stopped in order.
    """
    return signo != SIGTERM and getsignal(signo) is SIG_IGN


def overrideStops(
    dispatcher: SignalDispatcher, signals: Collection[int]
) -> Callable[[], None]:
    """
    Decide, in place of the reactor's own handling, whether signals stop the reactor.

    @return: A function that leaves it to the reactor again.
    """
    overridden = _overridden.setdefault(dispatcher, [])
    overridden.append(signals)
    return partial(overridden.remove, signals)


def isOverridden(dispatcher: SignalDispatcher, signo: int) -> bool:
    """
    Return whether other code decides what a signal does.
    """
    return any(signo in each for each in _overridden.get(dispatcher, ()))


def isStopping(dispatcher: SignalDispatcher) -> bool:
    """
    Return whether L{stopReactor} was called for a dispatcher's reactor.
    """
    return dispatcher in _stopping


def stopReactor(dispatcher: SignalDispatcher, signo: int) -> None:
    """
    Stop a dispatcher's reactor because of a signal.

    A process that twistd runs is killed by that signal in the end.
    """
    _stopping.add(dispatcher)
    reactor = dispatcher.reactor
    # The signal was perhaps blocked when the process started.  It is blocked again
    # when it is restored, and then the process could not end by it.
    atShutdown(reactor, "after", partial(pthread_sigmask, SIG_UNBLOCK, [signo]))
    # Twisted's own handlers also record the number, which twistd needs for its
    # exit status.
    stop = getattr(reactor, "sigInt" if signo == SIGINT else "sigTerm", None)
    if stop is None:  # a reactor for tests, such as Twisted's MemoryReactor
        reactor.stop()
    else:
        stop(signo)
