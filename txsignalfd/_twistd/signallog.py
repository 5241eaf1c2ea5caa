# -*- test-case-name: tests.twistd.test_tap -*-
"""
Telling of each signal, in the log or as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from signal import SIGCONT, SIGINT, SIGPIPE, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU
from typing import Any, Final, TextIO

from twisted.logger import ILogObserver, Logger, textFileLogObserver

from txsignalfd._kernel.mask import SignalNotWatchable, checkWatchable
from txsignalfd._native.extension import lib
from txsignalfd._proc.report import namesOf
from txsignalfd._proc.sender import senderCommand
from txsignalfd._twistd.startup import hangup
from txsignalfd.service import SignalService
from txsignalfd.siginfo import SigInfo, describe

_log: Final = Logger("txsignalfd.signallog.SignalLogger")
_serviceLog: Final = Logger("txsignalfd.signallog.SignalLogService")

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


def logToStderr() -> ILogObserver:
    """
    Make an observer, for twistd's C{--logger}.
    """
    return textFileLogObserver(sys.stderr)


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
        command = senderCommand(info)
        if not self._json:
            _log.info("{line}", line=describe(info, command), info=info)
            return
        line = toJSON(info, command, datetime.now(timezone.utc))
        if not self._print(line):
            _log.info("{line}", line=line, info=info)

    def _print(self, line: str) -> bool:
        if self._stdout is None:
            return False
        try:
            # In one piece: unbuffered, print makes two, and a reader may be gone
            # after the first.
            self._stdout.write(line + "\n")
            self._stdout.flush()
        except BrokenPipeError:
            _log.warn("nobody reads stdout any more: JSON goes to this log")
            self._stdout = None
            return False
        except OSError as error:
            # Such as a full disk, on which there may be room again later.
            _log.error("stdout: {error}: its JSON goes to this log", error=error)
            return False
        return True


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

    def privilegedStartService(self) -> None:
        """
        Watch the signals.
        """
        hangup.letGo()
        super().privilegedStartService()

    def startService(self) -> None:
        """
        Start, and say so.
        """
        super().startService()
        _serviceLog.info(
            "pid {pid} watches {names}",
            pid=os.getpid(),
            names=namesOf(self._signals),
        )
        hangup.send()

    def stopService(self) -> None:
        """
        Stop.
        """
        hangup.holdAgain()
        super().stopService()
