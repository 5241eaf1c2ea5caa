# -*- test-case-name: tests.proc.test_sender -*-
"""
Who has sent a signal, as far as the system can tell.
"""

from __future__ import annotations

import errno
import os

from txsignalfd.siginfo import SigInfo, describe


def commandOf(pid: int) -> str | None:
    """
    The command that a process runs, cut to 15 bytes as the kernel keeps it:
    proc_pid_comm(5).

    @return: C{None} where that cannot be told, as when it has ended.
    """
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
            return comm.read().rstrip("\n")
    except OSError:
        return None


def senderCommand(info: SigInfo) -> str | None:
    """
    The command of a signal's sender; C{None} where nobody vouches for its pid.
    """
    sender = info.sender
    return commandOf(sender.pid) if sender and sender.vouched else None


def describeWithCommand(info: SigInfo) -> str:
    """
    A line for an operator:
    C{SIGHUP from pid 4242 (bash, uid 1000) by kill}.
    """
    return describe(info, senderCommand(info))


def hasTerminal() -> bool:
    """
    Whether this process has a controlling terminal, and that has not closed:
    tty(4).
    """
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK))
    except OSError as error:
        # That no descriptor is left says nothing of the terminal.
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return True


def isFromLeader(info: SigInfo) -> bool:
    """
    Whether the leader of our session has sent it, as the shell in a terminal.
    """
    sender = info.sender
    return bool(sender and sender.vouched and sender.pid == os.getsid(0))
