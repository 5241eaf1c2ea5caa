# -*- test-case-name: tests.kernel.test_spawn -*-
"""
Start children that do not inherit the mask of watched signals, and detect them.

A child inherits the mask of the thread that starts it, through fork and exec.  Three
mechanisms restore the mask that the thread had before any signal was watched:

  - After fork(2), which C{os.fork} and C{multiprocessing} use, the C code restores mask
    and dispositions in the child.
  - C{subprocess} prefers vfork(2), after which no code of this package runs.  Its
    documentation names the switches that make it use fork(2).
  - posix_spawn(3), which C{reactor.spawnProcess} uses, accepts a mask for the child.
    Twisted does not pass one, so C{os.posix_spawn} and C{os.posix_spawnp} are replaced
    by functions that do, unless the caller does.

None of them costs more when signals are pending, and none delays a signal.

Rejected: to unblock the signals in the parent while it starts the child (everything
that is pending is delivered then, which takes seconds after a burst); to make Twisted
always fork (the cost of a fork grows with the process); to wrap
C{reactor.spawnProcess} (a caller may have stored the original method).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import Any

from txsignalfd._native.extension import lib

#: The attributes that are replaced, each with the value from before and the new one.
_replaced: list[tuple[object, str, object, object]] = []
_registered: set[Callable[[], None]] = set()


def callInForkedChildren(function: Callable[[], None]) -> None:
    """
    Call a function in each child of C{os.fork} from now on.

    This cannot be undone.  A function that is passed again is called only once.
    """
    if function not in _registered:
        _registered.add(function)
        os.register_at_fork(after_in_child=function)


def childMask() -> list[int]:
    """
    Return the signals that a child of this thread should block.
    """
    mask = lib.txs_child_mask()
    # Usually there are none, and just before a child is started the caches are empty.
    highest = mask.bit_length()
    return [signo for signo in range(1, highest + 1) if mask >> (signo - 1) & 1]


def _passingMask(posixSpawn: Callable[..., int]) -> Callable[..., int]:
    @wraps(posixSpawn)
    def passingMask(*args: Any, **kwargs: Any) -> int:
        kwargs.setdefault("setsigmask", childMask())
        return posixSpawn(*args, **kwargs)

    return passingMask


def replaceStarters() -> None:
    """
    Make C{subprocess} and posix_spawn(3) restore the mask in children.
    """
    import subprocess

    starters: list[tuple[object, str, object]] = [
        (subprocess, "_USE_VFORK", False),
        (subprocess, "_USE_POSIX_SPAWN", False),
        (os, "posix_spawn", _passingMask(os.posix_spawn)),
        (os, "posix_spawnp", _passingMask(os.posix_spawnp)),
    ]
    for owner, name, value in starters:
        _replaced.append((owner, name, getattr(owner, name), value))
        setattr(owner, name, value)


def restoreStarters() -> None:
    """
    Undo L{replaceStarters}, except what other code has replaced since.
    """
    for owner, name, before, value in _replaced:
        if getattr(owner, name) is value:
            setattr(owner, name, before)
    _replaced.clear()


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
