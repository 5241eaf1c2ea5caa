# -*- test-case-name: tests.twistd.test_output -*-
"""
L{Output}: write lines without ever blocking the reactor.

Theory
======

A write(2) to a pipe, a terminal or a socket blocks while its reader does not read,
and so does syslog(3).  In the reactor's thread that would stop the whole daemon: no
signal, not even SIGTERM, would be handled.  So a thread writes, and the reactor only
appends lines to a queue.  The queue has a limit.  Lines beyond it are dropped and
counted, and the log says how many, as soon as the reader reads again.

When the reactor has stopped, each line is waited for, but only for a short time in
all.  Then the process ends, even while the thread is blocked in write(2).  For that
reason the thread uses the descriptor: Python aborts if a thread holds the lock of a
file object at that time.

Rejected: O_NONBLOCK, which belongs to the open file description, and would affect
the shell and every other process that has it; opening C{/proc/self/fd/1} again
(impossible for a socket, and after C{--uid}); poll(2) before each write (another
process may fill the pipe in between).
"""

from __future__ import annotations

import atexit
import os
import select
import stat
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, TypeGuard

from twisted.logger import Logger

_log: Final = Logger("txsignalfd.output.Output")

#: The most bytes that wait for a reader.
LIMIT: Final = 2**20

#: Seconds that a process waits for its readers, in all, before it ends.
PATIENCE: Final = 1.0


def descriptorOf(file: Any) -> int | None:
    """
    Return the descriptor of an open file, or C{None} for any other object.
    """
    try:
        number = file.fileno()
    except (AttributeError, ValueError):
        # Not a file, a file in memory, or a closed file.
        return None
    return number if isinstance(number, int) else None


def mayBlock(descriptor: int | None) -> TypeGuard[int]:
    """
    Return whether a write may wait for a reader: of a pipe, terminal or socket.
    """
    if descriptor is None:
        return False
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)


class Output:
    """
    A file that is written by a thread of its own.

    Its methods may be called in any thread, and never block while the reactor runs.
    """

    def __init__(
        self,
        descriptor: int,
        name: str,
        failed: Callable[[bytes, OSError], object] | None = None,
    ) -> None:
        """
        @param descriptor: The descriptor to write to.
        @param name: The name of the file for messages.
        @param failed: Called in the thread with each line that cannot be written,
            and the reason.  By default such lines are dropped.
        """
        self.name = name
        self._descriptor = descriptor
        self._failed = failed
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        self._thread: threading.Thread | None = None
        #: When the process stops waiting for the reader, by the monotonic clock.
        self._deadline: float | None = None
        _outputs.append(self)

    def fileno(self) -> int:
        """
        Return the descriptor.
        """
        return self._descriptor

    def write(self, text: str | bytes) -> None:
        """
        Append lines to the queue, or drop them if the queue is full.
        """
        data = text.encode(errors="backslashreplace") if isinstance(text, str) else text
        if os.getpid() != self._pid:
            # A forked child has no such thread.
            self._put(data)
            return
        with self._changed:
            if self._queue and self._size + len(data) > LIMIT:
                self._dropped += _linesIn(data)
                return
            self._queue.append(data)
            self._size += len(data)
            if self._thread is None:
                name = f"writes to {self.name}"
                self._thread = threading.Thread(
                    target=self._run, name=name, daemon=True
                )
                self._thread.start()
            self._changed.notify_all()
            if self._deadline is not None:
                self._waitUntilWritten(self._deadline)

    def flush(self) -> None:
        """
        Do nothing: each line is written as soon as possible.
        """

    def wait(self) -> None:
        """
        Wait until every line is written, but not for long.
        """
        with self._changed:
            self._waitUntilWritten(monotonic() + PATIENCE)

    def finish(self) -> None:
        """
        Wait until every line is written, but not for long.

        From now on L{write} waits too.
        """
        if os.getpid() != self._pid:
            return
        with self._changed:
            if self._deadline is None:
                self._deadline = monotonic() + PATIENCE
            self._waitUntilWritten(self._deadline)
            lost = sum(map(_linesIn, self._queue)) + self._dropped
            self._dropped = 0
        if lost:
            self._logDropped(lost)

    def close(self) -> None:
        """
        End the thread when every line is written.
        """
        with self._changed:
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        if thread is not None:
            thread.join()
        _outputs.remove(self)

    def _waitUntilWritten(self, deadline: float) -> None:
        self._changed.wait_for(lambda: not self._queue, max(0, deadline - monotonic()))

    def _run(self) -> None:
        while (data := self._next()) is not None:
            try:
                self._put(data)
            except OSError as error:
                if self._failed is not None:
                    self._failed(data, error)
            with self._changed:
                self._queue.popleft()
                self._size -= len(data)
                dropped = 0
                if self._size < LIMIT / 2:
                    dropped, self._dropped = self._dropped, 0
                self._changed.notify_all()
            if dropped:
                self._logDropped(dropped)

    def _next(self) -> bytes | None:
        """
        Return the next line, which stays in the queue, or C{None} after L{close}.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._thread is None)
            return self._queue[0] if self._queue else None

    def _put(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                # Another process has set O_NONBLOCK.
                select.select([], [self._descriptor], [])

    def _logDropped(self, count: int) -> None:
        _log.warn(
            "{name} was not read fast enough: {count} lines were dropped",
            name=self.name,
            count=count,
        )


def _linesIn(data: bytes) -> int:
    # Lines of workers are written together.  A piece without an end is one, too.
    return data.count(b"\n") or 1


class SyslogOutput(Output):
    """
    Sends lines to syslog, which blocks while its socket is full.
    """

    def __init__(self) -> None:
        super().__init__(-1, "syslog")

    def syslog(self, priority: int, line: str) -> None:
        """
        Do the same as the function of the module C{syslog}, in the thread.
        """
        self.write(f"{priority} {line}")

    def _put(self, data: bytes) -> None:
        import syslog  # --syslog of twistd has loaded it

        # syslog(3) would end the line at a NUL, and Python 3.13 refuses one.
        priority, _, line = data.decode().replace("\0", "\\0").partition(" ")
        syslog.syslog(int(priority), line)


_outputs: Final[list[Output]] = []


def flushAll() -> None:
    """
    Wait until everything is written, but not for long.  Later lines do not wait.
    """
    for output in _outputs:
        output.wait()


@atexit.register
def finishAll() -> None:
    """
    Wait until everything is written, but not for long.
    """
    for output in _outputs:
        output.finish()


def finishWith(reactor: Any) -> None:
    """
    Wait for the readers of every L{Output} when a reactor has stopped.
    """
    reactor.addSystemEventTrigger("after", "shutdown", finishAll)
