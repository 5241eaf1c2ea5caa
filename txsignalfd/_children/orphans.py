# -*- test-case-name: tests.children.test_orphans -*-
"""
L{OrphanReaper}: reap orphans that have become children of this process.

When a process ends, its children are adopted by its nearest ancestor that is a
subreaper (PR_SET_CHILD_SUBREAPER, prctl(2)), or by PID 1.  They stay zombies
after their end, until they are reaped there.

The kernel does not distinguish an orphan from a child that this process has
started.  The difference is that no code here waits for an orphan.  So an orphan
is a zombie that is not a process of Twisted or of a C{Popen} object (which may
be asked for its status at any time), and that has been a zombie for at least
L{GRACE} seconds, in which another owner would have reaped it.

The children are listed by proc(5).  Where it is not available, only two zombies
are known: the one that a SIGCHLD names, and the first one of waitid(2).

Rejected: reaping every child that is not Twisted's immediately, as an init does
(subprocess and C libraries would not get their statuses).
"""

from __future__ import annotations

import errno
import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from txsignalfd._children.exitwatch import firstZombie, peek
from txsignalfd._native.extension import ffi, lib

_log: Final = Logger("txsignalfd.children.ChildReaper")

#: How many seconds a process has to be a zombie before it counts as an orphan.
GRACE: Final = 2.0


def _setSubreaper(wanted: bool) -> bool:
    before = lib.txs_set_subreaper(wanted)
    if before == -1:
        raise OSError(ffi.errno, f"subreaper: {os.strerror(ffi.errno)}")
    return bool(before)


def isInit() -> bool:
    """
    Return whether this process adopts all orphans of its pid namespace, as the
    first process of a container does: pid_namespaces(7).
    """
    return os.getpid() == 1 and bool(lib.TXS_LINUX)


def childProcesses() -> set[int]:
    """
    Return all children of this process, from proc_pid_task_children(5).

    @raise OSError: Where there is no proc(5), or it shows another pid namespace,
        or the kernel was built without these lists.
    """
    this = str(os.getpid())
    if os.readlink("/proc/self") != this:
        raise OSError(errno.ENOENT, "/proc shows another pid namespace")
    found: set[int] = set()
    for thread in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{thread}/children", "rb") as children:
                found.update(map(int, children.read().split()))
        except FileNotFoundError:
            if thread == this:
                raise
            continue  # the thread has ended
    return found


#: The modules with a class C{Popen} whose instances own one child each.
_OWNERS: Final = ("subprocess", "multiprocessing.popen_fork")


def ownedProcesses() -> set[int]:
    """
    Return the unreaped children of C{subprocess} and C{multiprocessing}.
    """
    # These modules keep no list, but every instance refers to its class.  In
    # another thread an instance may be incomplete.
    return {
        getattr(owner, "pid", None) or 0
        for kind in _ownerTypes()
        for owner in gc.get_referrers(kind)
        if isinstance(owner, kind) and getattr(owner, "returncode", None) is None
    }


def _ownerTypes() -> Iterator[Any]:
    modules = [sys.modules[name] for name in _OWNERS if name in sys.modules]
    kinds = [vars(module)["Popen"] for module in modules]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        yield kind


def _isZombie(pid: int) -> bool:
    try:
        return peek(pid) is not None
    except OSError:
        return False


class OrphanReaper:
    """
    Makes this process a subreaper, and reaps the orphans that it adopts.

    Use it in the reactor's thread.
    """

    def __init__(self, reactor: Any, isOwned: Callable[[int], bool]) -> None:
        """
        @param reactor: The reactor that calls later.
        @param isOwned: Returns whether a child has an owner, by its process id.
        @raise OSError: On a system other than Linux.
        """
        self._reactor = reactor
        self._isOwned = isOwned
        self._wasSubreaper = _setSubreaper(True)
        #: The zombies without a known owner at the last check.
        self._suspects: set[int] = set()
        #: The zombies that belong to an object, as far as that was checked.
        self._owned: set[int] = set()
        #: The zombies that a SIGCHLD has named, for systems without proc(5).
        self._named: set[int] = set()
        self._hasProc = True
        self._call: IDelayedCall | None = None

    def note(self, pid: int) -> None:
        """
        Note the process id of a SIGCHLD, which may be forged.
        """
        if _isZombie(pid):
            self._named.add(pid)

    def check(self) -> None:
        """
        Look for new zombies, because a child has ended.
        """
        if self._call is None:
            self._suspects = self._findSuspects()
            if self._suspects:
                self._call = self._reactor.callLater(GRACE, self._reap)

    def _reap(self) -> None:
        self._call = None
        orphans = self._findSuspects() & self._suspects
        if orphans:
            # This is expensive, so it is not repeated for the same zombies.
            self._owned = ownedProcesses()
        for pid in orphans - self._owned:
            # Its owner may reap it at this very moment.
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
                _log.debug("reaped the orphan {pid}", pid=pid)
        self.check()

    def _findSuspects(self) -> set[int]:
        first = firstZombie()
        if first is None:  # the usual case, without a look at each child
            self._named.clear()
            return set()
        try:
            children = childProcesses()
        except OSError as error:
            children = {first, *self._named}
            if self._hasProc:
                self._hasProc = False
                _log.warn(
                    "children cannot be listed ({reason}): an orphan stays a zombie"
                    " while another zombie hides it",
                    reason=error.strerror,
                )
        unowned = (pid for pid in children if not self._isOwned(pid))
        zombies = set(filter(_isZombie, unowned))
        # The process id of a reaped child may be used again.
        self._owned &= zombies
        self._named &= zombies
        return zombies - self._owned

    def close(self) -> None:
        """
        Stop reaping, and restore the process's attribute.
        """
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if not self._wasSubreaper:
            _setSubreaper(False)
