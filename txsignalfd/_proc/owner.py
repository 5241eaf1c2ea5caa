# -*- test-case-name: tests.proc.test_owner -*-
"""
Find out whether the process that a lock file names has made the file.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Final

#: Seconds by which the times of files and of processes may differ.
_PRECISION: Final = 0.1


def hasEnded(pid: int, path: str | bytes) -> bool:
    """
    Return whether the process that made a file has ended.

    Another process may have its pid since, and in a container that is started
    again the same program often has.

    @param pid: The pid of the process, as the file has it.
    @param path: The file, or the symbolic link.  This process has not made it.
    @return: C{False} also if it cannot be determined.
    """
    if pid == os.getpid():
        return True
    with suppress(OSError):
        # It may show another pid namespace.
        if os.readlink("/proc/self") != str(os.getpid()):
            return False
        with open(f"/proc/{pid}/stat", "rb") as stat:
            # The name of the program may contain anything: proc_pid_stat(5).
            state, *fields = stat.read().rpartition(b")")[2].split()
        # Ticks after the boot.
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[18]) / os.sysconf(
            "SC_CLK_TCK"
        )
        isYounger = time.time() - age > os.lstat(path).st_mtime + _PRECISION
        return state == b"Z" or isYounger
    return False
