# -*- test-case-name: tests.kernel.test_pipe -*-
"""
L{SignalPipe}: what a L{SignalDescriptor} is, where there is no signalfd(2).

The handler in C writes a record of each signal to a pipe; C{_native/pipe.c} tells
how, and why nothing is lost when it is full.  Here is the other end.

Like with a signalfd, a signal is blocked in the thread that watches it, so that
it waits in the kernel until somebody reads.  L{SignalPipe.claimForThread} is called in
the thread in which the reactor runs: that thread I{listens}, which is that it
alone has the signals unblocked and takes them from the kernel, in their order.
It stops before signals are given back, so that the kernel keeps what comes from
then on.

Rejected: to unblock only while the reactor waits (a reactor has no place for
that); to have the handler take them in whatever thread (see C{_native/pipe.c}).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

from txsignalfd._kernel.descriptor import RECORDS_PER_READ, SignalDescriptor
from txsignalfd._kernel.mask import ProcessMask
from txsignalfd._native.extension import ffi, lib
from txsignalfd.siginfo import SIGINFO_SIZE, SigInfo, parse


def _fileOf(fd: int) -> tuple[int, int]:
    """
    What tells one open file from another.
    """
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _newRecords() -> Any:
    """
    Room for what one read gives.
    """
    return ffi.new("struct txs_siginfo[]", RECORDS_PER_READ + lib.TXS_NSIG)


class SignalPipe(SignalDescriptor):
    """
    A pipe for a reactor, with the signals that its handler in C has got.

    Other descriptors are needed besides the one that is read: the end that is
    written to, and a second one to be read, lest a write raises C{SIGPIPE} when
    somebody has closed the first behind our back.
    """

    _room = lib.TXS_DEFERRED  # no pipe holds more

    def _open(self, signals: Collection[int]) -> int:
        self._listens = False
        self._withoutSiginfo = ffi.new("unsigned long *")
        self._records = _newRecords()
        with ExitStack() as undo:
            try:
                fd, self._writer = os.pipe()
            except OSError as error:
                raise OSError(error.errno, f"a pipe: {error.strerror}") from None
            undo.callback(os.close, self._writer)
            undo.callback(os.close, fd)
            self._spare = os.dup(fd)
            undo.callback(os.close, self._spare)
            ends = fd, self._spare, self._writer
            self._files = {end: _fileOf(end) for end in ends}
            os.set_blocking(fd, False)
            os.set_blocking(self._writer, False)
            self._mask = ProcessMask(self._keep, self._writer)
            self._mask.acquire(signals)
            undo.pop_all()
        return fd

    def _update(self, signals: Collection[int]) -> None:
        # The handler knows what is taken, and what is given back is given back
        # as it was: blocked, if we have unblocked it.
        lib.txs_pipe_pause(self._writer)

    @property
    def withoutSiginfo(self) -> int:
        """
        How many signals found no room anywhere.  Of those that came between
        two reads one is told for each number, without its siginfo.
        """
        return int(self._withoutSiginfo[0])

    def watch(self, signals: Iterable[int]) -> None:
        """
        See L{SignalDescriptor.watch}.  Whoever has replaced the handler since
        has it replaced again.
        """
        super().watch(signals)
        self._mask.claimForThread()
        self._listen()

    def unwatch(self, signals: Iterable[int]) -> None:
        """
        See L{SignalDescriptor.unwatch}.
        """
        super().unwatch(signals)
        if self._fd == -1:  # closed by a receiver
            return
        # What other threads had taken before it was given back.
        if left := list(self._inPipe()):
            self._kept.append(left)
            self.receiveDeferred()
        self._listen()

    def claimForThread(self) -> None:
        """
        See L{SignalDescriptor.claimForThread}.
        """
        super().claimForThread()
        self._listens = True
        self._listen()

    def _listen(self) -> None:
        if self._listens and self._fd != -1:
            lib.txs_pipe_claim(self._writer)

    def drain(self, last: bool = False) -> None:
        """
        See L{SignalDescriptor.drain}.
        """
        super().drain(last)
        if not last:
            self._listen()

    def receiveDeferred(self) -> int:
        """
        See L{SignalDescriptor.receiveDeferred}.
        """
        count = super().receiveDeferred()
        self._goOn()
        return count

    def _goOn(self) -> None:
        """
        There is room in the pipe, and nothing older than what will come.
        """
        if not self._kept and self._fd != -1:
            lib.txs_pipe_resume(self._writer)

    def _keep(self, infos: list[SigInfo]) -> None:
        # The pipe was full when they were kept, and what is in it is older.
        super()._keep([*self._inPipe(), *infos])

    def _inPipe(self) -> Iterator[SigInfo]:
        """
        What is in the pipe, also when it is closed.  For any thread.
        """
        records = _newRecords()  # the reactor's thread may read just now
        with suppress(BrokenPipeError):  # and then nobody can have written since
            while infos := parse(self._readFrom(self._spare, records)):
                yield from infos

    def _readFrom(self, fd: int, records: Any) -> bytes:
        count = lib.txs_pipe_read(
            fd, self._writer, records, RECORDS_PER_READ, self._withoutSiginfo
        )
        if count >= 0:
            return bytes(ffi.buffer(records, count * SIGINFO_SIZE))
        if ffi.errno == errno.EAGAIN:
            return b""
        raise OSError(ffi.errno, f"reading the pipe: {os.strerror(ffi.errno)}")

    def _receiveRead(self) -> int:
        self.checkProcess()  # in a forked child the pipe is its parent's
        try:
            infos = parse(self._readFrom(self._fd, self._records))
        except OSError:
            self._broken = True
            raise
        self._goOn()
        if infos:
            self._look(infos[0].signo)
            self._receiveInfos(infos)
        return len(infos)

    def _receivePending(self) -> int:
        lib.txs_pipe_fill(self._writer)
        return self._receiveRead()

    def close(self) -> None:
        """
        See L{SignalDescriptor.close}.
        """
        self.checkProcess()
        while self._kept:
            self.receiveDeferred()
        if self._fd == -1:
            return
        lib.txs_pipe_pause(self._writer)
        self._broken = not self._isStillOpen(self._fd)
        try:
            super().close()
        finally:
            # What other threads have taken since it was last read goes where
            # it would have gone without us, though without its siginfo.
            if self._isStillOpen(self._spare):
                for info in self._inPipe():
                    os.kill(os.getpid(), info.signo)
                os.close(self._spare)
            if self._isStillOpen(self._writer):
                os.close(self._writer)

    def _isStillOpen(self, end: int) -> bool:
        """
        Whether a number is still that end of the pipe, or was closed behind our
        back, and may be another file's by now.
        """
        try:
            return _fileOf(end) == self._files[end]
        except OSError:
            return False
