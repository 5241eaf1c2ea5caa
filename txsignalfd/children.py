# -*- test-case-name: tests.test_children -*-
"""
L{ChildReaper}: what a user has of L{Reaping <txsignalfd.reaping.Reaping>}.
"""

from __future__ import annotations

from typing import TypeVar

from twisted.internet.defer import Deferred, fail

from txsignalfd.dispatcher import DispatcherClosed, SignalDispatcher
from txsignalfd.reaping import reapingOf
from txsignalfd.siginfo import Child

_T = TypeVar("_T")


class ChildReaper:
    """
    Tells the processes of C{reactor.spawnProcess} of their ends, while
    C{SIGCHLD} is watched and Twisted is not told of it.

    Use it in the thread in which the dispatcher's reactor runs, or before it
    runs.  It works until L{close}, or until its dispatcher is closed.  A
    dispatcher may have several, at the cost of one.

    Children of others are left to those who wait for them.  One for whom nobody
    does stays a zombie, also where C{SIGCHLD} was ignored before it was watched
    and the kernel therefore kept none: C{subreaper} is for these, too.
    """

    def __init__(self, dispatcher: SignalDispatcher, subreaper: bool = False) -> None:
        """
        Watch C{SIGCHLD}, and tell who has ended already.

        @param dispatcher: The dispatcher to have C{SIGCHLD} from.
        @param subreaper: Whether to adopt orphans among the descendants, and
            to reap them; see L{txsignalfd.orphans} for what is taken for one.
        @raise SignalAlreadyWatched: And the other errors of
            L{SignalDispatcher.watch}.  Then nothing has been taken.
        """
        #: What whenExited has given and has not fired, and for which child.
        self._waiting: dict[Deferred[Child | None], int] = {}
        self._closed = False
        self._reaping = reapingOf(dispatcher)
        self._reaping.join(self._release, subreaper)

    def whenExited(self, pid: int) -> Deferred[Child | None]:
        """
        Wait for the end of a child, whoever has started it.  Its status is
        left to its owner.

        @param pid: Its process id.
        @return: A Deferred that fires with how it ended, or with C{None} when
            that is not known any more, because its owner was first to ask.  It
            fails with C{ChildProcessError} for what is no child of this
            process, or was waited for already, with another C{OSError} for
            what is no process id, and with L{DispatcherClosed} when this is
            closed before.  It may be cancelled.
        """
        if self._closed:
            return fail(_closedError())
        try:
            deferred = self._reaping.whenExited(pid)
        except OSError as error:
            return fail(error)
        if not deferred.called:
            self._waiting[deferred] = pid
            deferred.addBoth(self._told, deferred)
        return deferred

    def _told(self, result: _T, deferred: Deferred[Child | None]) -> _T:
        del self._waiting[deferred]
        return result

    def close(self) -> None:
        """
        Tell of ends no more.  C{SIGCHLD} is given back if nobody else handles
        it and it was not watched before.  A second call does nothing.
        """
        if not self._closed:
            self._reaping.leave(self._release)
            self._release()

    def _release(self) -> None:
        self._closed = True
        while self._waiting:
            deferred, pid = next(iter(self._waiting.items()))
            self._reaping.forget(pid, deferred)
            deferred.errback(_closedError())


def _closedError() -> DispatcherClosed:
    return DispatcherClosed("the ChildReaper was closed, or its dispatcher")
