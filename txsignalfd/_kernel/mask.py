# -*- test-case-name: tests.kernel.test_mask -*-
"""
L{ProcessMask}: acquire signals in the whole process, and restore them.

A signalfd reads only signals that are blocked.  But a mask belongs to one thread,
and the kernel delivers a signal for the process to any thread that does not block
it.  To acquire a signal, a L{ProcessMask}

  1. blocks the signal in the calling thread and later, by
     L{ProcessMask.claimForThread}, in the reactor's thread.  Threads that these
     start inherit the mask.
  2. installs a handler in C, for all other threads.  The handler blocks the signal
     in the thread that it interrupts, and defers the signal for its owner, or sends
     it to the process again (see C{_native/handler.c}).  So each thread that existed
     before receives the signal at most once, and passes it on.
     For realtime signals, which have an order, it makes those threads block the
     signal at once (see L{threads <txsignalfd._kernel.threads>}).
  3. lets the child of a fork(2) undo both.  L{fork <txsignalfd._kernel.fork>} does
     the same for subprocess and posix_spawn(3), and
     L{spawn <txsignalfd._kernel.spawn>} for other ways to start children.

Without signalfd(2), the handler reports the signals itself, and the reactor's
thread unblocks them: see L{pipe <txsignalfd._kernel.pipe>}.

Restoring a signal undoes this in reverse order.  Only a thread itself can change
its mask.  So the signal is unblocked in the thread that restores it, and in the
main thread as soon as that runs Python code.  Other threads that were interrupted,
or that inherited the mask, continue to block the signal.  This does not harm the
process, because the kernel delivers its signals to another thread.  An interrupted
thread unblocks the signal in its children of fork(2), and in itself when it opens a
spawn window, or acquires or restores a signal.  Children of threads that inherited
the mask inherit it as well.

Rejected: to let the handler write to a pipe where signalfd(2) exists (other threads
are interrupted more often, and a program that replaces the handler takes the signal
away).

A signal has at most one owner in the process, because the records of a signal that
is in two signalfds are split between them at random.  All owners belong to one Python
interpreter, which the C code knows.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterable
from typing import Final
from weakref import WeakMethod

from twisted.logger import Logger

from txsignalfd._kernel.fork import (
    callInForkedChildren,
    replaceStarters,
    restoreStarters,
)
from txsignalfd._kernel.threads import blockInOthers
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

_log: Final = Logger("txsignalfd.mask.ProcessMask")

_NOT_WATCHABLE: Final[dict[int, str]] = {
    **dict.fromkeys(
        (signal.SIGKILL, signal.SIGSTOP),
        "the kernel lets no process block or catch it",
    ),
    **dict.fromkeys(
        (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP),
        "when the CPU raises it, it must be handled on the spot and cannot be read"
        " from a descriptor later",
    ),
    **dict.fromkeys(
        sorted(set(range(1, lib.TXS_NSIG)).difference(VALID_SIGNALS)),
        "the C library uses it for its threads",
    ),
}

#: The numbers of the signals that can be watched.
WATCHABLE: Final = frozenset(range(1, lib.TXS_NSIG)).difference(_NOT_WATCHABLE)


class SignalNotWatchable(ValueError):
    """
    This signal cannot be read from a descriptor; the message says why.
    """


class SignalAlreadyWatched(RuntimeError):
    """
    Another dispatcher or descriptor of this process watches the signal.
    """


def checkWatchable(signals: Iterable[int]) -> list[int]:
    """
    Check that signals can be watched.

    @return: Their numbers, sorted and without duplicates.
    @raise SignalNotWatchable: If one is not a signal, or cannot be watched.
    @raise TypeError: If one is not a number.
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


#: The owner of each acquired signal; guarded by the lock.
_owners: Final[dict[int, ProcessMask]] = {}

#: Reentrant, because the garbage collector and Python's signal handlers may run code of
#: the user anywhere, which may restore signals.
_lock = threading.RLock()

#: Identifies this interpreter among those of the process.
_INTERPRETER: Final = id(_owners)

#: The signals of L{reserve}, which have no owner yet.  Guarded by the lock.
_reserved: Final[set[int]] = set()

#: Held by the thread that has a spawn window open.
windowLock = threading.RLock()


def assignDeferred() -> list[ProcessMask]:
    """
    Give each owner its deferred signals.

    @return: The owners that have to be woken, when the caller holds no lock.
    """
    with _lock:  # no owner may restore its signals before it has these
        wanted = lib.txs_deferred_count()
        records = ffi.new("struct txs_siginfo[]", wanted + lib.TXS_NSIG)
        deferred: dict[ProcessMask, list[SigInfo]] = {}
        owners = dict(_owners)  # a finalizer may restore signals below
        size = lib.txs_deferred_take(records, wanted) * SIGINFO_SIZE
        for info in parse(bytes(ffi.buffer(records, size))):
            deferred.setdefault(owners[info.signo], []).append(info)
        for owner, infos in deferred.items():
            owner.defer(infos)
        return list(deferred)


def collectDeferred() -> None:
    """
    Give deferred signals to their owners, and wake these.
    """
    wakeOwners(assignDeferred())


def wakeOwners(owners: Iterable[ProcessMask]) -> None:
    """
    Wake each owner, while the caller holds no lock.

    An owner that cannot be woken, for example because its reactor was closed, receives
    its signals later.  This is logged, as the caller may be another owner.
    """
    for owner in owners:
        try:
            owner.wake()
        except Exception:
            _log.failure("a reactor cannot be woken for deferred signals")


def _forgetOwners() -> None:
    """
    Forget all signals in a forked child, where the C code has restored them.
    """
    global _lock, windowLock
    _owners.clear()
    _reserved.clear()
    restoreStarters()
    # Another thread may have held the old locks during the fork.
    _lock, windowLock = threading.RLock(), threading.RLock()


class ProcessMask:
    """
    The signals that one owner has acquired in the whole process.

    Call its methods in any thread.  It does not keep the owner alive.
    """

    def __init__(
        self,
        defer: Callable[[list[SigInfo]], None],
        wake: Callable[[], None],
        pipe: int = -1,
        doorbell: int = -1,
    ) -> None:
        """
        @param defer: A method of the owner.  It is called in any thread, with a lock
            held, with signals that the C handler has deferred.  They are older than
            the signals that are still queued.
        @param wake: A method of the owner.  It is called in any thread when the
            owner has deferred signals to receive.
        @param pipe: The number of the pipe to which the C handler writes signals,
            where there is no signalfd(2).
        @param doorbell: The number of an eventfd to which the C handler writes when
            it has deferred signals of this owner.
        """
        self._defer = WeakMethod(defer)
        self._wake = WeakMethod(wake)
        self._pipe = pipe
        self._doorbell = doorbell

    @property
    def acquired(self) -> frozenset[int]:
        """
        The signals of this owner; none in a forked child.
        """
        with _lock:
            return frozenset(n for n, owner in _owners.items() if owner is self)

    def defer(self, infos: list[SigInfo]) -> None:
        """
        Pass deferred signals to the owner, if it still exists.
        """
        if (defer := self._defer()) is not None:
            defer(infos)

    def wake(self) -> None:
        """
        Wake the owner, if it still exists.
        """
        if (wake := self._wake()) is not None:
            wake()

    def acquire(self, signals: Iterable[int]) -> None:
        """
        Acquire all of these signals, or none.

        @raise SignalNotWatchable: If one cannot be watched.
        @raise SignalAlreadyWatched: If one has another owner.
        @raise OSError: If the system refuses.
        """
        wanted = checkWatchable(signals)
        with _lock:
            for signo in wanted:
                if signo in _owners:
                    raise SignalAlreadyWatched(
                        f"{signalName(signo)} is watched already in this process: use"
                        " the dispatcher that watches it (see dispatcherFor), or"
                        " unwatch it there first"
                    )
            if wanted and not lib.txs_interpreter_enter(_INTERPRETER):
                raise SignalAlreadyWatched(
                    "another Python interpreter of this process watches signals, and"
                    f" only one can: {signalName(wanted[0])} cannot be watched here"
                )
            callInForkedChildren(_forgetOwners)
            before, main = blockUntilRestored(wanted), _mainThread()
            for count, signo in enumerate(wanted):
                blocked, fds = signo in before, (self._pipe, self._doorbell)
                if lib.txs_acquire(signo, blocked, *fds, main) == -1:
                    error = ffi.errno
                    for done in wanted[:count]:
                        lib.txs_release(done)
                    _unblockRestored()
                    _leaveProcess()
                    raise OSError(error, f"{signalName(signo)}: {os.strerror(error)}")
            if wanted and not _owners:
                replaceStarters()
                atexit.register(_restoreAtExit)
            _owners.update(dict.fromkeys(wanted, self))
            _reserved.difference_update(wanted)
            _unblockRestored()
            blockInOthers(wanted)

    def claimForThread(self) -> None:
        """
        Block the signals in the calling thread, and reinstall the C handler.

        Dispositions that replaced the handler are the ones that are restored in
        the end.
        """
        with _lock:
            acquired = self.acquired
            blockUntilRestored(acquired)
            for signo in acquired:
                lib.txs_install(signo)
            lib.txs_window_update()
            _unblockRestored()

    #: Reinstall the C handler for a signal, given its number.  Returns 1 if it was
    #: replaced, 0 if not, and -1 if the system refuses.
    reinstall: Final[Callable[[int], int]] = staticmethod(lib.txs_install)

    def restore(self, signals: Iterable[int]) -> None:
        """
        Restore masks and dispositions of these signals.

        A pending signal has the effect that it would have had without this package.
        Signals that were not acquired are ignored.

        @raise OSError: If the main thread could not be asked to unblock them.  It is
            asked again by the next call of any method of any owner; all else has been
            restored.
        """
        with _lock:
            restored = self.acquired.intersection(signals)
            for signo in restored:
                lib.txs_release(signo)
            owners = assignDeferred()  # those of restored signals go to the process
            for signo in restored:
                del _owners[signo]
            if restored and not _owners:
                restoreStarters()
                atexit.unregister(_restoreAtExit)
            _leaveProcess()
            error = None if _unblockRestored() else ffi.errno
        wakeOwners(owners)
        if error is not None:
            raise OSError(error, "the main thread still blocks signals")


def _restoreAtExit() -> None:
    """
    Restore all signals when a subinterpreter ends: the process goes on without it.
    """
    try:
        # Before it looks at the handler, it refuses to work in a subinterpreter.
        signal.signal(signal.SIGTERM, None)
    except TypeError:
        return  # the main interpreter: the process ends
    except ValueError:
        for owner in set(_owners.values()):
            owner.restore(owner.acquired)


def _leaveProcess() -> None:
    """
    Let another interpreter of the process watch signals, if this one watches none.
    """
    if not _owners and not isWatchedElsewhere():
        lib.txs_interpreter_leave()


def isWatchedElsewhere() -> bool:
    """
    Return whether another interpreter of the process watches signals.
    """
    return bool(lib.txs_interpreter_is_other(_INTERPRETER))


def _unblockRestored() -> bool:
    """
    Unblock the signals without an owner, in this thread and in the main thread.

    Only signals that this package blocked there are unblocked, no matter which thread
    restored them.

    @return: Whether the main thread could be asked.  If not, the next call does it.
    """
    free = frozenset(range(1, lib.TXS_NSIG)).difference(_owners, _reserved)
    thread = lib.txs_tid()
    sigprocmask(SIG_UNBLOCK, _noted(thread) & free)
    _forget(thread, free)
    main = _mainThread()
    if (left := _noted(main) & free) and lib.txs_unblock_in_main(sigset(left)) == -1:
        return False
    _forget(main, free)
    return True


def _mainThread() -> int:
    """
    Return the main thread's id, as C has it.
    """
    # In a forked child, native_id is still the id of the parent's main thread.
    number = os.getpid() if lib.TXS_LINUX else threading.main_thread().ident
    assert number is not None, "the main thread runs"
    return number


def blockUntilRestored(signals: Collection[int]) -> frozenset[int]:
    """
    Block signals in this thread until they are restored, and not in forked children.

    @return: The signals that were blocked before, but not by this package.
    """
    before = frozenset(sigprocmask(SIG_BLOCK, signals))
    thread = lib.txs_tid()
    ours = _noted(thread)
    for signo in frozenset(signals) - before:
        lib.txs_note(thread, signo)
    return before - ours


def reserve(signals: Collection[int]) -> None:
    """
    Block signals in this thread, which will be acquired soon.

    Until then, or until L{unreserve}, no call of any owner unblocks them.
    """
    with _lock:
        _reserved.update(signals)
        blockUntilRestored(signals)


def foreignMask() -> list[int]:
    """
    Return the signals that only other code has blocked in this thread.
    """
    return sorted(frozenset(sigprocmask(SIG_BLOCK, ())) - _noted(lib.txs_tid()))


def reserveBlocked(foreign: Collection[int]) -> frozenset[int]:
    """
    Reserve the signals that this thread blocks, because the program that this one has
    replaced by execve(2) has left them pending.

    @param foreign: The result of L{foreignMask} in that program.
    @return: The reserved signals.
    """
    with _lock:
        reserved = frozenset(sigprocmask(SIG_BLOCK, ())) - frozenset(foreign)
        _reserved.update(reserved)
        for signo in reserved:
            lib.txs_note(lib.txs_tid(), signo)
        return reserved


def unreserve(signals: Collection[int]) -> None:
    """
    Unblock signals of L{reserve} that were not acquired after all.
    """
    with _lock:
        _reserved.difference_update(signals)
        _unblockRestored()


def _noted(thread: int) -> frozenset[int]:
    """
    Return the signals that this package has blocked in a thread.
    """
    bits = lib.txs_noted(thread)
    return frozenset(n for n in range(1, lib.TXS_NSIG) if bits >> (n - 1) & 1)


def _forget(thread: int, signals: Iterable[int]) -> None:
    lib.txs_forget(thread, sum(1 << (signo - 1) for signo in signals))
