# -*- test-case-name: tests.children.test_reaper -*-
"""
L{ChildReaper}: report the ends of children while SIGCHLD is watched.

Twisted keeps the processes that it has started in a dictionary by process id,
and each process transport can ask the kernel for its own status.  So the only
question at a SIGCHLD is which children have ended:

  1. The SIGCHLD names one child.
  2. The SIGCHLD may stand for other children too.  L{ExitWatch
     <txsignalfd._children.exitwatch.ExitWatch>} finds those, among the children
     that were added to it.
  3. So each child has to be added before the next SIGCHLD.  L{TwistedProcesses
     <txsignalfd._children.twistedprocesses.TwistedProcesses>} finds the new
     ones.  A child that ended before it was added is found immediately.

Each transport asks only for its own process id, and does not wait.  So asking
too many transports does no harm, and each status is collected by its owner.
Children that Twisted has not started are not touched.

Twisted's dictionary and SIGCHLD are shared by all reactors of the process.  Each
transport is called in the thread of its own reactor.

All L{ChildReaper}s of a dispatcher share one L{SharedReaper}, which keeps the
whole state: a child costs one pidfd, however many reapers there are.

Rejected: C{waitpid(-1)} (it collects statuses that are not Twisted's); Twisted's own
C{reapAllProcesses} (a system call for each living child, at each end).
"""

from __future__ import annotations

from functools import partial
from signal import SIGCHLD
from typing import Any, Final

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.reflect import safe_repr

from txsignalfd._children.exitwatch import ExitWatch, peek
from txsignalfd._children.orphans import OrphanReaper
from txsignalfd._children.twistedprocesses import TwistedProcesses
from txsignalfd._dispatch.dispatcher import (
    DispatcherClosed,
    HandlerGroup,
    SignalDispatcher,
)
from txsignalfd._native.names import CODES
from txsignalfd.siginfo import Child, SigInfo

_ENDED: Final = {CODES["CLD_EXITED"], CODES["CLD_KILLED"], CODES["CLD_DUMPED"]}


class SharedReaper:
    """
    The state of all L{ChildReaper}s of one dispatcher.

    It exists from the first L{ChildReaper} until the last one is closed.
    """

    def __init__(self, dispatcher: SignalDispatcher) -> None:
        """
        Watch C{SIGCHLD}.

        @raise SignalAlreadyWatched: And the other errors of
            L{SignalDispatcher.watch}.
        """
        self._dispatcher = dispatcher
        self._watch = ExitWatch()
        self._processes = TwistedProcesses(dispatcher.reactor)
        #: The Deferreds of whenExited by process id, each with its reaper.
        self._waiting: dict[int, dict[Deferred[Child | None], ChildReaper]] = {}
        #: The open reapers, and whether each wants orphans to be reaped.
        self._reapers: dict[ChildReaper, bool] = {}
        self._orphans: OrphanReaper | None = None
        self._startTrigger: Any = None
        self._closed = False
        self._group = HandlerGroup(dispatcher, [(SIGCHLD, self._received)])
        self._whenClosed = dispatcher.whenClosed()
        self._whenClosed.addBoth(lambda _: self._close())

    def join(self, reaper: ChildReaper, subreaper: bool) -> None:
        """
        Add a reaper.

        @param subreaper: Whether it wants orphans to be reaped.
        @raise OSError: On a system that has no subreapers.
        """
        first = not self._reapers
        self._reapers[reaper] = subreaper
        if subreaper and self._orphans is None:
            try:
                self._orphans = OrphanReaper(self._dispatcher.reactor, self._isOwned)
            except BaseException:
                self.leave(reaper)
                raise
        if first and hasattr(self._dispatcher.reactor, "callWhenRunning"):
            # Some may have ended before SIGCHLD was watched.  A Clock has no children.
            self._startTrigger = self._dispatcher.reactor.callWhenRunning(self._start)

    def leave(self, reaper: ChildReaper) -> None:
        """
        Remove a reaper, if it was not removed before.  With the last one,
        pending ends are reported and C{SIGCHLD} is restored.
        """
        if reaper not in self._reapers:
            return
        del self._reapers[reaper]
        if not any(self._reapers.values()):
            self._closeOrphans()
        if not self._reapers:
            self._leaveDispatcher()
            self._group.restore()
            self._close()
        self._failWaiting(reaper)

    def whenExited(self, reaper: ChildReaper, pid: int) -> Deferred[Child | None]:
        """
        See L{ChildReaper.whenExited}.
        """
        if pid in self._waiting:
            self._fireIfEnded(pid, None)  # an earlier child with this process id
        if reaper not in self._reapers:
            return fail(_closedError())
        try:
            info = peek(pid)
        except OSError as error:
            return fail(error)
        if info is not None:
            return succeed(info.child)
        deferred: Deferred[Child | None] = Deferred(partial(self._forget, pid))
        self._waiting.setdefault(pid, {})[deferred] = reaper
        self._watch.add(pid, exclusive=False)
        return deferred

    def _forget(self, pid: int, deferred: Deferred[Child | None]) -> None:
        waiting = self._waiting.get(pid, {})
        waiting.pop(deferred, None)
        if not waiting:
            self._waiting.pop(pid, None)
            if not self._processes.isKnown(pid):
                self._watch.discard(pid)

    def _failWaiting(self, reaper: ChildReaper) -> None:
        failing = [
            (pid, deferred)
            for pid, waiting in self._waiting.items()
            for deferred, owner in waiting.items()
            if owner is reaper
        ]
        for pid, deferred in failing:
            self._forget(pid, deferred)
            if not deferred.called:  # not cancelled by an earlier errback
                deferred.errback(_closedError())

    def _start(self) -> None:
        self._startTrigger = None
        self._reportEnded()

    def _received(self, info: SigInfo) -> None:
        # The pid may be forged: the kernel is asked whether that child has ended.
        self._report(info.pid, info)
        if self._orphans is not None:
            self._orphans.note(info.pid)
        self._reportEnded()

    def _reportEnded(self) -> None:
        # Known children first: reaping them frees their pids for reuse.
        for pid in self._watch.ended():
            self._report(pid)
        if self._closed:  # by user code
            return
        new = self._processes.findNew()
        for pid in new:
            self._watch.add(pid, exclusive=pid not in self._waiting)
        if new:
            for pid in self._watch.ended():
                self._report(pid)
        if self._orphans is not None:
            self._orphans.check()

    def _report(self, pid: int, info: SigInfo | None = None) -> None:
        """
        Report the end of a child to its process transport and its Deferreds.

        @param info: The C{SIGCHLD} that names it.  Without one it has ended.
        """
        if pid in self._waiting:
            self._fireIfEnded(pid, info)
        self._processes.reap(pid)
        if self._closed:  # by user code
            return
        if pid not in self._waiting and not self._processes.isUnreaped(pid):
            self._watch.discard(pid)
        elif info is None:
            # A debugger has it, or the thread of its reactor is still to reap it.
            try:
                self._watch.reportAgain(pid)
            except ChildProcessError:  # other code has reaped it
                self._watch.discard(pid)

    def _fireIfEnded(self, pid: int, info: SigInfo | None) -> None:
        try:
            end = self._watch.peek(pid)
        except ChildProcessError:  # its owner has reaped it: use the SIGCHLD
            end = info
        else:
            if end is None:  # it was stopped or continued, or a debugger has it
                return
        child = end.child if end and end.code in _ENDED else None
        for deferred in self._waiting.pop(pid):
            if not deferred.called:  # not cancelled by an earlier callback
                deferred.callback(child)

    def _isOwned(self, pid: int) -> bool:
        return pid in self._processes or pid in self._waiting

    def _close(self) -> None:
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
        reapers, self._reapers = self._reapers, {}
        for reaper in reapers:
            self._failWaiting(reaper)
        self._watch.close()

    def _leaveDispatcher(self) -> None:
        # User code may have made a new one already.
        if _sharedReapers.get(self._dispatcher) is self:
            del _sharedReapers[self._dispatcher]

    def _closeOrphans(self) -> None:
        orphans, self._orphans = self._orphans, None
        if orphans is not None:
            orphans.close()


_sharedReapers: Final[dict[SignalDispatcher, SharedReaper]] = {}


class ChildReaper:
    """
    Reports the ends of the processes of C{reactor.spawnProcess} while
    C{SIGCHLD} is watched, and Twisted does not see it.

    Use it in the thread in which the dispatcher's reactor runs, or before it
    runs.  It works until L{close}, or until its dispatcher is closed.  A
    dispatcher may have several, at the cost of one.

    Children of other code are left to their owners.  A child without an owner
    stays a zombie, also where C{SIGCHLD} was ignored before it was watched, so
    that the kernel kept no zombies: use C{subreaper} for these, too.
    """

    def __init__(self, dispatcher: SignalDispatcher, subreaper: bool = False) -> None:
        """
        Watch C{SIGCHLD}, and report the children that have ended already.

        @param dispatcher: The dispatcher that watches C{SIGCHLD}.
        @param subreaper: Whether to adopt orphans among the descendants, and
            to reap them; L{txsignalfd._children.orphans} defines an orphan.
        @raise TypeError: For a reactor in place of its dispatcher.
        @raise SignalAlreadyWatched: And the other errors of
            L{SignalDispatcher.watch}.  Then nothing has changed.
        """
        if not isinstance(dispatcher, SignalDispatcher):
            raise TypeError(
                "expected a dispatcher, such as dispatcherFor(reactor), and not"
                f" {safe_repr(dispatcher)}"
            )
        if dispatcher not in _sharedReapers:
            _sharedReapers[dispatcher] = SharedReaper(dispatcher)
        self._shared = _sharedReapers[dispatcher]
        self._shared.join(self, subreaper)

    def whenExited(self, pid: int) -> Deferred[Child | None]:
        """
        Wait for the end of any child.  Its exit status is left to its owner.

        @param pid: Its process id.
        @return: A Deferred that fires with how it ended, or with C{None} when
            its owner has reaped it first, so that this is not known any more.
            It fails with C{ChildProcessError} for a process that is not a child
            of this process or has been reaped already, with another C{OSError}
            for a number that is not a process id, and with L{DispatcherClosed}
            when this reaper or its dispatcher is closed.  It may be cancelled.
        """
        return self._shared.whenExited(self, pid)

    def close(self) -> None:
        """
        Stop reporting.  C{SIGCHLD} is restored if it has no other handler and
        was not watched before.  A second call does nothing.
        """
        self._shared.leave(self)


def _closedError() -> DispatcherClosed:
    return DispatcherClosed("the ChildReaper or its dispatcher is closed")
