# -*- test-case-name: tests.kernel.test_pipe -*-
"""
L{SignalPipe}: a L{SignalDescriptor} for systems without signalfd(2).

The handler in C writes a record of each signal to a pipe, which the reactor reads.
C{_native/pipe.c} explains how, and why no signal is lost when the pipe is full.

As with a signalfd, a signal is blocked in the thread that watches it, and stays
pending in the kernel.  The reactor's thread calls L{SignalPipe.claimForThread}, which
unblocks the signals in this thread only, so that its handler receives them in their
order.  The thread blocks them again before they are restored, so that later signals
stay pending.

Rejected: to unblock signals only while the reactor waits (a reactor has no hook for
that); to run the handler in any thread (see C{_native/pipe.c}).
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

from txsignalfd._kernel.descriptor import RECORDS_PER_READ, SignalDescriptor
from txsignalfd._kernel.mask import ProcessMask, collectDeferred
from txsignalfd._native.extension import ffi, lib
from txsignalfd.siginfo import SIGINFO_SIZE, SigInfo, parse


def _fileOf(fd: int) -> tuple[int, int]:
    """
    Identify the file that is open under a number.
    """
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _newRecords() -> Any:
    """
    Allocate space for the records of one read.
    """
    return ffi.new("struct txs_siginfo[]", RECORDS_PER_READ)


class SignalPipe(SignalDescriptor):
    """
    A pipe for a reactor, to which the handler in C writes received signals.

    It has two more descriptors: the end for writing, and a duplicate of the end for
    reading.  Without the duplicate, a write would raise C{SIGPIPE} after other code has
    closed the descriptor.
    """

    _capacity = lib.TXS_DEFERRED  # no pipe holds more

    def _open(self, signals: Collection[int]) -> int:
        self._isClaimed = False
        self._records = _newRecords()
        with ExitStack() as undo:
            try:
                fd, self._writer = os.pipe()
            except OSError as error:
                raise OSError(
                    error.errno, f"cannot open a pipe: {error.strerror}"
                ) from None
            undo.callback(os.close, self._writer)
            undo.callback(os.close, fd)
            self._spare = os.dup(fd)
            undo.callback(os.close, self._spare)
            ends = fd, self._spare, self._writer
            self._files = {end: _fileOf(end) for end in ends}
            os.set_blocking(fd, False)
            os.set_blocking(self._writer, False)
            self._mask = ProcessMask(self._defer, self._wakeReceiver, self._writer)
            self._mask.acquire(signals)
            undo.pop_all()
        return fd

    def _update(self, signals: Collection[int]) -> None:
        # The handler knows which signals are acquired.  Block those that this thread
        # has unblocked, as they were before.
        lib.txs_pipe_pause(self._writer)

    def watch(self, signals: Iterable[int]) -> None:
        """
        Watch more signals, and reinstall handlers that were replaced.
        """
        super().watch(signals)
        self._mask.claimForThread()
        self._claim()

    def unwatch(self, signals: Iterable[int]) -> None:
        """
        Receive what is pending, and restore signals.
        """
        super().unwatch(signals)
        if self._fd == -1:  # closed by a receiver
            return
        # Signals that other threads wrote before these signals were restored.
        if left := list(self._inPipe()):
            self._deferred.extend(left)
            self.receiveDeferred()
        self._claim()

    def claimForThread(self) -> None:
        """
        Make this thread the one that receives the signals.
        """
        super().claimForThread()
        self._isClaimed = True
        self._claim()

    def _claim(self) -> None:
        if self._isClaimed and self._fd != -1:
            lib.txs_pipe_claim(self._writer)

    def drain(self, last: bool = False) -> None:
        """
        Receive all signals that are pending now.
        """
        super().drain(last)
        if not last:
            self._claim()

    def pause(self) -> int:
        """
        Block the signals until L{resume}, and receive those in the pipe.
        """
        lib.txs_pipe_pause(self._writer)
        collectDeferred()
        self._deferred.extend(self._inPipe())
        return super().receiveDeferred()

    def resume(self) -> None:
        """
        Unblock the signals again.
        """
        self._claim()

    def receiveDeferred(self, most: int = sys.maxsize) -> int:
        """
        Receive the signals that the C handler has deferred.
        """
        count = super().receiveDeferred(most)
        self._resume()
        return count

    def _resume(self) -> None:
        """
        Unblock the signals again, if older ones have been received.
        """
        if not self._deferred and self._fd != -1:
            lib.txs_pipe_resume(self._writer)

    def _defer(self, infos: list[SigInfo]) -> None:
        # Signals are deferred when the pipe is full, so those in the pipe are older.
        super()._defer([*self._inPipe(), *infos])

    def _inPipe(self) -> Iterator[SigInfo]:
        """
        Read the signals in the pipe, in any thread, also after it was closed.
        """
        records = _newRecords()  # the reactor's thread may be reading into its own
        with suppress(OSError):  # other code has closed an end: nothing can be read
            while infos := parse(self._readFrom(self._spare, records)):
                yield from infos

    def _readFrom(self, fd: int, records: Any) -> bytes:
        count = lib.txs_pipe_read(fd, records, RECORDS_PER_READ)
        if count >= 0:
            return bytes(ffi.buffer(records, count * SIGINFO_SIZE))
        if ffi.errno == errno.EAGAIN:
            return b""
        raise OSError(ffi.errno, f"reading the pipe: {os.strerror(ffi.errno)}")

    def _receiveRead(self) -> int:
        self.checkProcess()  # a forked child must not read its parent's pipe
        try:
            infos = parse(self._readFrom(self._fd, self._records))
        except OSError:
            self._broken = True
            raise
        self._resume()
        if infos:
            self._checkHandler(infos[0].signo)
            self._receiveInfos(infos)
        return len(infos)

    def _receivePending(self) -> int:
        lib.txs_pipe_fill(self._writer)
        return self._receiveRead()

    def close(self) -> None:
        """
        Close the pipe, and restore all signals.
        """
        self.checkProcess()
        while self._deferred:
            self.receiveDeferred()
        if self._fd == -1:
            return
        lib.txs_pipe_pause(self._writer)
        self._broken = not self._isStillOpen(self._fd)
        try:
            super().close()
        finally:
            # Signals that other threads wrote after the last read have their previous
            # effect, though without their siginfo.
            if self._isStillOpen(self._spare):
                for info in self._inPipe():
                    os.kill(os.getpid(), info.signo)
                os.close(self._spare)
            if self._isStillOpen(self._writer):
                os.close(self._writer)

    def _isStillOpen(self, end: int) -> bool:
        """
        Return whether a number still belongs to this end of the pipe.

        Other code may have closed it, and opened another file.
        """
        try:
            return _fileOf(end) == self._files[end]
        except OSError:
            return False
