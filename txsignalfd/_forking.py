# -*- test-case-name: tests.test_spawn -*-
"""
Have Python start its children by fork(2) while a signal is watched.

Only fork(2) runs code of ours in the child, which gives the child the mask and
the dispositions that the process had before.  C{os.fork} and C{multiprocessing}
use it, and C{subprocess} may use vfork(2) or posix_spawn(3), for speed.  Its
documentation names the switches that turn both off.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

_SWITCHES: Final = ("_USE_VFORK", "_USE_POSIX_SPAWN")

#: What the switches were.
_before: dict[str, Any] = {}
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
    Turn the switches off.
    """
    import subprocess

    for name in _SWITCHES:
        _before[name] = getattr(subprocess, name)
        setattr(subprocess, name, False)


def switchBack() -> None:
    """
    Give them back as they were.
    """
    import subprocess

    for name, value in _before.items():
        setattr(subprocess, name, value)
    _before.clear()
