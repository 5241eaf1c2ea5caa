# -*- test-case-name: tests.control.test_target -*-
"""
L{Target}: the daemon that a command is for, named by pid, pidfile or unit.
"""

from __future__ import annotations

import os
import subprocess
import time

from txsignalfd._native.names import signalName
from txsignalfd._proc.status import ThreadSignals, ofProcess

#: The C code of this package, in the path of a loaded file.
_EXTENSION = b"/txsignalfd/_native/extension."


#: Seconds in which a process that blocks a signal may begin to handle it, and between
#: two checks whether it does.
_PATIENCE = 10.0
_INTERVAL = 0.02

#: The number of words of the line NSpid of a process in this namespace.
_ONE_PID = 2


class CannotAsk(Exception):
    """
    The target cannot be asked; the message says why.
    """


def _catches(status: ThreadSignals, signo: int) -> bool:
    # A service may have ignored it since, as carbon ignores SIGHUP.  It is watched all
    # the same if it is blocked, and in no case does it any harm.
    return signo in status.caught | (status.ignored & status.blocked)


def parseTarget(text: str) -> int:
    """
    Return the process id of a target.

    @param text: A pid, the path of a pidfile, or C{unit:NAME}, which is the main
        process of a unit of systemd.
    @raise CannotAsk: If there is no such process.
    """
    if text.isdecimal() and text.isascii():
        return _positive(text, text)
    if text.startswith("unit:"):
        return _mainPID(text.removeprefix("unit:"))
    try:
        with open(text, encoding="ascii", errors="replace") as pidfile:
            return _positive(pidfile.read(64).strip(), f"pidfile {text!r}")
    except OSError as error:
        raise CannotAsk(f"pidfile {text!r}: {error.strerror}") from None


def _positive(text: str, where: str) -> int:
    if text.isdecimal() and text.isascii() and 0 < int(text) < 2**31:
        return int(text)
    raise CannotAsk(f"{where}: expected a process id, got {text!r}")


def _mainPID(unit: str) -> int:
    command = ["systemctl", "show", "--property=MainPID", "--value", "--", unit]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError as error:
        raise CannotAsk(f"unit {unit!r}: systemctl: {error.strerror}") from None
    if done.returncode:
        raise CannotAsk(f"unit {unit!r}: {done.stderr.strip()}")
    if done.stdout.strip() in ("", "0"):
        raise CannotAsk(f"unit {unit!r} has no main process: it is not running")
    return _positive(done.stdout.strip(), f"unit {unit!r}")


class Target:
    """
    A running process.

    Its pidfd tells when it ends, and that the pid has not been used again.
    """

    def __init__(self, text: str) -> None:
        """
        @param text: See L{parseTarget}.
        @raise CannotAsk: If there is no such process.
        """
        self.pid = parseTarget(text)
        if not hasattr(os, "pidfd_open"):
            raise CannotAsk("this system has no pidfd_open(2)")
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError as error:
            raise CannotAsk(f"process {self.pid}: {error.strerror}") from None

    def fileno(self) -> int:
        """
        Return the pidfd, which is readable when the process has ended.
        """
        return self._pidfd

    def checkCatches(self, signo: int) -> None:
        """
        Check that a signal would reach a handler of this package in the process.

        @raise CannotAsk: If it would not, as far as C{/proc} shows, or if the kernel
            hides the pid of the sender from the process.
        """
        deadline = time.monotonic() + _PATIENCE
        while not _catches(status := self._status(), signo):
            # A supervisor that upgrades blocks its signals until it handles them again.
            if signo in status.blocked and time.monotonic() < deadline:
                time.sleep(_INTERVAL)
                continue
            raise CannotAsk(
                f"process {self.pid} has no handler for {signalName(signo)}: it is no"
                " twistd signalfd that serves"
            )
        try:
            mayUseThisPackage = self._mayUseThisPackage()
            isInInnerNamespace = self._isInInnerNamespace()
        except OSError as error:  # it has just ended
            raise CannotAsk(f"process {self.pid}: {error.strerror}") from None
        if not mayUseThisPackage:
            raise CannotAsk(
                f"process {self.pid} has not loaded txsignalfd: it is no twistd"
                " signalfd, and was sent no signal"
            )
        if isInInnerNamespace:
            raise CannotAsk(
                f"process {self.pid} is in another pid namespace, and cannot see who"
                f" asks: {self.enter} --pid"
            )

    @property
    def enter(self) -> str:
        """
        The beginning of a command that runs another one where the process runs.
        """
        return f"run the command by nsenter --target {self.pid} --mount --net"

    def _isInInnerNamespace(self) -> bool:
        with open(self._proc("status"), encoding="utf-8", errors="replace") as file:
            # The pid in each nested namespace, from this one to that of the process.
            found = [line.split() for line in file if line.startswith("NSpid:")]
        return any(len(words) > _ONE_PID for words in found)

    def _mayUseThisPackage(self) -> bool:
        """
        Return whether the process has loaded the C code of this package, if it can be
        determined: a stale pidfile may name any other process.
        """
        try:
            with open(self._proc("maps"), "rb") as file:
                return any(_EXTENSION in line for line in file)
        except PermissionError:
            return True

    def reaches(self, address: bytes) -> bool:
        """
        Return whether the process can send to an abstract socket of this process: both
        are in one network namespace.

        @param address: The address of the socket, which is bound.
        """
        name = b"@" + address[1:]
        with open(self._proc("net/unix"), "rb") as file:
            return any(line.split()[-1] == name for line in file)

    def _proc(self, name: str) -> str:
        return f"/proc/{self.pid}/{name}"

    def canReceive(self, signo: int) -> bool:
        """
        Return whether the value of a signal would arrive, if it was sent now.

        It would be merged with one that is pending, which the process has not looked
        at.  Where RLIMIT_SIGPENDING is reached, it would arrive without its value.
        """
        status = self._status()
        hasRoom = status.queueLimit is None or status.queued < status.queueLimit
        return hasRoom and signo not in status.shared

    def _status(self) -> ThreadSignals:
        try:
            return ofProcess(self.pid).main
        except OSError as error:
            raise CannotAsk(str(error.strerror)) from None

    def close(self) -> None:
        """
        Close the pidfd.
        """
        os.close(self._pidfd)
