# -*- test-case-name: tests.kernel.test_mask -*-
"""
What the process blocks, and whose it is.

A signalfd gives only signals that are blocked, and a mask belongs to one
thread: the kernel hands a signal for the process to any thread that does not
block it.  So a L{ProcessMask} does three things to take a signal.

  1. It blocks the signal in the thread that calls, and later, by
     L{ProcessMask.claimForThread}, in the reactor's.  Threads that these start inherit
     it.
  2. It puts a handler in C beneath the signal's disposition, for every other
     thread.  The handler blocks the signal in the thread that it interrupts
     and sends it on to the process (see C{_native/handler.c}), so a thread that was
     there before can take each signal once, and then hands it on.
  3. It has fork(2) undo both in the child (see C{_forking.py} and
     C{_spawn.py} for children that are started in another way).

Where there is no signalfd the handler tells of the signals itself, and the
thread of the reactor unblocks them: see C{pipe.py}.

And it gives back what it took, in the other order.  A thread's mask can only
be changed from within the thread.  So what is undone is the mask of the thread
that gives back, and that of the main thread (as soon as it runs Python code).
The others, if they were ever interrupted, or were started by a thread that
blocked the signal, go on blocking it.  That does no harm to the process, as
the kernel picks a thread that does not.  One that was interrupted has it
unblocked in its children of fork(2), and in itself from when it opens its mask
or gives back a signal; children that another one starts inherit its mask.

Rejected: to block the signal in each thread by asking it (there is no way to
ask a thread of a C library); to let the handler write siginfo to a pipe where
there is a signalfd (other threads are interrupted, and whoever replaces the
handler takes the signal away).

One signal has one owner in the process, for two signalfds on one signal would
share out its records by chance.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack
from typing import Final
from weakref import WeakMethod

from txsignalfd._kernel.fork import switchBack, switchToFork, tellForks
from txsignalfd._native.extension import ffi, lib
from txsignalfd._native.names import signalName
from txsignalfd.lowlevel import (
    SIG_BLOCK,
    SIG_UNBLOCK,
    VALID_SIGNALS,
    sigprocmask,
    sigset,
)
from txsignalfd.siginfo import SIGINFO_SIZE, SigInfo, parse

_NOT_WATCHABLE: Final[dict[int, str]] = {
    **dict.fromkeys(
        (signal.SIGKILL, signal.SIGSTOP),
        "the kernel lets no process block or catch it",
    ),
    **dict.fromkeys(
        (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP),
        "when the CPU raises it, it has to be dealt with on the spot, and cannot be"
        " read from a descriptor later",
    ),
    **dict.fromkeys(
        sorted(set(range(1, lib.TXS_NSIG)).difference(VALID_SIGNALS)),
        "the C library keeps it to itself, for its threads",
    ),
}


class SignalNotWatchable(ValueError):
    """
    This signal cannot be read from a descriptor; the message says why.
    """


class SignalAlreadyWatched(RuntimeError):
    """
    Another dispatcher or descriptor of this process has the signal.
    """


def checkWatchable(signals: Iterable[int]) -> list[int]:
    """
    @return: The signals as plain numbers, each once, sorted.
    @raise SignalNotWatchable: When one of them is no signal, or cannot be read.
    @raise TypeError: When one of them is no number.
    """
    numbers = set()
    for signo in signals:
        if not isinstance(signo, int) or isinstance(signo, bool):
            raise TypeError(f"{signo!r} is not a signal's number, as signal.SIGHUP is")
        if not 0 < signo < lib.TXS_NSIG:
            raise SignalNotWatchable(
                f"there is no signal {int(signo)}: they are numbered 1 to"
                f" {lib.TXS_NSIG - 1}"
            )
        if signo in _NOT_WATCHABLE:
            raise SignalNotWatchable(
                f"{signalName(signo)} cannot be watched: {_NOT_WATCHABLE[signo]}"
            )
        numbers.add(int(signo))
    return sorted(numbers)


#: Who has which signal; held with the lock.
_owners: Final[dict[int, ProcessMask]] = {}
_lock = threading.Lock()

#: Held by the thread that has its mask open, to start a child.
openLock = threading.RLock()


def deliverDeferred() -> None:
    """
    Give each owner what the handler in C has kept for it while this thread's
    mask was open.
    """
    room = lib.txs_deferred_count()
    records = ffi.new("struct txs_siginfo[]", room)
    kept: dict[ProcessMask, list[SigInfo]] = {}
    # An owner must not go meanwhile, nor one that fails keep others from theirs:
    # the reactor of one may be closed, and cannot be woken.
    with _lock, ExitStack() as owners:
        size = lib.txs_deferred_take(records, room) * SIGINFO_SIZE
        for info in parse(bytes(ffi.buffer(records, size))):
            kept.setdefault(_owners[info.signo], []).append(info)
        for owner, infos in kept.items():
            owners.callback(owner.keep, infos)


def _forgetOwners() -> None:
    """
    In a forked child nothing is taken: C{_native/handler.c} has undone it.
    """
    global _lock, openLock
    _owners.clear()
    switchBack()
    # Another thread may have held them at the fork.
    _lock, openLock = threading.Lock(), threading.RLock()


class ProcessMask:
    """
    What one owner has taken hold of in the whole process.

    Its methods may be called from any thread.
    """

    def __init__(self, keep: Callable[[list[SigInfo]], None], pipe: int = -1) -> None:
        """
        @param keep: A method that is called, in any thread, with signals that
            came to a thread while it started a child.  They are to be received
            before what is still queued.  Its object is not kept alive by this.
        @param pipe: The number of the pipe to which the handler in C writes
            them, where there is no signalfd.
        """
        self._keep = WeakMethod(keep)
        self.pipe = pipe
        #: The signals that are held.
        self.acquired: frozenset[int] = frozenset()

    def keep(self, infos: list[SigInfo]) -> None:
        """
        Give the owner what was kept for it, if it is still there.
        """
        if (keep := self._keep()) is not None:
            keep(infos)

    def acquire(self, signals: Iterable[int]) -> None:
        """
        Take hold of these signals, all or none.

        @raise SignalNotWatchable: When one cannot be.
        @raise SignalAlreadyWatched: When one is another's.
        @raise OSError: When the system refuses.
        """
        wanted = checkWatchable(signals)
        with _lock:
            for signo in wanted:
                if signo in _owners:
                    raise SignalAlreadyWatched(
                        f"{signalName(signo)} is watched already in this process:"
                        " use the dispatcher that watches it (dispatcherFor), or"
                        " have it unwatched there first"
                    )
            tellForks(_forgetOwners)
            before, main = blockAsOurs(wanted), _mainThread()
            for count, signo in enumerate(wanted):
                if lib.txs_acquire(signo, signo in before, self.pipe, main) == -1:
                    error = ffi.errno
                    self._letGo(wanted[:count])
                    self._unblock()
                    raise OSError(error, f"{signalName(signo)}: {os.strerror(error)}")
            if wanted and not _owners:
                switchToFork()
            _owners.update(dict.fromkeys(wanted, self))
            self.acquired |= frozenset(wanted)

    def claimForThread(self) -> None:
        """
        Take hold in the calling thread too, and once more of each disposition
        that somebody has replaced; theirs becomes what is given back.
        """
        with _lock:
            blockAsOurs(self.acquired)
            for signo in self.acquired:
                lib.txs_install(signo)
            lib.txs_window_update()

    #: Take a disposition once more; see L{claimForThread}.  It is given the signal's
    #: number, and returns 1 if somebody had replaced it, 0 if not, and -1 if
    #: the system refuses.
    retake: Final[Callable[[int], int]] = staticmethod(lib.txs_install)

    def restore(self, signals: Iterable[int]) -> None:
        """
        Give these signals back, as they were.  One that is pending goes where
        it would have gone without us.  Signals that were not taken are passed
        over.

        @raise OSError: When the main thread could not be asked to unblock
            them; all else has been given back.
        """
        with _lock:
            given = self.acquired.intersection(signals)
            self.acquired -= given
            self._letGo(given)
            for signo in given:
                del _owners[signo]
            if given and not _owners:
                switchBack()
            self._unblock()

    def _letGo(self, signals: Iterable[int]) -> None:
        for signo in signals:
            lib.txs_release(signo)

    def _unblock(self) -> None:
        """
        Unblock what we have blocked, and nobody has now, here and in the main
        thread: also what another thread has given back since.
        """
        free = frozenset(range(1, lib.TXS_NSIG)).difference(_owners)
        sigprocmask(SIG_UNBLOCK, _forget(lib.txs_tid(), free))
        main = _mainThread()
        ours = _forget(main, free)
        if ours and lib.txs_unblock_in_main(sigset(ours)) == -1:
            raise OSError(ffi.errno, "the main thread still blocks signals")


def _mainThread() -> int:
    """
    The main thread's number, as C has it.
    """
    # Not its native_id, which in a forked child is still that of the parent's.
    number = os.getpid() if lib.TXS_LINUX else threading.main_thread().ident
    assert number is not None, "the main thread runs"
    return number


def blockAsOurs(signals: Collection[int]) -> frozenset[int]:
    """
    Block signals in this thread, to be unblocked when they are given back, or
    in a forked child.

    @return: Those that others than us had blocked in it.
    """
    before = frozenset(sigprocmask(SIG_BLOCK, signals))
    thread = lib.txs_tid()
    ours = _noted(thread)
    for signo in frozenset(signals) - before:
        lib.txs_note(thread, signo)
    return before - ours


def _noted(thread: int) -> frozenset[int]:
    """
    What was blocked in a thread by us, or by the handler in C.
    """
    bits = lib.txs_noted(thread)
    return frozenset(n for n in range(1, lib.TXS_NSIG) if bits >> (n - 1) & 1)


def _forget(thread: int, signals: Collection[int]) -> frozenset[int]:
    """
    The same of these signals, and forget it.
    """
    noted = _noted(thread).intersection(signals)
    lib.txs_forget(thread, sum(1 << (signo - 1) for signo in noted))
    return noted
