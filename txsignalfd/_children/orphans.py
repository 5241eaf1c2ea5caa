# -*- test-case-name: tests.children.test_orphans -*-
"""
L{OrphanReaper}: the ends of orphans that have become our children.

When a process ends, its children go to its nearest ancestor that is a
subreaper (PR_SET_CHILD_SUBREAPER, prctl(2)), or to PID 1.  If nobody waits for
them there, they stay as zombies.

The kernel does not tell an orphan from a child that this process has started:
from its adoption on they are the same.  What tells them apart is that nobody
here waits for an orphan.  So what is looked for are zombies that are nobody's
in Twisted, nor that of a C{Popen} object, which may be asked for its status at
any time, and have been lying for a while: L{GRACE} seconds, in which their
owner, if they have another one, has had the time to wait for them.

Rejected: to take what ends and is not Twisted's at once, as an init does (it
would take the statuses from subprocess and from libraries in C).
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from txsignalfd._children.exitwatch import findEnded, isRunning
from txsignalfd._native.extension import ffi, lib

_log: Final = Logger("txsignalfd.children.ChildReaper")

#: Seconds for which a zombie must have been lying, at the least.
GRACE: Final = 2.0


def _setSubreaper(wanted: bool) -> bool:
    before = lib.txs_set_subreaper(wanted)
    if before == -1:
        raise OSError(ffi.errno, f"subreaper: {os.strerror(ffi.errno)}")
    return bool(before)


def isInit() -> bool:
    """
    Whether orphans of a whole pid namespace come to this process, as to the
    first of a container: pid_namespaces(7).
    """
    try:
        # It is another where proc(5) is that of a namespace outside.
        first = os.getpid() == 1 and os.readlink("/proc/self") == "1"
    except OSError:
        return False
    return first and bool(lib.TXS_LINUX)


def childProcesses() -> set[int]:
    """
    The children of this process, whoever has started them: those of each of
    its threads, by proc_pid_task_children(5).

    @raise OSError: Where there is no proc(5).
    """
    found: set[int] = set()
    for thread in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{thread}/children", "rb") as children:
                found.update(map(int, children.read().split()))
        except FileNotFoundError:
            continue  # the thread has ended
    return found


#: Where the classes are whose objects have one child each.
_OWNERS: Final = ("subprocess", "multiprocessing.popen_fork")


def ownedProcesses() -> set[int]:
    """
    The children of C{subprocess} and C{multiprocessing} that have not been waited
    for.  There are no lists of them.
    """
    # Its instances refer to a class.  Another thread may be making one.
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


class OrphanReaper:
    """
    Makes this process a subreaper, and reaps the orphans that it gets.  Use it
    in the reactor's thread.
    """

    def __init__(self, reactor: Any, isOwned: Callable[[int], bool]) -> None:
        """
        @param reactor: Gives the time.
        @param isOwned: Whether a child has an owner, by its process id.
        @raise OSError: On another system than Linux.
        """
        self._reactor = reactor
        self._isOwned = isOwned
        self._wasSubreaper = _setSubreaper(True)
        self._lying: set[int] = set()
        #: Those that were looked at, and have an object that stands for them.
        self._owned: set[int] = set()
        self._call: IDelayedCall | None = None

    def look(self) -> None:
        """
        A child has ended: see whether it is left lying.
        """
        if self._call is None:
            self._lying = self._findLying()
            if self._lying:
                self._call = self._reactor.callLater(GRACE, self._lookAgain)

    def _lookAgain(self) -> None:
        self._call = None
        lying = self._findLying() & self._lying
        if lying:
            # To find them is dear, and so is not done for the same ones again.
            self._owned = ownedProcesses()
        for pid in lying - self._owned:
            # Its owner may have come in this very moment.
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
                _log.debug("reaped the orphan {pid}", pid=pid)
        self.look()

    def _findLying(self) -> set[int]:
        # Most often there is none, and this says so without a look at each.
        if findEnded() is None:
            return set()
        others = (pid for pid in childProcesses() if not self._isOwned(pid))
        ended = {pid for pid in others if not isRunning(pid)}
        # What is gone leaves its number to others.
        self._owned &= ended
        return ended - self._owned

    def close(self) -> None:
        """
        Reap no more, and be what the process was before.
        """
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if not self._wasSubreaper:
            _setSubreaper(False)
