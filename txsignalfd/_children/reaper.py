# -*- test-case-name: tests.children.test_children -*-
"""
L{Reaping}: from SIGCHLD to the processes of C{reactor.spawnProcess}, and to
whoever waits for the end of a child.

Theory
======

Twisted keeps the processes that it has started in a dictionary by process id,
and each of them can ask for its own status.  What is to be found out at a
SIGCHLD is only whom to tell.

  1. The SIGCHLD names a child.  If it is in the dictionary it is told.
  2. The SIGCHLD may stand for others too.  L{Ends
     <txsignalfd._children.exitwatch.Ends>} tells which of those that it has been
     given have ended.
  3. So it must be given each child before the next SIGCHLD: see
     L{SpawnedProcesses <txsignalfd._children.spawned.SpawnedProcesses>}.  A child that
     has ended before it was found is told at once, as its pidfd is readable
     from the start.

Whoever is told asks the kernel by itself, for its own pid and without waiting,
so that telling one too many does no harm, and no status is taken but by the
process whose it is.  Children that are not in the dictionary are not touched.

Several reactors have this one dictionary, and the process has one SIGCHLD.
Who is told is told in the thread of its own reactor.

Rejected: C{waitpid(-1)} (it takes what is not Twisted's); Twisted's own
C{reapAllProcesses} (a system call for each living child, at each end).

All this is there once for each dispatcher, however many
L{ChildReaper <txsignalfd.ChildReaper>}s use it: a child costs one pidfd.

L{ChildReaper}: what a user has of L{Reaping <txsignalfd._children.reaper.Reaping>}.
"""

from __future__ import annotations

from collections.abc import Callable
from signal import SIGCHLD
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred, fail, succeed

from txsignalfd._children.exitwatch import Ends, peek
from txsignalfd._children.orphans import OrphanReaper
from txsignalfd._children.spawned import SpawnedProcesses
from txsignalfd._dispatch.dispatcher import DispatcherClosed, SignalDispatcher
from txsignalfd._dispatch.group import HandlerGroup
from txsignalfd._native.names import CODES
from txsignalfd.siginfo import Child, SigInfo

_ENDED: Final = {CODES["CLD_EXITED"], CODES["CLD_KILLED"], CODES["CLD_DUMPED"]}


class Reaping:
    """
    Tells of the ends of children, for the users of one dispatcher, as long as
    it has any.  Use it in the thread in which the dispatcher's reactor runs,
    or before it runs.
    """

    def __init__(self, dispatcher: SignalDispatcher) -> None:
        """
        Watch C{SIGCHLD}; for L{reapingOf}.
        """
        self._dispatcher = dispatcher
        self._ends = Ends()
        self._spawned = SpawnedProcesses(dispatcher.reactor)
        self._waiting: dict[int, list[Deferred[Child | None]]] = {}
        #: What to call when it is over, and who wants orphans reaped.
        self._users: dict[Callable[[], None], bool] = {}
        self._orphans: OrphanReaper | None = None
        self._startTrigger: Any = None
        self._closed = False
        self._group = HandlerGroup(dispatcher, [(SIGCHLD, self._received)])
        self._whenClosed = dispatcher.whenClosed()
        self._whenClosed.addBoth(lambda _: self._release())

    def join(self, released: Callable[[], None], subreaper: bool) -> None:
        """
        Use it until L{leave}.

        @param released: Names the user, and is called when the dispatcher is
            closed.
        @param subreaper: Whether to reap orphans, too.
        @raise OSError: On a system that has no subreapers.
        """
        first = not self._users
        self._users[released] = subreaper
        if subreaper and self._orphans is None:
            try:
                self._orphans = OrphanReaper(self._dispatcher.reactor, self._isOwned)
            except BaseException:
                self.leave(released)
                raise
        if first and hasattr(self._dispatcher.reactor, "callWhenRunning"):
            # Who has ended before SIGCHLD was watched; a Clock has no children.
            self._startTrigger = self._dispatcher.reactor.callWhenRunning(self._start)

    def leave(self, released: Callable[[], None]) -> None:
        """
        Use it no more.  With the last user it is over: what is pending is
        told, and C{SIGCHLD} is given back if nobody else handles it.
        """
        self._users.pop(released, None)
        if not any(self._users.values()):
            self._closeOrphans()
        if not self._users:
            self._leaveDispatcher()
            self._group.restore()
            self._release()

    def whenExited(self, pid: int) -> Deferred[Child | None]:
        """
        See L{ChildReaper.whenExited <txsignalfd.ChildReaper.whenExited>}.

        @raise OSError: For what is no child.
        """
        if pid in self._waiting:
            self._tellWaiting(pid, None)  # of one that has had this number
        info = peek(pid)
        if info is not None:
            return succeed(info.child)
        deferred: Deferred[Child | None] = Deferred(
            lambda deferred: self.forget(pid, deferred)
        )
        self._waiting.setdefault(pid, []).append(deferred)
        self._ends.add(pid, ours=False)
        return deferred

    def forget(self, pid: int, deferred: Deferred[Child | None]) -> None:
        """
        Call nobody back for this.
        """
        deferreds = self._waiting[pid]
        deferreds.remove(deferred)
        if not deferreds:
            del self._waiting[pid]
            if pid not in self._spawned.known:
                self._ends.discard(pid)

    def _start(self) -> None:
        self._startTrigger = None
        self._findEnded()
        if self._orphans is not None:
            self._orphans.look()

    def _received(self, info: SigInfo) -> None:
        # Whatever process it names, and whoever has sent it: that one is asked.
        self._look(info.pid, info)
        self._findEnded()
        if self._orphans is not None:
            self._orphans.look()

    def _findEnded(self) -> None:
        # Met ones first: they leave, and their numbers may be in use again.
        for pid in self._ends.ended():
            self._look(pid)
        if self._closed:  # by one of those that were told
            return
        new = self._spawned.newest()
        for pid in new:
            self._ends.add(pid, ours=pid not in self._waiting)
        if new:
            for pid in self._ends.ended():
                self._look(pid)

    def _look(self, pid: int, info: SigInfo | None = None) -> None:
        """
        Tell who is concerned, if this child has ended.

        @param info: The C{SIGCHLD} that names it, where one does; otherwise
            it has ended.
        """
        if pid in self._waiting:
            self._tellWaiting(pid, info)
        self._spawned.reap(pid)
        if self._closed:  # by one of those that were told
            return
        if pid in self._waiting or self._spawned.remains(pid):
            if info is None:
                self._lookAgain(pid)
        else:
            self._ends.discard(pid)

    def _lookAgain(self, pid: int) -> None:
        """
        Have a look at the next C{SIGCHLD} at one that has ended and is still
        there: a debugger has it, or the thread of its reactor is still to look.
        """
        try:
            self._ends.addAgain(pid)
        except ChildProcessError:
            # Somebody has taken its status, and it is there for good.
            self._ends.discard(pid)

    def _tellWaiting(self, pid: int, info: SigInfo | None) -> None:
        try:
            end = self._ends.peek(pid)
        except ChildProcessError:
            # Its owner has been faster.  The SIGCHLD still tells.
            end = info
        else:
            if end is None:
                return  # it was stopped or continued, or a debugger has it
        self._fire(pid, end.child if end and end.code in _ENDED else None)

    def _fire(self, pid: int, result: Child | None) -> None:
        # What is called back may cancel the next.
        deferreds = self._waiting[pid]
        while deferreds:
            deferreds.pop(0).callback(result)
        self._waiting.pop(pid, None)

    def _isOwned(self, pid: int) -> bool:
        return pid in self._spawned or pid in self._waiting

    def _release(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._leaveDispatcher()
        self._whenClosed.cancel()
        self._group.remove()
        self._closeOrphans()
        trigger, self._startTrigger = self._startTrigger, None
        if trigger is not None:
            self._dispatcher.reactor.removeSystemEventTrigger(trigger)
        for released in list(self._users):
            released()
        self._ends.close()

    def _leaveDispatcher(self) -> None:
        # Whoever is told at the end may have had a new one made.
        if _reapings.get(self._dispatcher) is self:
            del _reapings[self._dispatcher]

    def _closeOrphans(self) -> None:
        orphans, self._orphans = self._orphans, None
        if orphans is not None:
            orphans.close()


_reapings: Final[dict[SignalDispatcher, Reaping]] = {}


def reapingOf(dispatcher: SignalDispatcher) -> Reaping:
    """
    The one of a dispatcher.  Made if nobody uses it yet.

    @raise SignalAlreadyWatched: And the other errors of
        L{SignalDispatcher.watch}.
    """
    if dispatcher not in _reapings:
        _reapings[dispatcher] = Reaping(dispatcher)
    return _reapings[dispatcher]


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
            to reap them; see L{txsignalfd._children.orphans} for what is taken for one.
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
