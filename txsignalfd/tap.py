# -*- test-case-name: tests.test_tap -*-
"""
C{twistd signalfd}: watch signals, and tell of each.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from signal import (
    SIGCONT,
    SIGINT,
    SIGPIPE,
    SIGTERM,
    SIGTSTP,
    SIGTTIN,
    SIGTTOU,
)
from typing import Any, Final, TextIO

from twisted.application.service import IService
from twisted.logger import ILogObserver, Logger, textFileLogObserver
from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError

from txsignalfd._mask import SignalNotWatchable, checkWatchable
from txsignalfd._native import lib
from txsignalfd.names import signalNumber
from txsignalfd.procreport import namesOf
from txsignalfd.service import SignalService
from txsignalfd.siginfo import SigInfo, describe

_JOB_CONTROL: Final = frozenset({SIGTSTP, SIGTTIN, SIGTTOU, SIGCONT})


def _isWatchable(signo: int) -> bool:
    try:
        checkWatchable([signo])
    except SignalNotWatchable:
        return False
    return True


#: What is watched by default.
DEFAULT_SIGNALS: Final = [
    signo
    for signo in range(1, lib.TXS_NSIG)
    if _isWatchable(signo) and signo not in _JOB_CONTROL
]


def signalNumbers(names: str) -> list[int]:
    """
    Read what C{--signals} is given.

    @param names: Names or numbers, with commas between them.
    @raise UsageError: For one that is no signal, or cannot be watched.
    """
    try:
        return checkWatchable(signalNumber(name.strip()) for name in names.split(","))
    except ValueError as error:
        raise UsageError(f"--signals: {error}") from None


class Options(UsageOptions):
    """
    The command line.
    """

    synopsis = "[options]"
    longdesc = (
        "Watch signals, and log what each was and who sent it. SIGTERM and SIGINT"
        " stop it in order. Try: twistd -n signalfd, and in another terminal"
        " kill -HUP with the pid that it tells."
    )
    optParameters = [
        [
            "signals",
            "s",
            None,
            (
                "What to watch, such as HUP,USR1,RTMIN+3: names with or without SIG,"
                " or numbers. [default: all that can be watched, but for those of a"
                " terminal's job control: TSTP, TTIN, TTOU and CONT]"
            ),
            signalNumbers,
        ],
        [
            "format",
            "f",
            "text",
            (
                "text, a line in the log, or json, an object a line on stdout"
                " (in the log where there is no stdout)"
            ),
        ],
    ]

    def parseOptions(self, options: list[str] | None = None) -> None:
        """
        Parse the command line.

        @raise UsageError: When it is wrong.
        @raise SystemExit: The same, in twistd, which in its older releases
            took a usage error for a success.
        """
        try:
            super().parseOptions(options)
        except UsageError as error:
            if self.parent is None:
                raise
            raise SystemExit(f"{self}\ntwistd signalfd: {error}") from error

    def postOptions(self) -> None:
        """
        Check the options together.

        In the foreground JSON has stdout for itself, and twistd's log goes to
        stderr, unless the user has said where to.
        """
        if self["format"] not in ("text", "json"):
            raise UsageError(f"--format: {self['format']!r} is neither text nor json")
        if self["signals"] is None:
            self["signals"] = DEFAULT_SIGNALS
        if self.parent is not None and self.inForeground and self["format"] == "json":
            chosen = ("logger", "logfile", "syslog")
            if not any(self.parent.get(option) for option in chosen):
                self.parent["logger"] = f"{__name__}.{logToStderr.__name__}"

    @property
    def inForeground(self) -> bool:
        """
        Whether there will be a stdout.
        """
        return self.parent is None or bool(self.parent.get("nodaemon"))


def logToStderr() -> ILogObserver:
    """
    Make an observer, for twistd's C{--logger}.
    """
    return textFileLogObserver(sys.stderr)


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


def toJSON(info: SigInfo, command: str | None, time: datetime) -> str:
    """
    A signal as one line of JSON.

    @param info: The signal.
    @param command: The command of its sender.
    @param time: When it was received.
    """
    sender, child = info.sender, info.child
    return json.dumps(
        {
            "time": time.isoformat(timespec="microseconds"),
            "signal": info.signo,
            "name": info.name,
            "code": info.codeName,
            "sender": sender and {**sender._asdict(), "command": command},
            "child": child and child._asdict(),
            "value": info.value,
        }
    )


class SignalLogger:
    """
    Tells of each signal, in the log or on a file.
    """

    _log = Logger()

    def __init__(self, json: bool, stdout: TextIO | None) -> None:
        """
        @param json: Whether to tell it as JSON, or as text.
        @param stdout: Where JSON goes; C{None} is for the log.
        """
        self._json = json
        self._stdout = stdout

    def receive(self, info: SigInfo) -> None:
        """
        Tell of one signal.
        """
        if info.signo == SIGPIPE and info.pid == os.getpid():
            # Our own write failed, and the writer knows.  To write of it
            # would raise the next one, without end.
            return
        sender = info.sender
        command = commandOf(sender.pid) if sender and sender.vouched else None
        if not self._json:
            self._log.info("{line}", line=describe(info, command), info=info)
            return
        line = toJSON(info, command, datetime.now(timezone.utc))
        if self._stdout is None or not self._print(line, self._stdout):
            self._log.info("{line}", line=line, info=info)

    def _print(self, line: str, stdout: TextIO) -> bool:
        try:
            # In one piece: unbuffered, print makes two, and a reader may be gone
            # after the first.
            stdout.write(line + "\n")
            stdout.flush()
        except BrokenPipeError:
            self._log.warn("nobody reads stdout any more: JSON goes to this log")
            self._stdout = None
        return self._stdout is not None


class SignalLogService(SignalService):
    """
    A L{SignalService} that says at its start what it watches.
    """

    def __init__(
        self,
        signals: list[int],
        receive: Callable[[SigInfo], None],
        reactor: Any = None,
    ) -> None:
        """
        @param signals: What to watch.
        @param receive: What to do with each.
        @param reactor: The reactor; by default the global one.
        """
        super().__init__(
            dict.fromkeys(signals, receive),
            stopOn=[signo for signo in (SIGINT, SIGTERM) if signo in signals],
            reactor=reactor,
        )
        self._signals = signals

    def startService(self) -> None:
        """
        Start, and say so.
        """
        super().startService()
        self._log.info(
            "pid {pid} watches {names}",
            pid=os.getpid(),
            names=namesOf(self._signals),
        )


def makeService(options: Options) -> IService:
    """
    Make what C{twistd signalfd} runs.

    @param options: The command line.
    """
    stdout = sys.stdout if options.inForeground else None
    logger = SignalLogger(options["format"] == "json", stdout)
    return SignalLogService(options["signals"], logger.receive)
