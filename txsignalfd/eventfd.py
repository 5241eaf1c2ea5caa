# -*- test-case-name: tests.test_eventfd -*-
"""
L{EventDescriptor}: a counter of eventfd(2) that a reactor can read, for who
has to wake it: other threads, forked processes, and C.

Theory
======

C{reactor.callFromThread} wakes a reactor from a thread of its own process, at
the cost of a lock, a list and a byte in a pipe for each call.  An eventfd is
one number in the kernel.  Whoever has the descriptor adds to it, and the
reactor is given the sum of what came between two of its turns.

The one danger of a descriptor that any thread may write is its number: closed
between two instructions of a writer, it may be another file's by the second,
and that file would be written to.  So a writer holds the open counter itself,
and it is closed when the last who holds it has let go.

Rejected: a lock around writing and closing.  A process that is forked while
another thread holds it would wait for ever, and so would a Python signal
handler that interrupts its owner.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from operator import index
from typing import Final, NoReturn
from warnings import warn

from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import ILoggingContext, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

_log: Final = Logger("txsignalfd.eventfd.EventDescriptor")

#: The most that a counter holds: eventfd(2).
MOST: Final = 2**64 - 2


class EventfdUnavailable(OSError):
    """
    This system, or the Python that runs here, has no eventfd(2), or refuses it:
    C{ENOSYS} or C{EPERM}.
    """


class EventDescriptorClosed(ValueError):
    """
    Something was added to an L{EventDescriptor} that is closed.
    """


class CounterFull(BlockingIOError):
    """
    The counter of an L{EventDescriptor} has no room for what was to be added,
    and nothing was: C{EAGAIN}.
    """


class _Counter:
    """
    An open eventfd, for as long as somebody holds it.
    """

    __slots__ = ("fd",)

    def __init__(self, semaphore: bool) -> None:
        self.fd = -1
        try:
            kind = os.EFD_SEMAPHORE if semaphore else 0
            self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | kind)
        except (AttributeError, OSError) as error:
            number = getattr(error, "errno", errno.ENOSYS)
            if number not in (errno.ENOSYS, errno.EPERM):
                raise
            raise EventfdUnavailable(
                number,
                "there is no eventfd(2): it needs Linux 2.6.27 or later, a Python that"
                " was built there, and a sandbox that allows eventfd2",
            ) from None

    def __del__(self) -> None:
        if self.fd != -1:
            os.close(self.fd)


def _amount(n: int) -> int:
    number = index(n)
    if not 0 <= number <= MOST:
        raise ValueError(f"{number} cannot be added: it must be 0 to {MOST}")
    return number


@implementer(IReadDescriptor, ILoggingContext)
class EventDescriptor:
    """
    An eventfd for a reactor: C{reactor.addReader(EventDescriptor(...))}.

    L{add} may be called from any thread, from a Python signal handler, and
    from any process that was forked since; C code calls eventfd_write(3) with
    L{fileno}.  All else belongs to the thread in which the reactor runs.

    The descriptor is not inherited across exec(2): a program that is to have
    it is given it by C{pass_fds} of C{subprocess}, or C{childFDs} of
    C{reactor.spawnProcess}.
    """

    _counter: _Counter | None = None

    def __init__(
        self,
        callback: Callable[[int], object],
        initial: int = 0,
        semaphore: bool = False,
        lost: Callable[[Failure], object] | None = None,
    ) -> None:
        """
        @param callback: Called in the reactor's turn with what was added since
            the last call, as one number.  What it raises is logged.
        @param initial: What the counter starts with.
        @param semaphore: Take 1 from the counter in a turn, and no more, until
            it is 0: so that processes that read one eventfd share it out.
        @param lost: Called once if the reactor drops the descriptor, with the
            reason; not after L{close}.  Without it a descriptor that has died
            is logged.
        @raise TypeError: For C{initial} that is no number.
        @raise ValueError: For C{initial} that is no number of 0 to L{MOST}.
        @raise EventfdUnavailable: On a system without eventfd(2).
        @raise OSError: When the system refuses.
        """
        start = _amount(initial)
        self._callback = callback
        self._lost = lost
        self._semaphore = semaphore
        self._broken = False
        self._counter = _Counter(semaphore)
        self.add(start)

    def __getstate__(self) -> NoReturn:
        # What would be pickled is the number, which is another file's there; a
        # deep copy would close it twice.
        raise TypeError(
            "an EventDescriptor cannot be copied or pickled: fork the process that"
            " is to add to it, or give it the open file of fileno()"
        )

    def __repr__(self) -> str:
        kind = "semaphore" if self._semaphore else "counter"
        return f"<EventDescriptor {self.fileno()}, {kind} of {self._callback!r}>"

    def add(self, n: int = 1) -> None:
        """
        Add to the counter, and so wake the reactor.  Never waits.

        @param n: How much, 0 to L{MOST}.
        @raise TypeError: For what is no number.
        @raise ValueError: For a number that is too large, or negative.
        @raise CounterFull: When the counter would go beyond L{MOST}.
        @raise EventDescriptorClosed: After L{close}, or when the reactor has
            stopped.
        @raise OSError: When the descriptor has died; see L{connectionLost}.
        """
        amount = _amount(n)
        if not self._write(amount):
            raise CounterFull(
                errno.EAGAIN,
                f"{amount} does not fit in the counter, which holds {MOST} at most:"
                " nothing was added. Add it again when the reactor has read the"
                " counter, and see that it is not blocked",
            )

    def _write(self, amount: int) -> bool:
        # A function of its own: the traceback of what add raises must not go
        # on holding the counter.
        counter = self._counter
        if counter is None:
            raise EventDescriptorClosed(
                "this descriptor is closed: nobody will be told of what is added"
            )
        try:
            os.eventfd_write(counter.fd, amount)
        except BlockingIOError:
            return False
        return True

    def fileno(self) -> int:
        """
        The number of the eventfd, or -1 when it is closed.
        """
        counter = self._counter
        return -1 if counter is None else counter.fd

    def logPrefix(self) -> str:
        """
        What the reactor's log calls it.
        """
        return type(self).__name__

    # IReadDescriptor says Failure; what its reactors take is the exception.
    def doRead(self) -> Exception | None:  # type: ignore[override]
        """
        Take what was added, and call back.

        @return: C{None}, or why the descriptor is dead: the reactor then
            calls L{connectionLost}.
        """
        number = self.fileno()
        if number == -1:  # closed, and its reactor does not know yet
            return None
        try:
            count = os.eventfd_read(number)
        except BlockingIOError:
            # Another process has taken it, or a callback in this turn.
            return None
        except OSError as error:
            self._broken = True
            return error
        try:
            self._callback(count)
        except BaseException:
            # Passed on, it would have the reactor drop the descriptor.
            _log.failure(
                "calling {callback} with {count} failed",
                callback=self._callback,
                count=count,
            )
        return None

    def close(self) -> None:
        """
        Close.  What was added and not read yet is told to nobody.  Remove the
        descriptor from its reactor before.  A second call does nothing.

        In a forked process it closes what that process has inherited, and
        nothing else.
        """
        counter, self._counter = self._counter, None
        if counter is not None and self._broken:
            # The number is another file's by now, or nobody's.
            counter.fd = -1

    def __del__(self) -> None:
        if self._counter is not None:
            warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def connectionLost(self, reason: Failure) -> None:
        """
        The reactor has removed the descriptor: it stops, or reading failed.

        @param reason: Why.
        """
        if self._counter is None:
            return
        self.close()
        if self._lost is not None:
            self._lost(reason)
        elif not reason.check(ConnectionLost):
            _log.failure("{descriptor} has died", reason, descriptor=self)
