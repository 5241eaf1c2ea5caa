# -*- test-case-name: tests.kernel.test_spawn -*-
"""
Start children that inherit nothing of what is watched.

A child inherits the mask of the thread that starts it, through fork and exec.
After fork(2) code of ours sets it right in the child; posix_spawn(3) and
vfork(2) run none.  Twisted's C{reactor.spawnProcess} uses the one, and the C
library's system(3) does.  So the thread opens its own mask for the moment of
the start: L{spawning}.  What comes in that moment is kept by the handler in C,
and received before all that is queued behind it, so that nothing is lost and
nothing changes its place.

Dispositions need no care: exec(2) sets those that are caught to the default.

Rejected: to give posix_spawn(3) the mask by its C{setsigmask} (Twisted calls it
without, and to replace C{os.posix_spawnp} for the whole process is more than
we may); to have Twisted always fork (the cost of that grows with the process).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import update_wrapper
from typing import Any

from txsignalfd._kernel import mask as _mask
from txsignalfd._kernel.fork import FORK_ONLY
from txsignalfd._native.extension import ffi, lib

#: When more is kept than this, it is taken before the child is started: what
#: was pending when the mask was opened must not fill the room for what comes.
_MUCH = lib.TXS_DEFERRED // 16


class SpawnWindow:
    """
    What L{spawning} gives.  A class, and no generator, because each call in
    Python is dear in the cold moment before a child is started.
    """

    __slots__ = ("_lock",)

    def __enter__(self) -> None:
        # Kept, for a child that is forked meanwhile gets a new one.
        self._lock = _mask.openLock
        self._lock.acquire()
        kept = lib.txs_window_open()
        if kept == -1:
            error = ffi.errno
            self._lock.release()
            raise OSError(error, os.strerror(error))
        try:
            while kept > _MUCH:
                _mask.deliverDeferred()
                kept = lib.txs_deferred_count()
        except BaseException:  # an owner cannot be woken, and no child is started
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            if lib.txs_window_close():
                _mask.deliverDeferred()
        finally:
            self._lock.release()


def spawning() -> AbstractContextManager[None]:
    """
    Start children in this C{with} statement, by whatever means: they begin
    with the mask that the process had before signals were watched.

    C{reactor.spawnProcess}, C{os.fork}, C{multiprocessing} and C{subprocess}
    do not need it; C{os.posix_spawn}, C{os.system} and C functions do::

        with spawning():
            os.system("make")

    So does C{os.execv}, by which another program takes this one's place.

    No signal is lost meanwhile; handlers get what came after it.  In the
    reactor's thread realtime signals keep their order, too.  May be used in
    any thread, by one at a time: others wait, C{reactor.spawnProcess} among
    them, so what takes long is better started by C{subprocess}.  A signal that
    was ignored when it was first watched is at its default in such a child, and
    ignored in one of C{subprocess}.

    @raise OSError: When the system refuses.
    """
    return SpawnWindow()


def collect() -> None:
    """
    Hand what is kept to its owners, if no other thread has its mask open: that
    one will do so in the end.
    """
    if _mask.openLock.acquire(blocking=False):
        try:
            if lib.txs_deferred_count():
                _mask.deliverDeferred()
        finally:
            _mask.openLock.release()


class CleanSpawnProcess:
    """
    A reactor's C{spawnProcess}, whose children inherit nothing.  It stands in
    its place as an attribute of the reactor, once for each reactor.

    Who has kept the reactor's own method from before gets round it.  So each
    reactor is told to use fork(2), whose children are set right in any case
    (see C{_forking.py}), but this one not for the moment of a call that comes
    through here.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._replaced = vars(reactor).get("spawnProcess")
        self._spawnProcess: Callable[..., Any] = reactor.spawnProcess
        self._users = 0
        update_wrapper(self, self._spawnProcess)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """
        See C{IReactorProcess.spawnProcess}.
        """
        own = vars(self._reactor)
        with SpawnWindow():
            if FORK_ONLY in own:  # its user has told it, or this is nested
                return self._spawnProcess(*args, **kwargs)
            own[FORK_ONLY] = False
            try:
                return self._spawnProcess(*args, **kwargs)
            finally:
                own.pop(FORK_ONLY, None)

    def use(self) -> None:
        """
        Take the place, if it was not taken.
        """
        self._users += 1
        self._reactor.spawnProcess = self

    def leave(self) -> None:
        """
        Leave the place as it was.  If somebody has taken it from us, they
        call us still, and while nothing is watched we only pass that on.
        """
        self._users -= 1
        if self._users or vars(self._reactor).get("spawnProcess") is not self:
            return
        if self._replaced is None:
            del self._reactor.spawnProcess
        else:
            self._reactor.spawnProcess = self._replaced


def cleanSpawnProcess(reactor: Any) -> Callable[[], None]:
    """
    Have a reactor's children inherit nothing.

    @return: What undoes it.
    """
    if not hasattr(reactor, "spawnProcess"):
        return lambda: None
    clean = reactor.spawnProcess
    if not isinstance(clean, CleanSpawnProcess):
        clean = CleanSpawnProcess(reactor)
    clean.use()
    return clean.leave
