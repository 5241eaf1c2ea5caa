"""
Save the coverage of a daemon before it kills itself by a signal.

twistd ends in this way.  The plugin of L{tests.support.daemons} imports this module
in the daemon.
"""

from __future__ import annotations

import os
import signal
import sys

_kill = os.kill
_user = os.getuid()


def kill(pid: int, signo: int) -> None:
    """
    Save the coverage, and send the signal.
    """
    # A Python handler that interrupts saving would be measured, and deadlock.
    mask = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    # Where nothing is measured, daemons start without importing it.
    coverage = sys.modules.get("coverage")
    measuring = coverage and coverage.Coverage.current()
    # After setuid(2) the directory may not be writable.
    if pid == os.getpid() and measuring and os.getuid() == _user:
        measuring.save()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    _kill(pid, signo)


os.kill = kill
