# -*- test-case-name: tests.kernel.test_spawn -*-
"""
L{spawning}: start children and programs in ways that this package cannot change.

No code of this package runs after vfork(2), which system(3) uses, nor when a C
function starts a child, or exec(2) replaces the program.  L{spawning} unblocks watched
signals in the thread meanwhile: it opens a spawn window.  The C handler defers signals
that arrive in the window.  They are received before those that are still queued in the
kernel, so that no signal is lost and the order stays.

Dispositions need no such care: exec(2) resets those that are caught.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

from txsignalfd._kernel import mask as _mask
from txsignalfd._kernel.mask import ProcessMask
from txsignalfd._native.extension import ffi, lib

#: If more signals than this are deferred when a window opens, they are assigned to
#: their owners before the child starts: signals that were pending before must not fill
#: the space for those that arrive in the window.  While others send without a pause,
#: that is done at most _REPEATS times.
_MUCH = lib.TXS_DEFERRED // 16
_REPEATS = 8


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
            for _ in range(_REPEATS):
                if count <= _MUCH:
                    break
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

    C{os.system} and C functions need this context manager::

        with spawning():
            os.system("make")

    So does C{os.execv}, which replaces this program.  C{reactor.spawnProcess},
    C{os.fork}, C{os.posix_spawn}, C{multiprocessing} and C{subprocess} do not need it.

    No signal is lost: handlers receive those that arrive meanwhile afterwards, and
    in the reactor's thread realtime signals keep their order.  Signals that are pending
    are deferred when the window opens, which takes time if they are many.  When 524,288
    of them have not been received yet, as in a flood that goes on while many children
    are started, further realtime signals are dropped, and the number is logged.

    It may be used in any thread, but only by one thread at a time; others wait.  So
    start a program that runs for long by C{subprocess}.  A signal that was ignored when
    it was first watched has its default disposition in a child that is started like
    this, and is ignored in a child of C{subprocess}.

    @raise OSError: If the system refuses.
    """
    # This interpreter has not blocked the signals of another one.
    return nullcontext() if _mask.isWatchedElsewhere() else SpawnWindow()
