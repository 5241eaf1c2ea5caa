# -*- test-case-name: tests.kernel.test_descriptor -*-
"""
L{SignalDescriptor}: a signalfd(2) that a reactor reads.

Each turn of the reactor reads at most C{RECORDS_PER_READ} signals.
L{SignalDescriptor.drain} reads all that were pending when it was called, which are at
most as many as the kernel queues.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable
from time import monotonic
from typing import Final
from warnings import warn

from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from txsignalfd._kernel.callables import checkCallable, nameOf
from txsignalfd._kernel.fork import checkIsParent
from txsignalfd._kernel.mask import ProcessMask, checkWatchable, collectDeferred
from txsignalfd._native.extension import lib
from txsignalfd._native.names import SIGRTMIN, signalName
from txsignalfd.lowlevel import SFD_CLOEXEC, SFD_NONBLOCK, signalfd
from txsignalfd.siginfo import SigInfo, read

_log: Final = Logger("txsignalfd.descriptor.SignalDescriptor")

#: The maximum of one read.
RECORDS_PER_READ: Final = lib.TXS_RECORDS_PER_READ


def maximumReads() -> int:
    """
    Return how many reads it takes to read all signals that can be pending.
    """
    most = lib.TXS_DEFERRED
    if hasattr(resource, "RLIMIT_SIGPENDING"):  # only Linux has that limit
        most, _ = resource.getrlimit(resource.RLIMIT_SIGPENDING)
    if most == resource.RLIM_INFINITY:
        most = sys.maxsize
    return int(most + lib.TXS_NSIG) // RECORDS_PER_READ + 1


#: How many signals may be deferred until they are received.  Only a flood that arrives
#: while children are started reaches it: otherwise the kernel limits what is pending.
DEFERRED_LIMIT = 8 * lib.TXS_DEFERRED

#: The minimum of seconds between checks whether a handler was replaced.  A check takes
#: half as long as a read.
CHECK_INTERVAL = 0.01


#: How many signals the C handler has deferred in the whole process.
_deferredCount: Final = lib.txs_deferred_counter()


def isTwisteds(handler: object) -> bool:
    """
    Return whether a handler of the C{signal} module is one of Twisted.
    """
    return nameOf(handler).startswith("twisted.")


def warnOfHandler(signo: int, handler: object, receiver: str, advice: str) -> None:
    """
    Log that a handler of the program is not called, because its signal is watched.

    @param handler: The handler, as C{signal.getsignal} returns it.
    @param receiver: The code that receives the signal in its place.
    @param advice: How to have the handler called.
    """
    _log.warn(
        "{name} is watched by txsignalfd ({receiver}); the handler {handler}, installed"
        " since, is not called: {advice}",
        name=signalName(signo),
        receiver=receiver,
        handler=nameOf(handler) if callable(handler) else "(unknown to Python)",
        advice=advice,
    )


@implementer(IReadDescriptor)
class SignalDescriptor:
    """
    A signalfd for a reactor: C{reactor.addReader(SignalDescriptor(...))}.

    The signals are acquired in the whole process until L{close} or L{connectionLost}:
    no other thread receives them, and children of fork(2) start with the previous mask
    and dispositions.  Use the descriptor in the thread of its reactor.

    It belongs to the process that made it.  A forked child must not use it, nor the
    reactor that reads it: see L{WatchedByParent}.

    If it is garbage-collected while it is open, a C{ResourceWarning} is issued, as for
    Python's files and sockets.  It is not closed then, because the garbage collector
    runs in any thread, in the middle of any code.
    """

    _fd = -1  #: the descriptor's number, or -1 while it is not open
    #: Returns the receiver of a signal, and how to have another handler called, for
    #: a warning about a handler that is not called.
    explain: Callable[[int], tuple[str, str]] | None = None
    _capacity = 0  #: how many signals may be pending outside the kernel's queue

    def __init__(
        self,
        signals: Iterable[int],
        receive: Callable[[list[SigInfo]], object],
        lost: Callable[[Failure], object] | None = None,
        wake: Callable[[], object] | None = None,
        doorbell: int = -1,
    ) -> None:
        """
        If an exception is raised, no signal has been acquired.

        @param signals: The numbers of the signals.
        @param receive: Called with the signals of each read, in their order;
            at most C{RECORDS_PER_READ} of them.  Its exceptions are logged.
        @param lost: Called once, with the reason, if the reactor drops the descriptor;
            not called after L{close}.
        @param wake: Called in any thread when L{receiveDeferred} has signals to
            receive, perhaps once more after L{close}.  By default they are received
            before those of the next read.
        @param doorbell: The number of an eventfd, to which the C handler writes when
            it defers a signal; see L{Doorbell
            <txsignalfd._kernel.doorbell.Doorbell>}.  By default the handler sends
            signals back to the kernel's queue if possible.
        @raise TypeError: For a receiver that cannot be called.
        @raise SignalNotWatchable: For a signal that cannot be watched.
        @raise SignalAlreadyWatched: For a signal of another descriptor.
        @raise SignalfdUnavailable: On a system without signalfd(2).
        @raise OSError: If the system refuses.
        """
        checkCallable(receive, "receiver")
        self._receive = receive
        self._lost = lost
        self._wake = wake
        #: Signals that the C handler has deferred, older than those in the kernel.
        self._deferred: deque[SigInfo] = deque()
        self._dropped = 0
        self._doorbell = doorbell
        self._withoutSiginfo = 0
        self._pid = os.getpid()
        self._broken = False
        self._nextCheck = 0.0
        self._fd = self._open(checkWatchable(signals))

    def _open(self, signals: Collection[int]) -> int:
        """
        Acquire signals, and return the descriptor to read them from.
        """
        self._mask = ProcessMask(
            self._defer, self._wakeReceiver, doorbell=self._doorbell
        )
        self._mask.acquire(signals)
        try:
            return signalfd(-1, signals, SFD_CLOEXEC | SFD_NONBLOCK)
        except BaseException:
            self._mask.restore(signals)
            raise

    def _update(self, signals: Collection[int]) -> None:
        """
        Read these acquired signals from now on, and no others.
        """
        signalfd(self._fd, signals)

    def __del__(self) -> None:
        if self._fd != -1 and os.getpid() == self._pid:
            warn(
                f"unclosed {self!r}, which still holds its resources",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )

    def __repr__(self) -> str:
        names = " ".join(map(signalName, sorted(self.signals)))
        return f"<{type(self).__name__} {self._fd} of {names or 'nothing'}>"

    def fileno(self) -> int:
        """
        Return the descriptor's number, or -1 if it is closed.
        """
        return self._fd

    def checkProcess(self) -> None:
        """
        Check that this process opened the descriptor.

        @raise WatchedByParent: In a child that was forked after it was opened.
        """
        checkIsParent(self._pid)

    @property
    def withoutSiginfo(self) -> int:
        """
        The number of signals that were received without a siginfo, for lack of space.

        Such signals with the same number are received as one.
        """
        return self._withoutSiginfo + sum(map(lib.txs_without_siginfo, self.signals))

    def _restore(self, signals: Collection[int]) -> None:
        self._withoutSiginfo += sum(map(lib.txs_without_siginfo, signals))
        self._mask.restore(signals)

    @property
    def signals(self) -> frozenset[int]:
        """
        The signals that are watched.
        """
        return self._mask.acquired

    def watch(self, signals: Iterable[int]) -> None:
        """
        Watch more signals: all of them, or none if an exception is raised.

        @raise SignalNotWatchable: Like the other errors of the constructor.
        @raise ValueError: After L{close}.
        """
        self._checkOpen()
        new = frozenset(checkWatchable(signals)) - self.signals
        self._mask.acquire(new)
        try:
            self._update(self.signals)
        except BaseException:
            self._mask.restore(new)
            raise

    def unwatch(self, signals: Iterable[int]) -> None:
        """
        Receive what is pending, and restore signals.

        @raise ValueError: After L{close}.
        """
        self._checkOpen()
        self.drain(last=True)
        if self._fd == -1:  # closed by a receiver
            return
        old = self.signals.intersection(signals)
        self._update(self.signals - old)
        self._restore(old)

    def claimForThread(self) -> None:
        """
        Make this thread the one that receives the signals.

        Call it in the reactor's thread after that has started.  It also reinstalls
        handlers that were replaced, as Twisted does when a reactor starts.
        """
        self.checkProcess()
        for signo in self.signals:
            if callable(signal.getsignal(signo)):
                self._checkHandler(signo)
        self._mask.claimForThread()

    def _checkOpen(self) -> None:
        self.checkProcess()
        if self._fd == -1:
            raise ValueError("this descriptor is closed")

    def logPrefix(self) -> str:
        """
        Return the name for the reactor's log.
        """
        return type(self).__name__

    # IReadDescriptor declares a Failure, but reactors expect the exception.
    def doRead(self) -> Exception | None:  # type: ignore[override]
        """
        Receive the signals of one read.

        @return: C{None}, or the error that makes the descriptor useless.  The reactor
            then calls L{connectionLost}.
        """
        if _deferredCount[0] or self._deferred:
            collectDeferred()
            most = sys.maxsize if self._wake is None else RECORDS_PER_READ
            self.receiveDeferred(most)
            if self._deferred or self._fd == -1:
                # A receiver started a child, whose deferred signals are next, or
                # closed us.
                return None
        try:
            self._receiveRead()
        except OSError as error:
            return error if self._fd != -1 else None
        return None

    def _receiveRead(self) -> int:
        try:
            infos = read(self._fd)
        except BlockingIOError:
            return 0
        except OSError:
            self._broken = True
            raise
        except ValueError:
            infos = []
        if not infos:
            self._broken = True
            raise OSError(errno.EBADF, "the descriptor now belongs to another file")
        if monotonic() > self._nextCheck:
            self._nextCheck = monotonic() + CHECK_INTERVAL
            for signo in {info.signo for info in infos}:
                self._checkHandler(signo)
        return self._receiveInfos(infos)

    def _checkHandler(self, signo: int) -> None:
        """
        Reinstall the C handler, and warn about a handler that has replaced it.
        """
        if self._mask.reinstall(signo) != 1:
            return
        handler = signal.getsignal(signo)
        if not isTwisteds(handler):  # a reactor installs those when it starts
            warnOfHandler(signo, handler, *(self.explain or self._explain)(signo))

    def _explain(self, signo: int) -> tuple[str, str]:
        return nameOf(self._receive), "call it from there, or unwatch the signal first"

    def drain(self, last: bool = False) -> None:
        """
        Receive all signals that are pending now.

        @param last: Leave signals that arrive later in the kernel's queue.
        @raise OSError: If the descriptor cannot be read.
        """
        collectDeferred()
        # Senders may be faster than this loop: read what can be pending at the start.
        left = maximumReads() * RECORDS_PER_READ + self._capacity
        while left > 0 and self._fd != -1:
            # If a receiver started a child, the signals deferred then are older.
            if not (count := self.receiveDeferred() or self._receivePending()):
                return
            left -= count

    def receiveDeferred(self, most: int = sys.maxsize) -> int:
        """
        Receive the signals that the C handler has deferred.

        @param most: The most signals to receive.
        @return: The number of signals.
        """
        count = 0
        most = min(most, len(self._deferred))  # receivers may start more children
        # A receiver may call this method, too.
        while most > count and self._deferred:
            number = min(most - count, RECORDS_PER_READ, len(self._deferred))
            count += self._receiveInfos(
                [self._deferred.popleft() for _ in range(number)]
            )
        if self._dropped and not self._deferred:
            dropped, self._dropped = self._dropped, 0
            _log.error(
                "dropped {dropped} signals that arrived while children were started:"
                " {limit} others had not been received yet",
                dropped=dropped,
                limit=DEFERRED_LIMIT,
            )
        return count

    @property
    def hasDeferred(self) -> bool:
        """
        Whether there are more signals for L{receiveDeferred}.
        """
        return bool(self._deferred)

    def _defer(self, infos: list[SigInfo]) -> None:
        room = max(0, DEFERRED_LIMIT - len(self._deferred))
        self._deferred.extend(infos[:room])
        # The kernel, too, keeps only one of each standard signal.
        standard = {info.signo: info for info in infos[room:] if info.signo < SIGRTMIN}
        self._deferred.extend(standard.values())
        self._dropped += max(0, len(infos) - room) - len(standard)

    def _wakeReceiver(self) -> None:
        # A forked child may leave a spawn window, too.
        if self._wake is not None and os.getpid() == self._pid:
            self._wake()

    def pause(self) -> int:
        """
        Leave signals in the kernel's queue until L{resume}, as before execve(2), and
        receive those that have left it.

        @return: The number of received signals.
        """
        collectDeferred()
        return self.receiveDeferred()

    def resume(self) -> None:
        """
        Undo L{pause}.
        """

    def _receivePending(self) -> int:
        """
        Read signals that were sent until now, and receive them.
        """
        return self._receiveRead()

    def _receiveInfos(self, infos: list[SigInfo]) -> int:
        try:
            self._receive(infos)
        except BaseException:
            # If it were raised, the reactor would drop the descriptor.
            _log.failure("receiving {infos} failed", infos=infos)
        return len(infos)

    def close(self) -> None:
        """
        Close the descriptor, and restore all signals.

        Remove the descriptor from its reactor first.  Call L{drain} before to receive
        pending signals; otherwise they have the effect that they have without this
        descriptor.  A second call does nothing.
        """
        self.checkProcess()
        while self._deferred:
            self.receiveDeferred()
        if self._fd == -1:  # perhaps closed by a receiver just now
            return
        fd, self._fd = self._fd, -1
        try:
            # The number of a broken descriptor may belong to another file.
            if not self._broken:
                os.close(fd)
        finally:
            self._restore(self.signals)
            while self._deferred:  # another thread started a child just now
                self.receiveDeferred()

    def connectionLost(self, reason: Failure) -> None:
        """
        Receive what is pending and close, as the reactor has removed the descriptor.

        @param reason: Why the reactor removed it: it stops, or reading failed.
        """
        if self._fd == -1:
            return
        try:
            if not self._broken:
                self.drain(last=True)
        except OSError:  # more precise than the reactor's reason
            reason = Failure()
        if self._fd == -1:  # closed by a receiver
            return
        try:
            self.close()
        finally:
            if self._lost is not None:
                self._lost(reason)
