"""
Coverage of a daemon that ends by a signal, as twistd's do: what was measured is
saved before.  Imported in the daemon, by the plugin of L{tests.support.daemons}.
"""

from __future__ import annotations

import os
import signal

import coverage

_kill = os.kill
_user = os.getuid()


def kill(pid: int, signo: int) -> None:
    """
    Save, and kill.
    """
    # A handler in Python that interrupts it would be measured, and wait for
    # ever for what is being saved.
    mask = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    measuring = coverage.Coverage.current()
    # Who has become nobody may not write there.
    if pid == os.getpid() and measuring is not None and os.getuid() == _user:
        measuring.save()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    _kill(pid, signo)


os.kill = kill
