# -*- test-case-name: tests.proc.test_sender -*-
"""
The sender of a signal, and the terminal of this process.
"""

from __future__ import annotations

import errno
import os

from txsignalfd._proc.quoting import quoted
from txsignalfd.siginfo import SigInfo, describe


def commandOf(pid: int) -> str | None:
    """
    Return the name of the command that a process runs: proc_pid_comm(5).

    The kernel stores at most 15 bytes of it.

    @return: C{None} if it cannot be read, for example because the process has
        ended.
    """
    try:
        with open(f"/proc/{pid}/comm", "rb") as comm:
            return comm.read().decode(errors="replace").removesuffix("\n")
    except OSError:
        return None


def senderCommand(info: SigInfo) -> str | None:
    """
    Return the command of a signal's sender.

    @return: C{None} if it is unknown, or if the kernel does not vouch for the pid.
    """
    sender = info.sender
    return commandOf(sender.pid) if sender and sender.vouched else None


def describeWithCommand(info: SigInfo) -> str:
    """
    Describe a signal: C{SIGHUP from pid 4242 (bash, uid 1000) by kill}.
    """
    command = senderCommand(info)
    return describe(info, command if command is None else quoted(command))


def hasTerminal() -> bool:
    """
    Return whether this process has a controlling terminal that is open: tty(4).
    """
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK))
    except OSError as error:
        # A lack of descriptors says nothing about the terminal.
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return True


def isFromLeader(info: SigInfo) -> bool:
    """
    Return whether the leader of our session sent a signal.

    In a terminal, the leader is usually the shell.
    """
    return _isFrom(os.getsid(0), info)


def isFromThisProcess(info: SigInfo) -> bool:
    """
    Return whether this process caused a signal, such as SIGPIPE.
    """
    return _isFrom(os.getpid(), info)


def _isFrom(pid: int, info: SigInfo) -> bool:
    # Any process can claim another pid, but the kernel does not vouch for that.
    sender = info.sender
    return bool(sender and sender.vouched and sender.pid == pid)
