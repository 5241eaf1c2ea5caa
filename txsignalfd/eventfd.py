# -*- test-case-name: tests.test_eventfd -*-
"""
L{EventDescriptor}: an eventfd(2) counter that wakes a reactor.

Threads, forked processes and C code add to it.

Theory
======

C{reactor.callFromThread} wakes a reactor from another thread of its process, at
the cost of a lock, a list and a byte in a pipe for each call.  An eventfd is one
number in the kernel.  Any code that has the descriptor adds to it, and the reactor
receives the sum of the numbers that were added between two of its turns.

A descriptor that any thread may write to has one danger: when it is closed between
two instructions of a writer, its number may belong to another file, to which the
writer would write.  So a writer has a reference to the open counter, which is closed
with its last reference.

Rejected: a lock around writing and closing.  It would block for ever in a process
that is forked while another thread holds it, and in a Python signal handler that
interrupts the thread that holds it.
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

from txsignalfd._kernel.callables import checkCallable, nameOf

_log: Final = Logger("txsignalfd.eventfd.EventDescriptor")

#: The largest value of a counter: see eventfd(2).
MOST: Final = 2**64 - 2


class EventfdUnavailable(OSError):
    """
    The system or this Python has no eventfd(2), or a sandbox forbids it.

    The errno is C{ENOSYS} or C{EPERM}.
    """


class EventDescriptorClosed(ValueError):
    """
    The L{EventDescriptor} is closed, so nothing can be added to it.
    """


class CounterFull(BlockingIOError):
    """
    The number does not fit in the counter of an L{EventDescriptor}.

    Nothing was added.  The errno is C{EAGAIN}.
    """


class _Counter:
    """
    An open eventfd, which is closed with its last reference.
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

    L{add} may be called in any thread, in a Python signal handler, and in any
    process that is forked later.  C code calls eventfd_write(3) with L{fileno}.  Call
    all other methods in the thread in which the reactor runs.

    The descriptor is not inherited across exec(2).  Pass it to another program by
    C{pass_fds} of C{subprocess}, or C{childFDs} of C{reactor.spawnProcess}.
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
        @param callback: Called in the reactor's turn with the sum of the numbers
            that were added since the last call.  Its exceptions are logged.
        @param initial: The initial value of the counter.
        @param semaphore: Subtract 1 from the counter in each turn until it is 0, so
            that several processes can share the units of one eventfd.
        @param lost: Called once with the reason if the reactor drops the
            descriptor; not after L{close}.  By default an error is logged.
        @raise TypeError: When C{callback} cannot be called, or C{initial} is not an
            integer.
        @raise ValueError: When C{initial} is not between 0 and L{MOST}.
        @raise EventfdUnavailable: On a system without eventfd(2).
        @raise OSError: When the system call fails.
        """
        checkCallable(callback, "callback")
        start = _amount(initial)
        self._callback = callback
        self._lost = lost
        self._semaphore = semaphore
        self._broken = False
        self._counter = _Counter(semaphore)
        self.add(start)

    def __getstate__(self) -> NoReturn:
        # In another process the number is that of another file, and a copy would
        # close the descriptor twice.
        raise TypeError(
            "an EventDescriptor cannot be copied or pickled: fork the process that"
            " adds to it, or pass the descriptor of fileno() to it"
        )

    def __repr__(self) -> str:
        kind = "semaphore" if self._semaphore else "counter"
        return f"<EventDescriptor {self.fileno()}, {kind} of {nameOf(self._callback)}>"

    def add(self, n: int = 1) -> None:
        """
        Add to the counter, which wakes the reactor.  This never blocks.

        @param n: A number from 0 to L{MOST}.
        @raise TypeError: When it is not an integer.
        @raise ValueError: When it is negative or too large.
        @raise CounterFull: When the counter would exceed L{MOST}.
        @raise EventDescriptorClosed: After L{close}, or when the reactor has
            stopped.
        @raise OSError: When other code has closed the descriptor.
        """
        amount = _amount(n)
        if not self._write(amount):
            raise CounterFull(
                errno.EAGAIN,
                f"{amount} does not fit in the counter, whose largest value is {MOST}:"
                " nothing was added. Add it again when the reactor has read the"
                " counter, and check that the reactor is not blocked",
            )

    def _write(self, amount: int) -> bool:
        # A function of its own: the traceback of an exception of add must not
        # refer to the counter.
        counter = self._counter
        if counter is None:
            raise EventDescriptorClosed(
                "this EventDescriptor is closed: nothing can be added to it"
            )
        try:
            os.eventfd_write(counter.fd, amount)
        except BlockingIOError:
            return False
        return True

    def fileno(self) -> int:
        """
        Return the number of the eventfd, or -1 when it is closed.
        """
        counter = self._counter
        return -1 if counter is None else counter.fd

    def logPrefix(self) -> str:
        """
        Return the name for the reactor's log.
        """
        return type(self).__name__

    # IReadDescriptor says Failure, but reactors expect the exception.
    def doRead(self) -> Exception | None:  # type: ignore[override]
        """
        Read the counter, and call the callback.

        @return: C{None}, or the error, with which the reactor then calls
            L{connectionLost}.
        """
        number = self.fileno()
        if number == -1:  # closed, but still in the reactor
            return None
        try:
            count = os.eventfd_read(number)
        except BlockingIOError:
            # Another process has read it, or another callback of this turn.
            return None
        except OSError as error:
            self._broken = True
            return error
        try:
            self._callback(count)
        except BaseException:
            # The reactor would drop the descriptor if it saw the exception.
            _log.failure(
                "the callback {callback} failed on {count}",
                callback=nameOf(self._callback),
                count=count,
            )
        return None

    def close(self) -> None:
        """
        Close the descriptor.  Remove it from its reactor first.

        The callback is not called for numbers that are still unread.  A second call
        does nothing.  A forked process closes only the descriptor that it has
        inherited.
        """
        counter, self._counter = self._counter, None
        if counter is not None and self._broken:
            # The number is free, or belongs to another file.
            counter.fd = -1

    def __del__(self) -> None:
        if self._counter is not None:
            warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def connectionLost(self, reason: Failure) -> None:
        """
        Close because the reactor stops, or because reading has failed.

        @param reason: The error, or C{ConnectionLost}.
        """
        if self._counter is None:
            return
        self.close()
        if self._lost is not None:
            try:
                self._lost(reason)
            except BaseException:
                # A reactor that stops must also close its other descriptors.
                _log.failure("{callback} failed", callback=nameOf(self._lost))
        elif not reason.check(ConnectionLost):
            _log.failure("{descriptor} cannot be read", reason, descriptor=self)
