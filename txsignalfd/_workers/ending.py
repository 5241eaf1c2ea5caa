# -*- test-case-name: tests.workers.test_cgroup -*-
"""
Describe how a worker has ended.
"""

from __future__ import annotations

import os
import re
from signal import SIGKILL
from typing import Any, Final

from txsignalfd._native.names import signalName

#: The text before the reason in the last line of a command that could not start.
_PREFIX: Final = re.compile(r"(\w+ (signalfd|supervise): )?(not started: )?")


def lastReason(output: str) -> str:
    """
    Return the reason for which a command has ended: the last line of its output.
    """
    _, _, last = output.rstrip().rpartition("\n")
    return _PREFIX.sub("", last, count=1)


def describeEnd(reason: Any, isOutOfMemory: bool = False) -> str:
    """
    Describe the end of a process: C{was killed by SIGSEGV, and dumped core}.

    @param reason: Twisted's C{ProcessDone} or C{ProcessTerminated}.
    @param isOutOfMemory: Whether the kernel has killed a process for its memory.
    """
    signo = reason.signal
    if signo is None:
        return f"has exited with status {reason.exitCode}"
    text = f"was killed by {signalName(signo)}"
    if os.WCOREDUMP(reason.status):
        return f"{text}, and dumped core"
    if isOutOfMemory and signo == SIGKILL:
        return f"{text}: the cgroup is out of memory"
    return text
