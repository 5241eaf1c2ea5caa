# -*- test-case-name: tests.children.test_exitwatch -*-
"""
L{ExitWatch}: find the children that have ended, however many are alive.

One SIGCHLD may stand for the ends of many children, and it names only one of
them.  There are three ways to find the others:

  - Ask for each child separately (waitpid(2), as Twisted does).  This costs a
    system call for each living child, at each SIGCHLD.
  - Ask for any child (C{waitid(P_ALL)} with C{WNOWAIT}).  This is one call, in
    which the kernel walks through all children and returns the first zombie.
    A zombie that its owner does not reap hides all others.
  - Poll pidfds (pidfd_open(2)) with epoll(7).  This is one call, whose cost
    depends only on the number of ends, but each child costs a descriptor.

So each child has a pidfd while the process can spare the descriptors.  A child
without a pidfd (on an older kernel, or when descriptors are short) is found in
the second way, and in the first way if a foreign zombie is the first or if
other code may reap the child: the second way does not see reaped children.

A pidfd stays open until its child is discarded.  Until then it identifies that
child, even if another process has the same process id by now.  A pidfd becomes
readable too early for a child that is traced by a debugger.  Its status is
available only later, so it is asked for separately from then on.

A pidfd is removed from the epoll before it is closed, because a forked child
may have a copy, which would keep it registered.

Rejected: one reader in the reactor for each pidfd (a select reactor has no room
for them, and each costs a turn); the epoll as a reader (an end would be
reported before its SIGCHLD, and only for children that are known already).
"""

from __future__ import annotations

import errno
import os
import resource
import select
from collections.abc import Iterator
from fcntl import F_DUPFD_CLOEXEC, fcntl
from typing import Final

from txsignalfd._native.extension import ffi, lib
from txsignalfd.siginfo import SIGINFO_SIZE, SigInfo, parse

#: How many of the descriptors that RLIMIT_NOFILE allows are left to other code.
RESERVED: Final = 256

#: select(2) accepts only descriptors below this number.
_FD_SETSIZE: Final = 1024


def peek(pid: int, pidfd: int = -1) -> SigInfo | None:
    """
    Return how a child has ended, without taking its exit status.

    @param pidfd: The child's pidfd, or -1.
    @return: The contents of its SIGCHLD, or C{None} while it has not ended.
    @raise ChildProcessError: When it is not a child of this process, or has
        been reaped.
    @raise OSError: For a number that is not a process id.
    """
    record = ffi.new("struct txs_siginfo *")
    try:
        found = lib.txs_peek_child(pid, pidfd, record)
    except OverflowError as error:
        raise OSError(errno.EINVAL, f"process {pid}: {error}") from error
    if found == -1:
        raise OSError(ffi.errno, f"process {pid}: {os.strerror(ffi.errno)}")
    return parse(ffi.buffer(record, SIGINFO_SIZE)[:])[0] if found else None


def firstZombie() -> int | None:
    """
    Return the first child that has ended and has not been reaped.
    """
    record = ffi.new("struct txs_siginfo *")
    if lib.txs_peek_any_child(record) == -1:  # ECHILD: there are no children
        return None
    return record.pid or None


def isRunning(pid: int) -> bool:
    """
    Return whether this is a child of this process that has not ended.
    """
    try:
        return peek(pid) is None
    except ChildProcessError:
        return False


def _openPidfd(pid: int) -> int | None:
    """
    Open a pidfd, unless descriptors are short or the system has no pidfds.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED
    try:
        fd = os.pidfd_open(pid)
        if _FD_SETSIZE - RESERVED <= fd < _FD_SETSIZE < limit:
            fd = _moveUp(fd)
    # Before Linux 5.3, or where the C library's headers are older than that.
    except (OSError, AttributeError):
        return None
    if fd < limit:
        return fd
    os.close(fd)
    return None


def _moveUp(fd: int) -> int:
    """
    Leave a low number to code that uses select(2).
    """
    try:
        return fcntl(fd, F_DUPFD_CLOEXEC, _FD_SETSIZE)
    finally:
        os.close(fd)


class ExitWatch:
    """
    A set of children, each of which is reported once when it has ended.

    The children are not reaped.  Use it from one thread.
    """

    def __init__(self) -> None:
        self._epoll: select.epoll | None = None
        self._pidfds: dict[int, int] = {}
        self._pids: dict[int, int] = {}
        #: The children without a pidfd, and whether each is exclusive.
        self._polled: dict[int, bool] = {}
        self._roundsSinceSweep = 0

    def add(self, pid: int, exclusive: bool) -> None:
        """
        Add a child, which may have ended already.  It replaces an earlier child
        that had the same process id.

        @param pid: Its process id.
        @param exclusive: Whether no other code reaps it before it is reported.
        """
        self.discard(pid)
        fd = _openPidfd(pid)
        if fd is None:
            self._polled[pid] = exclusive
            return
        try:
            if self._epoll is None:
                self._epoll = select.epoll()
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLONESHOT)
        except OSError:  # no descriptor left, or /proc/sys/fs/epoll/max_user_watches
            os.close(fd)
            self._polled[pid] = exclusive
            return
        self._pidfds[pid] = fd
        self._pids[fd] = pid

    def reportAgain(self, pid: int) -> None:
        """
        Report a child once more, because its status was not available yet.

        @raise ChildProcessError: When other code has reaped it.
        """
        self.peek(pid)
        self._polled[pid] = False

    def discard(self, pid: int) -> None:
        """
        Remove a child, if it is in the set.
        """
        self._polled.pop(pid, None)
        fd = self._pidfds.pop(pid, None)
        if fd is not None:
            assert self._epoll is not None
            del self._pids[fd]
            self._epoll.unregister(fd)
            os.close(fd)

    def peek(self, pid: int) -> SigInfo | None:
        """
        Do what the function L{peek} does, for a child in the set.  If it has a
        pidfd, another process with the same process id is not confused with it.
        """
        return peek(pid, self._pidfds.get(pid, -1))

    def ended(self) -> Iterator[int]:
        """
        Iterate over the children that have ended and are not reported yet.
        They stay in the set until they are discarded.
        """
        while self._pids:
            assert self._epoll is not None
            ready = [(fd, self._pids[fd]) for fd, _ in self._epoll.poll(0)]
            if not ready:
                break
            for fd, pid in ready:
                if self._pids.get(fd) == pid:  # not discarded meanwhile
                    yield pid
        if self._polled:
            yield from self._endedPolled()

    def _endedPolled(self) -> Iterator[int]:
        yield from self._sweep(exclusive=False)
        while first := firstZombie():
            if not self._polled.get(first):
                break  # it hides the others
            del self._polled[first]
            yield first
        else:
            # Exclusive children may have been reaped nevertheless.  A sweep once
            # in as many rounds as there are children costs one call for each round.
            self._roundsSinceSweep += 1
            if self._roundsSinceSweep < len(self._polled):
                return
        self._roundsSinceSweep = 0
        yield from self._sweep(exclusive=True)

    def _sweep(self, exclusive: bool) -> Iterator[int]:
        polled = [pid for pid, each in self._polled.items() if each is exclusive]
        for pid in polled:
            if self._polled.get(pid) is exclusive and not isRunning(pid):
                del self._polled[pid]
                yield pid

    def close(self) -> None:
        """
        Remove all children.
        """
        self._polled.clear()
        for pid in list(self._pidfds):
            self.discard(pid)
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None
