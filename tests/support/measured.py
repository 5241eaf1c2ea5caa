"""
Save the coverage of a daemon before it kills itself by a signal, or upgrades.

twistd ends in this way.  The plugin of L{tests.support.daemons} imports this module
in the daemon.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

_kill, _execve = os.kill, os.execve
_user = os.getuid()


def _save() -> None:
    # A Python handler that interrupts saving would be measured, and deadlock.
    mask = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    # Where nothing is measured, daemons start without importing it.
    coverage = sys.modules.get("coverage")
    measuring = coverage and coverage.Coverage.current()
    # After setuid(2) the directory may not be writable.
    if measuring and os.getuid() == _user:
        measuring.save()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def kill(pid: int, signo: int) -> None:
    """
    Save the coverage, and send the signal.
    """
    if pid == os.getpid():
        _save()
    _kill(pid, signo)


def execve(path: Any, arguments: Any, environment: Any) -> None:
    """
    Save the coverage of a supervisor, and execute its next program.
    """
    if "TXSIGNALFD_INHERITANCE" in environment:
        _save()
    _execve(path, arguments, environment)


os.kill = kill
os.execve = execve  # type: ignore[assignment]
