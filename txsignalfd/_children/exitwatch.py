# -*- test-case-name: tests.children.test_exitwatch -*-
"""
L{Ends}: which of many children have ended, at a cost that does not grow with
how many there are.

Theory
======

One SIGCHLD may stand for many ends, and it names one of them.  To find the
others there are three ways, and each has its price:

  - to ask for each child by itself (waitpid(2), as Twisted does): a system
    call for each living child, at each end;
  - to ask for any child (C{waitid(P_ALL)} with C{WNOWAIT}): one call, in
    which the kernel walks through all children, and it always gives the first
    that it finds.  If that one's owner leaves it lying, it hides the others;
  - pidfds (pidfd_open(2)) in an epoll(7): one call, which costs what there is
    to be told, and knows of no other child; but each child costs a descriptor.

So each child has its pidfd as long as the process can spare the descriptors.
Those that have none (an older kernel, or no more room) are asked for by the
second way, and where a foreign child is in its way by the first.  By the first
way alone those that others wait for: after that the second finds nothing.

A pidfd is open until whoever is told has looked: it still names its child when
the number is another's.  It is readable too early for a child that a debugger
has: that one's status can be had only later, and so it is asked for from then
on.

A pidfd in the epoll outlives its number here when a forked child has a copy,
so it is always taken out before it is closed.

Rejected: a reader in the reactor for each pidfd (a select reactor has no room
for them, and each of them costs a turn); the epoll as a reader (an end would
come before its SIGCHLD, and only children that are met already would be told).
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

#: So many of the numbers that RLIMIT_NOFILE allows are left to others.
SPARED: Final = 256

#: select(2) knows no higher numbers than those below this one.
_FD_SETSIZE: Final = 1024


def peek(pid: int, pidfd: int = -1) -> SigInfo | None:
    """
    Look at the end of a child, and leave its status to whoever waits for it.

    @param pidfd: Its pidfd, or -1.
    @return: What its SIGCHLD says, or C{None} while it has not ended.
    @raise ChildProcessError: When it is no child of this process, or somebody
        has waited for it.
    @raise OSError: For what is no process id.
    """
    record = ffi.new("struct txs_siginfo *")
    try:
        found = lib.txs_peek_child(pid, pidfd, record)
    except OverflowError as error:
        raise OSError(errno.EINVAL, f"process {pid}: {error}") from error
    if found == -1:
        raise OSError(ffi.errno, f"process {pid}: {os.strerror(ffi.errno)}")
    return parse(ffi.buffer(record, SIGINFO_SIZE)[:])[0] if found else None


def findEnded() -> int | None:
    """
    The first child that has ended, and that nobody has waited for.
    """
    record = ffi.new("struct txs_siginfo *")
    if lib.txs_peek_any_child(record) == -1:
        # ECHILD: there is none.
        return None
    return record.pid or None


def isRunning(pid: int) -> bool:
    """
    Whether this is a child of ours that has not ended.
    """
    try:
        return peek(pid) is None
    except ChildProcessError:
        return False


def _openPidfd(pid: int) -> int | None:
    """
    A pidfd, if there is one to be had.
    """
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARED
    try:
        fd = os.pidfd_open(pid)
        if _FD_SETSIZE - SPARED <= fd < _FD_SETSIZE < most:
            fd = _moveUp(fd)
    # Before Linux 5.3, or where the C library's headers were older than that.
    except (OSError, AttributeError):
        return None
    if fd < most:
        return fd
    os.close(fd)
    return None


def _moveUp(fd: int) -> int:
    """
    What is left of the low numbers is for those who need them.
    """
    try:
        return fcntl(fd, F_DUPFD_CLOEXEC, _FD_SETSIZE)
    finally:
        os.close(fd)


class Ends:
    """
    A set of children, each of which is told once when it has ended.  Use it
    from one thread.  It waits for none: their statuses stay where they are.
    """

    def __init__(self) -> None:
        self._epoll: select.epoll | None = None
        self._pidfds: dict[int, int] = {}
        self._pids: dict[int, int] = {}
        #: The children that are asked for, and whether they are ours alone.
        self._asked: dict[int, bool] = {}
        self._unseen = 0

    def add(self, pid: int, ours: bool) -> None:
        """
        Tell of this child's end, also when it has ended already.  One that
        had the same number before is forgotten.

        @param pid: Its process id.
        @param ours: Whether nobody waits for it before it was told.
        """
        self.discard(pid)
        fd = _openPidfd(pid)
        if fd is None:
            self._asked[pid] = ours
            return
        try:
            if self._epoll is None:
                self._epoll = select.epoll()
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLONESHOT)
        except OSError:  # no descriptor left, or /proc/sys/fs/epoll/max_user_watches
            os.close(fd)
            self._asked[pid] = ours
            return
        self._pidfds[pid] = fd
        self._pids[fd] = pid

    def addAgain(self, pid: int) -> None:
        """
        Tell once more of a child that has been told: its status could not be
        had yet.

        @raise ChildProcessError: When somebody else has had it.
        """
        self.peek(pid)
        self._asked[pid] = False

    def discard(self, pid: int) -> None:
        """
        Tell of this child no more.
        """
        self._asked.pop(pid, None)
        fd = self._pidfds.pop(pid, None)
        if fd is not None:
            assert self._epoll is not None
            del self._pids[fd]
            self._epoll.unregister(fd)
            os.close(fd)

    def peek(self, pid: int) -> SigInfo | None:
        """
        Look at the end of a child of these, as L{peek} does; of that child,
        and not of another that has its number by now, if it has a pidfd.
        """
        return peek(pid, self._pidfds.get(pid, -1))

    def ended(self) -> Iterator[int]:
        """
        The children that have ended, each told once.  They stay in the set
        until they are discarded.
        """
        while self._pids:
            assert self._epoll is not None
            ready = [(fd, self._pids[fd]) for fd, _ in self._epoll.poll(0)]
            if not ready:
                break
            for fd, pid in ready:
                if self._pids.get(fd) == pid:  # or it was discarded meanwhile
                    yield pid
        if self._asked:
            yield from self._endedOfAsked()

    def _endedOfAsked(self) -> Iterator[int]:
        yield from self._askedOneByOne(ours=False)
        while first := findEnded():
            if not self._asked.get(first):
                break  # it stands before the others
            del self._asked[first]
            yield first
        else:
            # Some of ours may have been waited for without having been told:
            # see to them now and then, at the cost of one for each time.
            self._unseen += 1
            if self._unseen < len(self._asked):
                return
        self._unseen = 0
        yield from self._askedOneByOne(ours=True)

    def _askedOneByOne(self, ours: bool) -> Iterator[int]:
        asked = [pid for pid, each in self._asked.items() if each is ours]
        for pid in asked:
            if self._asked.get(pid) is ours and not isRunning(pid):
                del self._asked[pid]
                yield pid

    def close(self) -> None:
        """
        Forget all of them.
        """
        self._asked.clear()
        for pid in list(self._pidfds):
            self.discard(pid)
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None
