# -*- test-case-name: tests.test_children -*-
"""
L{ChildReaper}: from SIGCHLD to the processes of C{reactor.spawnProcess}.

Theory
======

Twisted keeps the processes that it has started in a dictionary by process id,
and each of them can ask for its own status.  What is to be found out at a
SIGCHLD is only whom to tell.

  1. The SIGCHLD names a child.  If it is in the dictionary it is told.
  2. The SIGCHLD may stand for others too.  L{Ends <txsignalfd.ends.Ends>}
     tells which of those that it has been given have ended.
  3. So it must be given each child before the next SIGCHLD.  A new entry of a
     dictionary is its last one, and the known ones come before: so new ones
     are found from the end backwards, at the cost of their number, and Twisted
     need not tell us.  A child that has ended before it was found is told at
     once, as its pidfd is readable from the start.

Whoever is told asks the kernel by itself, for its own pid and without waiting,
so that telling one too many does no harm, and no status is taken but by the
process whose it is.  Children that are not in the dictionary are not touched.

Several reactors have this one dictionary, and the process has one SIGCHLD.
Who is told is told in the thread of its own reactor.

Rejected: C{waitpid(-1)} (it takes what is not Twisted's); Twisted's own
C{reapAllProcesses} (a system call for each living child, at each end); another
dictionary in the place of Twisted's, or functions around its functions (then
the order in which libraries come and go matters).
"""

from __future__ import annotations

from collections.abc import Iterator
from signal import SIGCHLD
from typing import Any, Final

from twisted.internet import process
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from txsignalfd.dispatcher import DispatcherClosed, SignalDispatcher
from txsignalfd.ends import Ends, peek
from txsignalfd.group import HandlerGroup
from txsignalfd.names import CODES
from txsignalfd.orphans import OrphanReaper
from txsignalfd.siginfo import Child, SigInfo

_ENDED: Final = {CODES["CLD_EXITED"], CODES["CLD_KILLED"], CODES["CLD_DUMPED"]}


def _registered() -> dict[int, Any]:
    """
    Twisted's dictionary of the processes that it has started, and has not
    reaped, by process id.

    It is not public, but there is nowhere else to learn which
    children are its own.  It is named here only, and a test sees that it is
    what is said here.
    """
    return process.reapProcessHandlers


def _reactorOf(transport: Any) -> Any:
    """
    The reactor that has started a process.
    """
    # Process has it by the one name, and PTYProcess by the other.
    return getattr(transport, "_reactor", None) or getattr(transport, "reactor", None)


class ChildReaper:
    """
    Tells the processes of C{reactor.spawnProcess} of their ends, while
    C{SIGCHLD} is watched and Twisted is not told of it.

    Use it in the thread in which the dispatcher's reactor runs, or before it
    runs.  It works until L{close}, or until its dispatcher is closed.
    """

    _log = Logger()

    def __init__(self, dispatcher: SignalDispatcher, subreaper: bool = False) -> None:
        """
        Watch C{SIGCHLD}, and tell who has ended already.

        @param dispatcher: The dispatcher to have C{SIGCHLD} from.
        @param subreaper: Whether to adopt orphans among the descendants, and
            to reap them; see L{txsignalfd.orphans} for what is taken for one.
        @raise SignalAlreadyWatched: And the other errors of
            L{SignalDispatcher.watch}.  Then nothing has been taken.
        """
        self._dispatcher = dispatcher
        self._ends = Ends()
        #: The processes that were given to Ends, by pid.
        self._met: dict[int, Any] = {}
        self._waiting: dict[int, list[Deferred[Child | None]]] = {}
        self._orphans: OrphanReaper | None = None
        self._closed = False
        self._group = HandlerGroup(dispatcher, [(SIGCHLD, self._received)])
        if subreaper:
            try:
                self._orphans = OrphanReaper(dispatcher.reactor, self._isOwned)
            except BaseException:
                self._group.giveBack()
                raise
        self._startTrigger = dispatcher.reactor.callWhenRunning(self._start)
        dispatcher.whenClosed().addBoth(lambda _: self._release())

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
            info = peek(pid)
        except OSError as error:
            return fail(error)
        if info is not None:
            return succeed(info.child)
        deferred: Deferred[Child | None] = Deferred(
            lambda deferred: self._cancelled(pid, deferred)
        )
        self._waiting.setdefault(pid, []).append(deferred)
        self._ends.add(pid, ours=False)
        return deferred

    def _cancelled(self, pid: int, deferred: Deferred[Child | None]) -> None:
        deferreds = self._waiting[pid]
        deferreds.remove(deferred)
        if not deferreds:
            del self._waiting[pid]
            if pid not in self._met:
                self._ends.discard(pid)

    def _fire(self, pid: int, result: Child | Failure | None) -> None:
        # What is called back may cancel the next.
        deferreds = self._waiting[pid]
        while deferreds:
            deferreds.pop(0).callback(result)
        self._waiting.pop(pid, None)

    def _start(self) -> None:
        """
        Who has ended before C{SIGCHLD} was watched.
        """
        self._startTrigger = None
        self._findEnded()

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
        new = self._newest()
        for pid, transport in new:
            self._met[pid] = transport
            self._ends.add(pid, ours=pid not in self._waiting)
        if new:
            for pid in self._ends.ended():
                self._look(pid)

    def _newest(self) -> list[tuple[int, Any]]:
        """
        The processes that were not met yet.
        """
        while True:
            try:
                return list(self._untilMet())
            except RuntimeError:  # another thread's reactor has one more, or less
                continue

    def _untilMet(self) -> Iterator[tuple[int, Any]]:
        for pid, transport in reversed(_registered().items()):
            if self._met.get(pid) is transport:
                return
            yield pid, transport

    def _look(self, pid: int, info: SigInfo | None = None) -> None:
        """
        Tell who is concerned, if this child has ended.

        @param info: The C{SIGCHLD} that names it, where one does; otherwise
            it has ended for sure.
        """
        if pid in self._waiting:
            self._tellWaiting(pid, info)
        transport = _registered().get(pid)
        if transport is not None:
            self._reap(pid, transport)
        met = self._met.get(pid)
        if met is not None and (info is None or _registered().get(pid) is not met):
            del self._met[pid]
            self._ends.discard(pid)

    def _reap(self, pid: int, transport: Any) -> None:
        reactor = _reactorOf(transport)
        if reactor is None or reactor is self._dispatcher.reactor:
            self._reapHere(pid, transport)
        else:
            reactor.callFromThread(self._reapHere, pid, transport)

    def _reapHere(self, pid: int, transport: Any) -> None:
        # Its own reactor may have seen the end before, by its pipes.
        stillIts = _registered().get(pid) is transport
        if not stillIts:
            return
        try:
            transport.reapProcess()
        except BaseException:
            self._log.failure("process {pid} cannot be reaped", pid=pid)

    def _tellWaiting(self, pid: int, info: SigInfo | None) -> None:
        try:
            end = peek(pid)
        except ChildProcessError:
            # Its owner has been faster.  The SIGCHLD still tells.
            end = info
        else:
            if end is None and info is not None:
                return  # it was stopped or continued, or somebody has lied
        self._fire(pid, end.child if end and end.code in _ENDED else None)

    def _isOwned(self, pid: int) -> bool:
        return pid in _registered() or pid in self._waiting

    def close(self) -> None:
        """
        Tell of ends no more.  C{SIGCHLD} is given back if nobody else handles
        it and it was not watched before.  A second call does nothing.
        """
        if not self._closed:
            self._group.giveBack()
            self._release()

    def _release(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._group.remove()
        self._ends.close()
        orphans, self._orphans = self._orphans, None
        if orphans is not None:
            orphans.close()
        trigger, self._startTrigger = self._startTrigger, None
        if trigger is not None:
            self._dispatcher.reactor.removeSystemEventTrigger(trigger)
        while self._waiting:
            self._fire(next(iter(self._waiting)), Failure(_closedError()))


def _closedError() -> DispatcherClosed:
    return DispatcherClosed("nobody tells of children any more")
