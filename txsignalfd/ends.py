# -*- test-case-name: tests.test_ends -*-
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

A pidfd in the epoll outlives its number here when a forked child has a copy,
so it is always taken out before it is closed.

Rejected: a reader in the reactor for each pidfd (a select reactor has no room
for them, and each of them costs a turn); the epoll as a reader (an end would
come before its SIGCHLD, and only children that are met already would be told).
"""

from __future__ import annotations

import os
import resource
import select
from collections.abc import Iterator
from typing import Final

from txsignalfd._native import ffi, lib
from txsignalfd._record import SIGINFO_SIZE
from txsignalfd.siginfo import SigInfo, parse

#: So many of the numbers that RLIMIT_NOFILE allows are left to others.
SPARED: Final = 256

_LOOK: Final = os.WEXITED | os.WNOHANG | os.WNOWAIT


def peek(pid: int) -> SigInfo | None:
    """
    Look at the end of a child, and leave its status to whoever waits for it.

    @return: What its SIGCHLD says, or C{None} while it has not ended.
    @raise ChildProcessError: When it is no child of this process, or somebody
        has waited for it.
    @raise OSError: For what is no process id.
    """
    record = ffi.new("struct txs_siginfo *")
    found = lib.txs_peek_child(pid, record)
    if found == -1:
        raise OSError(ffi.errno, f"process {pid}: {os.strerror(ffi.errno)}")
    return parse(ffi.buffer(record, SIGINFO_SIZE)[:])[0] if found else None


def findEnded() -> int | None:
    """
    The first child that has ended, and that nobody has waited for.
    """
    try:
        found = os.waitid(os.P_ALL, 0, _LOOK)
    except ChildProcessError:
        return None
    return found and found.si_pid


def isRunning(pid: int) -> bool:
    """
    Whether this is a child of ours that has not ended.
    """
    try:
        return os.waitid(os.P_PID, pid, _LOOK) is None
    except ChildProcessError:
        return False


def _openPidfd(pid: int) -> int | None:
    """
    A pidfd, if there is one to be had.
    """
    try:
        fd = os.pidfd_open(pid)
    # Before Linux 5.3, or where the C library's headers were older than that.
    except (OSError, AttributeError):
        return None
    if fd < resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARED:
        return fd
    os.close(fd)
    return None


class Ends:
    """
    A set of children, each of which is told once when it has ended.  Use it
    from one thread.  It waits for none: their statuses stay where they are.
    """

    def __init__(self) -> None:
        self._epoll: select.epoll | None = None
        self._pidfds: dict[int, int] = {}
        self._pids: dict[int, int] = {}
        #: The children that have no pidfd, and whether they are ours alone.
        self._without: dict[int, bool] = {}
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
            self._without[pid] = ours
            return
        try:
            if self._epoll is None:
                self._epoll = select.epoll()
            self._epoll.register(fd, select.EPOLLIN)
        except OSError:  # no descriptor left, or /proc/sys/fs/epoll/max_user_watches
            os.close(fd)
            self._without[pid] = ours
            return
        self._pidfds[pid] = fd
        self._pids[fd] = pid

    def discard(self, pid: int) -> None:
        """
        Tell of this child no more.
        """
        self._without.pop(pid, None)
        fd = self._pidfds.pop(pid, None)
        if fd is not None:
            assert self._epoll is not None
            del self._pids[fd]
            self._epoll.unregister(fd)
            os.close(fd)

    def ended(self) -> Iterator[int]:
        """
        The children that have ended.  They are in the set no more.
        """
        while self._pids:
            assert self._epoll is not None
            ready = [self._pids[fd] for fd, _ in self._epoll.poll(0)]
            if not ready:
                break
            # All of them first: between two of them anything may happen here.
            for pid in ready:
                self.discard(pid)
            yield from ready
        if self._without:
            yield from self._endedWithout()

    def _endedWithout(self) -> Iterator[int]:
        yield from self._askedOneByOne(ours=False)
        while first := findEnded():
            if first not in self._without:
                break  # it stands before the others
            self.discard(first)
            yield first
        else:
            # Some of ours may have been waited for without having been told:
            # see to them now and then, at the cost of one for each time.
            self._unseen += 1
            if self._unseen < len(self._without):
                return
        self._unseen = 0
        yield from self._askedOneByOne(ours=True)

    def _askedOneByOne(self, ours: bool) -> Iterator[int]:
        asked = [pid for pid, each in self._without.items() if each is ours]
        for pid in asked:
            if pid in self._without and not isRunning(pid):
                self.discard(pid)
                yield pid

    def close(self) -> None:
        """
        Forget all of them.
        """
        self._without.clear()
        for pid in list(self._pidfds):
            self.discard(pid)
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None
