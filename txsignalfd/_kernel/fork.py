# -*- test-case-name: tests.kernel.test_spawn -*-
"""
Have Python and Twisted start their children by fork(2) while a signal is
watched, and tell who has been forked.

Only fork(2) runs code of ours in the child, which gives the child the mask and
the dispositions that the process had before.  C{os.fork} and C{multiprocessing}
use it, and C{subprocess} may use vfork(2) or posix_spawn(3), for speed.  Its
documentation names the switches that turn both off.  Twisted's reactors use
posix_spawn(3), and have a switch too: for all reactors of the process, as any
may be in a thread that blocks what another's dispatcher watches.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

#: Twisted's switch, an attribute of a reactor that says whether never to use
#: posix_spawn(3).  Private to Twisted, and the only one that it has.
FORK_ONLY: Final = "_neverUseSpawn"

#: What the switches were; C{None} for one that was not there.
_before: list[tuple[object, str, bool | None]] = []
_told: set[Callable[[], None]] = set()


def tellForks(function: Callable[[], None]) -> None:
    """
    Call a function in each child of C{os.fork} from now on.  That cannot be
    taken back, and is done once.
    """
    if function not in _told:
        _told.add(function)
        os.register_at_fork(after_in_child=function)


def switchToFork() -> None:
    """
    Turn the switches.
    """
    import subprocess

    from twisted.internet.base import ReactorBase

    for place, name, value in (
        (subprocess, "_USE_VFORK", False),
        (subprocess, "_USE_POSIX_SPAWN", False),
        (ReactorBase, FORK_ONLY, True),
    ):
        _before.append((place, name, getattr(place, name, None)))
        setattr(place, name, value)


def switchBack() -> None:
    """
    Give them back as they were.
    """
    for place, name, value in _before:
        if value is None:
            delattr(place, name)
        else:
            setattr(place, name, value)
    _before.clear()


class WatchedByParent(RuntimeError):
    """
    A forked child has used a descriptor or a dispatcher of its parent.
    """


def checkIsParent(pid: int) -> None:
    """
    See that this is the process that has taken something.

    @param pid: That process.
    @raise WatchedByParent: When it is a child of it.
    """
    if os.getpid() != pid:
        raise WatchedByParent(
            f"process {pid} watches these signals, and this is its forked"
            f" child {os.getpid()}: make a reactor and a dispatcher of your own, or"
            " watch after the fork. twistd forks before it starts services, and"
            " after it has made them"
        )
