# -*- test-case-name: tests.kernel.test_spawn -*-
"""
Make Python and Twisted start children by fork(2), and detect forked children.

Only fork(2) runs code of this package in the child, which restores the mask and the
dispositions that the process had before any signal was watched.  C{os.fork} and
C{multiprocessing} use fork(2).  C{subprocess} prefers vfork(2) or posix_spawn(3),
and its documentation names the switches that disable both.  Twisted's reactors
prefer posix_spawn(3), and have a switch, too.  It is set for all reactors of the
process, because each may run in a thread that blocks signals of another reactor's
dispatcher.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

#: The attribute by which a reactor is told not to use posix_spawn(3).  It is private
#: to Twisted, which offers no other way.
FORK_ONLY: Final = "_neverUseSpawn"

#: The previous values of the switches; C{None} for one that did not exist.
_before: list[tuple[object, str, bool | None]] = []
_registered: set[Callable[[], None]] = set()


def callInForkedChildren(function: Callable[[], None]) -> None:
    """
    Call a function in each child of C{os.fork} from now on.

    This cannot be undone.  A function that is passed again is called only once.
    """
    if function not in _registered:
        _registered.add(function)
        os.register_at_fork(after_in_child=function)


def switchToFork() -> None:
    """
    Make C{subprocess} and all reactors use fork(2).
    """
    import subprocess

    from twisted.internet.base import ReactorBase

    for owner, name, value in (
        (subprocess, "_USE_VFORK", False),
        (subprocess, "_USE_POSIX_SPAWN", False),
        (ReactorBase, FORK_ONLY, True),
    ):
        _before.append((owner, name, getattr(owner, name, None)))
        setattr(owner, name, value)


def switchBack() -> None:
    """
    Undo L{switchToFork}.
    """
    for owner, name, value in _before:
        if value is None:
            delattr(owner, name)
        else:
            setattr(owner, name, value)
    _before.clear()


class WatchedByParent(RuntimeError):
    """
    A forked child used a descriptor or a dispatcher of its parent.
    """


def checkIsParent(pid: int) -> None:
    """
    Check that this process is the one that acquired signals.

    @param pid: The id of the process that acquired them.
    @raise WatchedByParent: If this is a forked child of that process.
    """
    if os.getpid() != pid:
        raise WatchedByParent(
            f"process {pid} watches these signals, and this is its forked child"
            f" {os.getpid()}: make a new reactor and dispatcher in the child, or watch"
            " after the fork. twistd forks after it has made services, and before it"
            " starts them"
        )
