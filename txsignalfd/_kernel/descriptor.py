# -*- test-case-name: tests.kernel.test_descriptor -*-
"""
L{SignalDescriptor}: a signalfd(2) that a reactor can read.

L{Opened}: a descriptor of the process that has opened it, and has to close it.

How many signals are read at a time, and how many can be pending.
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

from txsignalfd._kernel.fork import checkIsParent
from txsignalfd._kernel.mask import ProcessMask, checkWatchable
from txsignalfd._kernel.spawn import collect
from txsignalfd._native.extension import lib
from txsignalfd._native.names import signalName
from txsignalfd.lowlevel import SFD_CLOEXEC, SFD_NONBLOCK, signalfd
from txsignalfd.siginfo import SIGINFO_SIZE, SigInfo, parse

_log: Final = Logger("txsignalfd.descriptor.SignalDescriptor")

#: The most records that one read takes, so that a storm of signals leaves the
#: reactor its other descriptors.
RECORDS_PER_READ: Final = 64
READ_SIZE: Final = RECORDS_PER_READ * SIGINFO_SIZE


def mostReads() -> int:
    """
    How many reads all signals take that can be pending.
    """
    most = lib.TXS_DEFERRED
    if hasattr(resource, "RLIMIT_SIGPENDING"):  # only Linux has that limit
        most, _ = resource.getrlimit(resource.RLIMIT_SIGPENDING)
    if most == resource.RLIM_INFINITY:
        most = sys.maxsize
    return int(most + lib.TXS_NSIG) // RECORDS_PER_READ + 1


class Opened:
    """
    A descriptor that belongs to the process that has opened it.

    One that becomes garbage while it is open is told of by a
    C{ResourceWarning}, as Python's own files and sockets are.  Nothing is given
    back then: garbage may be found in any thread, in the middle of anything.
    """

    #: Its number, or -1 until it is open, and when it is closed.
    _fd = -1

    def __init__(self) -> None:
        self._pid = os.getpid()

    def fileno(self) -> int:
        """
        Its number, or -1 when it is closed.
        """
        return self._fd

    def checkProcess(self) -> None:
        """
        @raise WatchedByParent: In a child that was forked since.
        """
        checkIsParent(self._pid)

    def __del__(self) -> None:
        if self._fd != -1 and os.getpid() == self._pid:
            warn(
                f"unclosed {self!r}, which keeps what it has taken",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )


#: Seconds from one look whether a handler was replaced to the next: half a read.
LOOK = 0.01


@implementer(IReadDescriptor)
class SignalDescriptor(Opened):
    """
    A signalfd for a reactor: C{reactor.addReader(SignalDescriptor(...))}.

    It takes hold of its signals in the whole process, from its making until
    L{close} or L{connectionLost}: no other thread takes them, and children of
    fork(2) start without.  Use it from the thread in which its reactor runs.

    It belongs to the process that made it.  A forked child must leave it, and
    the reactor that has it, alone: see L{WatchedByParent}.
    """

    _room = 0  #: how many may be pending beside those in the kernel

    def __init__(
        self,
        signals: Iterable[int],
        receive: Callable[[list[SigInfo]], object],
        lost: Callable[[Failure], object] | None = None,
        wake: Callable[[], object] | None = None,
    ) -> None:
        """
        @param signals: The numbers of the signals.
        @param receive: Called with the signals of each read, in their order;
            at most L{RECORDS_PER_READ} of them.  What it raises is logged.
        @param lost: Called once if the reactor drops the descriptor, with the
            reason; not after L{close}.
        @param wake: Called, in any thread, when there is something for
            L{receiveDeferred}; by default that waits for the next read.
        @raise SignalNotWatchable: For a signal that cannot be read.
        @raise SignalAlreadyWatched: For one that is another descriptor's.
        @raise SignalfdUnavailable: On a system without signalfd(2).
        @raise OSError: When the system refuses.  Whatever is raised, nothing
            has been taken.
        """
        self._receive = receive
        self._lost = lost
        self._wake = wake
        self._kept: deque[list[SigInfo]] = deque()
        super().__init__()
        self._broken = False
        self._nextLook = 0.0
        self._fd = self._open(checkWatchable(signals))

    def _open(self, signals: Collection[int]) -> int:
        """
        Take signals, and make what they are read from.
        """
        self._mask = ProcessMask(self._keep)
        self._mask.acquire(signals)
        try:
            return signalfd(-1, signals, SFD_CLOEXEC | SFD_NONBLOCK)
        except BaseException:
            self._mask.restore(signals)
            raise

    def _update(self, signals: Collection[int]) -> None:
        """
        Read these signals, which are taken.
        """
        signalfd(self._fd, signals)

    def __repr__(self) -> str:
        names = " ".join(map(signalName, sorted(self.signals)))
        return f"<{type(self).__name__} {self._fd} of {names or 'nothing'}>"

    @property
    def withoutSiginfo(self) -> int:
        """
        How many signals came without a siginfo, for want of room: never any.
        """
        return 0

    @property
    def signals(self) -> frozenset[int]:
        """
        The signals that it has now.
        """
        return self._mask.acquired

    def watch(self, signals: Iterable[int]) -> None:
        """
        Take more signals, all or none.

        @raise SignalNotWatchable: And the other errors of the constructor.
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
        Give signals back, after what is pending has been received.

        @raise ValueError: After L{close}.
        """
        self._checkOpen()
        self.drain(last=True)
        if self._fd == -1:  # closed by a receiver
            return
        old = self.signals.intersection(signals)
        self._update(self.signals - old)
        self._mask.restore(old)

    def claimForThread(self) -> None:
        """
        Take hold again: in this thread, which must be the reactor's, and of each
        disposition that was replaced since, as Twisted does when a reactor starts.
        """
        self.checkProcess()
        self._mask.claimForThread()

    def _checkOpen(self) -> None:
        self.checkProcess()
        if self._fd == -1:
            raise ValueError("this descriptor is closed")

    def logPrefix(self) -> str:
        """
        What the reactor's log calls it.
        """
        return type(self).__name__

    # IReadDescriptor says Failure; what its reactors take is the exception.
    def doRead(self) -> Exception | None:  # type: ignore[override]
        """
        Receive what one read gives.

        @return: C{None}, or why the descriptor is dead: the reactor then
            calls L{connectionLost}.
        """
        if self._kept:
            self.receiveDeferred()
        if self._kept or self._fd == -1:
            # What came while a receiver started a child is next; or we are closed.
            return None
        try:
            self._receiveRead()
        except OSError as error:
            return error
        return None

    def _receiveRead(self) -> int:
        try:
            infos = parse(os.read(self._fd, READ_SIZE))
            first = infos[0]
        except BlockingIOError:
            return 0
        except (OSError, ValueError, IndexError) as error:
            self._broken = True
            if isinstance(error, OSError):
                raise
            raise OSError(errno.EBADF, "the number is another file's") from error
        if monotonic() > self._nextLook:
            self._nextLook = monotonic() + LOOK
            for signo in {first.signo, *(info.signo for info in infos[1:])}:
                self._look(signo)
        return self._receiveInfos(infos)

    def _look(self, signo: int) -> None:
        if self._mask.retake(signo) == 1:
            handler = signal.getsignal(signo)
            _log.warn(
                "{name} is watched, and goes to {receiver}: the handler {handler},"
                " which was installed for it since, is not called. Add it to the"
                " dispatcher, or unwatch the signal first",
                name=signalName(signo),
                receiver=self._receive,
                handler=handler if callable(handler) else "(Python knows of none)",
            )

    def drain(self, last: bool = False) -> None:
        """
        Receive all that is pending now.

        @param last: What comes later is left pending.
        @raise OSError: When the descriptor is dead.
        """
        collect()
        # Senders may be faster than we: read what was pending at first.
        left = mostReads() * RECORDS_PER_READ + self._room
        while left > 0 and self._fd != -1:
            # A receiver may have started a child: what came then is older.
            if not (count := self.receiveDeferred() or self._receivePending()):
                return
            left -= count

    def receiveDeferred(self) -> int:
        """
        Receive what came to a thread while it started a child.

        @return: How many signals that were.
        """
        count = 0
        for _ in range(len(self._kept)):  # receivers that start children make more
            if self._kept:  # or a receiver has received it
                count += self._receiveInfos(self._kept.popleft())
        return count

    def _keep(self, infos: list[SigInfo]) -> None:
        self._kept.append(infos)
        if self._wake is not None:
            self._wake()

    def _receivePending(self) -> int:
        """
        Receive a read of what has been sent until now.
        """
        return self._receiveRead()

    def _receiveInfos(self, infos: list[SigInfo]) -> int:
        try:
            self._receive(infos)
        except BaseException:
            # Passed on, it would have the reactor drop all signals.
            _log.failure("receiving {infos} failed", infos=infos)
        return len(infos)

    def close(self) -> None:
        """
        Close, and give back all signals, as they were.  What is pending goes
        where it would have gone without us: L{drain} first to receive it.  Remove
        the descriptor from its reactor before.  A second call does nothing.
        """
        self.checkProcess()
        while self._kept:
            self.receiveDeferred()
        if self._fd == -1:  # or closed by a receiver just now
            return
        fd, self._fd = self._fd, -1
        try:
            # The number of one that cannot be read is another's, or nobody's.
            if not self._broken:
                os.close(fd)
        finally:
            self._mask.restore(self.signals)
            while self._kept:  # by a thread that started a child just now
                self.receiveDeferred()

    def connectionLost(self, reason: Failure) -> None:
        """
        The reactor has removed the descriptor: it stops, or reading failed.
        Receive what can still be received, and give back what was taken.

        @param reason: Why.
        """
        if self._fd == -1:
            return
        try:
            if not self._broken:
                self.drain(last=True)
        except OSError:  # it was closed behind our back: the reactor knows no more
            reason = Failure()
        if self._fd == -1:  # closed by a receiver
            return
        try:
            self.close()
        finally:
            if self._lost is not None:
                self._lost(reason)
