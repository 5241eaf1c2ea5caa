# -*- test-case-name: tests.kernel.test_spawn -*-
"""
Start children that do not inherit the mask of watched signals.

A child inherits the mask of the thread that starts it, through fork and exec.
After fork(2), code of this package restores the mask in the child.  No such code
runs after posix_spawn(3), which Twisted's C{reactor.spawnProcess} uses, or after
vfork(2), which system(3) uses.  So the thread unblocks watched signals while it
starts the child: L{spawning} opens a spawn window.  The C handler defers signals
that arrive in a spawn window.  They are received before those that are still queued
in the kernel, so that no signal is lost and the order stays.

Dispositions need no such care: exec(2) resets those that are caught.

Rejected: the C{setsigmask} of posix_spawn(3) (Twisted does not pass it, and
C{os.posix_spawnp} belongs to the whole process); to make Twisted always fork (the
cost of a fork grows with the process).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import update_wrapper
from typing import Any

from txsignalfd._kernel import mask as _mask
from txsignalfd._kernel.fork import FORK_ONLY
from txsignalfd._kernel.mask import ProcessMask
from txsignalfd._native.extension import ffi, lib

#: If more signals than this are deferred when a window opens, they are assigned to
#: their owners before the child starts: signals that were pending before must not fill
#: the space for those that arrive in the window.
_MUCH = lib.TXS_DEFERRED // 16


class SpawnWindow:
    """
    The context manager that L{spawning} returns.

    It is a class rather than a generator, because calls of Python functions are slow
    just before a child is started.
    """

    __slots__ = ("_lock", "_owners")

    def __enter__(self) -> None:
        # A child that is forked in the window gets a new lock, and releases the old.
        self._lock = _mask.windowLock
        self._lock.acquire()
        self._owners: list[ProcessMask] = []
        count = lib.txs_window_open()
        if count == -1:
            error = ffi.errno
            self._lock.release()
            raise OSError(error, os.strerror(error))
        try:
            while count > _MUCH:
                self._owners += _mask.assignDeferred()
                count = lib.txs_deferred_count()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            if lib.txs_window_close():
                self._owners += _mask.assignDeferred()
        finally:
            self._lock.release()
        # Owners run code of the user, which may need the lock in another thread.
        _mask.wakeOwners(self._owners)


def spawning() -> AbstractContextManager[None]:
    """
    Start children with the mask that the process had before signals were watched.

    C{os.posix_spawn}, C{os.system} and C functions need this context manager::

        with spawning():
            os.system("make")

    So does C{os.execv}, which replaces this program.  C{reactor.spawnProcess},
    C{os.fork}, C{multiprocessing} and C{subprocess} do not need it.

    No signal is lost: handlers receive those that arrive meanwhile afterwards, and
    in the reactor's thread realtime signals keep their order.

    It may be used in any thread, but only by one thread at a time; others wait, also
    in C{reactor.spawnProcess}.  So start a program that runs for long by
    C{subprocess}.  A signal that was ignored when it was first watched has its default
    disposition in a child that is started like this, and is ignored in a child of
    C{subprocess}.

    @raise OSError: If the system refuses.
    """
    return SpawnWindow()


class CleanSpawnProcess:
    """
    Replacement of a reactor's C{spawnProcess} that opens a spawn window.

    It is an attribute of the reactor, at most one for each reactor.

    Code that stored the reactor's own method earlier bypasses it.  So all reactors are
    told to use fork(2), which restores the mask in any case (see L{fork
    <txsignalfd._kernel.fork>}).  During a call of this replacement its reactor may use
    posix_spawn(3).
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._replaced = vars(reactor).get("spawnProcess")
        self._spawnProcess: Callable[..., Any] = reactor.spawnProcess
        self._users = 0
        update_wrapper(self, self._spawnProcess)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """
        Start a process: see C{IReactorProcess.spawnProcess}.
        """
        own = vars(self._reactor)
        with SpawnWindow():
            if FORK_ONLY in own:  # the user set it, or this call is nested
                return self._spawnProcess(*args, **kwargs)
            own[FORK_ONLY] = False
            try:
                return self._spawnProcess(*args, **kwargs)
            finally:
                own.pop(FORK_ONLY, None)

    def use(self) -> None:
        """
        Replace the reactor's method, unless it is replaced already.
        """
        self._users += 1
        self._reactor.spawnProcess = self

    def leave(self) -> None:
        """
        Restore the reactor's method after the last use.

        A method that replaced this one meanwhile stays, and may still call it.
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
    Start a reactor's children without the mask of watched signals.

    @return: A function that undoes it.
    """
    if not hasattr(reactor, "spawnProcess"):
        return lambda: None
    clean = reactor.spawnProcess
    if not isinstance(clean, CleanSpawnProcess):
        clean = CleanSpawnProcess(reactor)
    clean.use()
    return clean.leave
