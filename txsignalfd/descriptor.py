# -*- test-case-name: tests.test_descriptor -*-
"""
L{SignalDescriptor}: a signalfd(2) that a reactor can read.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable

from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from txsignalfd._mask import ProcessMask, checkWatchable
from txsignalfd._native import lib
from txsignalfd._spawn import collect
from txsignalfd.lowlevel import SFD_CLOEXEC, SFD_NONBLOCK, signalfd
from txsignalfd.names import signalName
from txsignalfd.siginfo import SIGINFO_SIZE, SigInfo, parse

#: The most records that one read takes, so that a storm of signals leaves the
#: reactor its other descriptors.
RECORDS_PER_READ = 64


def _mostReads() -> int:
    """
    How many reads all signals take that can be pending.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_SIGPENDING)
    most = sys.maxsize if limit == resource.RLIM_INFINITY else limit
    return int(most + lib.TXS_NSIG) // RECORDS_PER_READ + 1


class WatchedByParent(RuntimeError):
    """
    A forked child has used a descriptor or a dispatcher of its parent.
    """


@implementer(IReadDescriptor)
class SignalDescriptor:
    """
    A signalfd for a reactor: C{reactor.addReader(SignalDescriptor(...))}.

    It takes hold of its signals in the whole process, from its making until
    L{close} or L{connectionLost}: no other thread takes them, and children of
    fork(2) start without.  Use it from the thread in which its reactor runs.

    It belongs to the process that made it.  A forked child must leave it, and
    the reactor that has it, alone: see L{WatchedByParent}.
    """

    _log = Logger()

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
            L{receiveKept} that the reactor does not see.  By default it waits
            for the next read.
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
        self._pid = os.getpid()
        self._mask = ProcessMask(self._keep)
        wanted = checkWatchable(signals)
        self._mask.take(wanted)
        try:
            self._fd = signalfd(-1, wanted, SFD_CLOEXEC | SFD_NONBLOCK)
        except BaseException:
            self._mask.giveBack(wanted)
            raise
        self._broken = False

    def __repr__(self) -> str:
        names = " ".join(map(signalName, sorted(self.signals)))
        return f"<SignalDescriptor {self._fd} of {names or 'nothing'}>"

    @property
    def signals(self) -> frozenset[int]:
        """
        The signals that it has now.
        """
        return self._mask.taken

    def watch(self, signals: Iterable[int]) -> None:
        """
        Take more signals, all or none.

        @raise SignalNotWatchable: And the other errors of the constructor.
        @raise ValueError: After L{close}.
        """
        self._checkOpen()
        new = frozenset(checkWatchable(signals)) - self.signals
        self._mask.take(new)
        try:
            signalfd(self._fd, self.signals)
        except BaseException:
            self._mask.giveBack(new)
            raise

    def unwatch(self, signals: Iterable[int]) -> None:
        """
        Give signals back, after what is pending has been received.

        @raise ValueError: After L{close}.
        """
        self._checkOpen()
        self.drain()
        if self._fd == -1:  # closed by a receiver
            return
        old = self.signals.intersection(signals)
        signalfd(self._fd, self.signals - old)
        self._mask.giveBack(old)

    def settle(self) -> None:
        """
        Take hold again: in the thread that calls, which must be the one in
        which the reactor runs, and of each disposition that was replaced
        since, as Twisted does when a reactor starts.
        """
        self.checkProcess()
        self._mask.settle()

    def checkProcess(self) -> None:
        """
        @raise WatchedByParent: In a child that was forked since.
        """
        if os.getpid() != self._pid:
            raise WatchedByParent(
                f"process {self._pid} watches these signals, and this is its forked"
                f" child {os.getpid()}: make a reactor and a dispatcher of your own"
            )

    def _checkOpen(self) -> None:
        self.checkProcess()
        if self._fd == -1:
            raise ValueError("this descriptor is closed")

    def fileno(self) -> int:
        """
        The number of the signalfd, or -1 when it is closed.
        """
        return self._fd

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
        self.receiveKept()
        if self._kept or self._fd == -1:
            # A receiver has started a child meanwhile: what came then is
            # first, in the next turn.  Or it has closed us.
            return None
        try:
            records = self._read()
        except OSError as error:
            return error
        infos = parse(records)
        # What takes a signal may have changed since it last came.  Each read
        # looks at one: to look at all would cost more than the read.
        if infos and self._mask.retake(infos[0].signo):
            self._tellOfReplacement(infos[0].signo)
        self._receiveInfos(infos)
        return None

    def _tellOfReplacement(self, signo: int) -> None:
        self._log.warn(
            "{name} is watched, and goes to {receiver}: the handler {handler}, which"
            " was installed for it since, is not called. Add it to the dispatcher, or"
            " unwatch the signal first",
            name=signalName(signo),
            receiver=self._receive,
            handler=signal.getsignal(signo),
        )

    def drain(self) -> None:
        """
        Receive all that is pending now.

        @raise OSError: When the descriptor is dead.
        """
        collect()
        self.receiveKept()
        # Senders may be faster than we: no more is read than can have been
        # pending when it began.
        for _ in range(_mostReads()):
            records = self._read()
            self._receiveInfos(parse(records))
            if self._fd == -1 or len(records) < RECORDS_PER_READ * SIGINFO_SIZE:
                break

    def receiveKept(self) -> None:
        """
        Receive what came to a thread while it started a child.
        """
        # Not more than there is now: a receiver that starts children may make
        # more of it each time, and others want their turn.
        for _ in range(len(self._kept)):
            if self._kept:  # or a receiver has received it
                self._receiveInfos(self._kept.popleft())

    def _keep(self, infos: list[SigInfo]) -> None:
        self._kept.append(infos)
        if self._wake is not None:
            self._wake()

    def _read(self) -> bytes:
        try:
            return os.read(self._fd, RECORDS_PER_READ * SIGINFO_SIZE)
        except BlockingIOError:
            return b""
        except OSError:
            self._broken = True
            raise

    def _receiveInfos(self, infos: list[SigInfo]) -> None:
        if not infos:
            return
        try:
            self._receive(infos)
        except BaseException:
            # Passed on, it would have the reactor drop the descriptor, and
            # all signals with it.
            self._log.failure("receiving {infos} failed", infos=infos)

    def close(self) -> None:
        """
        Close, and give back all signals, as they were.  What is pending goes
        where it would have gone without us: L{drain} first to receive it.
        Remove the descriptor from its reactor before.  A second call does
        nothing.
        """
        self.checkProcess()
        if self._fd == -1:
            return
        while self._kept:
            self.receiveKept()
        fd, self._fd = self._fd, -1
        try:
            # Of one that cannot be read the number is another file's by now,
            # or nobody's.
            if not self._broken:
                os.close(fd)
        finally:
            self._mask.giveBack(self.signals)

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
                self.drain()
        finally:
            self.close()
        if self._lost is not None:
            self._lost(reason)
