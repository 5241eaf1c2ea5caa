# -*- test-case-name: tests.test_siginfo -*-
"""
Where a signal came from: L{Sender} and L{Child}.
"""

from __future__ import annotations

from signal import Signals
from typing import NamedTuple


class Sender(NamedTuple):
    """
    The process that sent a signal.

    @ivar pid: Its process id, as it is numbered here, or 0 where it cannot be
        named: a process outside this pid namespace, or a signal whose siginfo
        the kernel had no room for (RLIMIT_SIGPENDING).
    @ivar uid: Its real user id; nothing when C{pid} is 0.
    @ivar vouched: Whether the kernel wrote C{pid} and C{uid}.  Where it did
        not, as with sigqueue(3), they are what the sender says of itself.
    """

    pid: int
    uid: int
    vouched: bool


class Child(NamedTuple):
    """
    What happened to a child, as a C{SIGCHLD} tells it.

    Of several children that end together only one is told: to learn of each,
    wait for each.

    @ivar pid: The child's process id.
    @ivar exitCode: What it gave to exit(3), or C{None} if it did not exit.
    @ivar signal: The signal that killed, stopped, trapped or continued it, or
        C{None} if it exited.
    @ivar coreDumped: Whether it left a core dump.
    @ivar userTime: The CPU time it used, in seconds.
    @ivar systemTime: The CPU time the system used for it, in seconds.
    """

    pid: int
    exitCode: int | None
    signal: Signals | int | None
    coreDumped: bool
    userTime: float
    systemTime: float
