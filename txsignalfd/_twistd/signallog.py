# -*- test-case-name: tests.twistd.test_tap -*-
"""
Log each signal, as text or as JSON.
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

from txsignalfd._dispatch.stopping import staysIgnored
from txsignalfd._kernel.mask import WATCHABLE
from txsignalfd._proc.report import namesOf
from txsignalfd._proc.sender import (
    describeWithCommand,
    isFromThisProcess,
    senderCommand,
)
from txsignalfd._twistd.logs import unblockLog
from txsignalfd._twistd.output import Output, descriptorOf, mayBlock
from txsignalfd._twistd.startup import startupSignals
from txsignalfd.service import SignalService
from txsignalfd.siginfo import SigInfo

_log: Final = Logger("txsignalfd.signallog.SignalLogger")
_serviceLog: Final = Logger("txsignalfd.signallog.SignalLogService")

_JOB_CONTROL: Final = frozenset({SIGTSTP, SIGTTIN, SIGTTOU, SIGCONT})


#: The signals that are watched by default.
DEFAULT_SIGNALS: Final = sorted(WATCHABLE - _JOB_CONTROL)


def logToStderr() -> ILogObserver:
    """
    Make an observer that writes to stderr, for twistd's C{--logger}.
    """
    return textFileLogObserver(sys.stderr)


def toJSON(info: SigInfo, command: str | None, time: datetime) -> str:
    """
    Return a signal as one line of JSON.

    @param info: The signal.
    @param command: The command of its sender.
    @param time: When the signal was received.
    """
    sender, child = info.sender, info.child
    return json.dumps(
        {
            "time": time.isoformat(timespec="microseconds"),
            "signal": info.signo,
            "name": info.name,
            "code": info.codeName,
            "vouched": info.vouched,
            "sender": sender and {**sender._asdict(), "command": command},
            "child": child and child._asdict(),
            "value": info.value,
        }
    )


class SignalLogger:
    """
    Writes one line for each signal, to the log or to stdout.
    """

    def __init__(self, json: bool, stdout: TextIO | None) -> None:
        """
        @param json: Whether to write JSON in place of text.
        @param stdout: The file for JSON, or C{None} to write JSON to the log.
        """
        self._json = json
        self._stdout: Any = stdout
        descriptor = descriptorOf(stdout)
        if json and mayBlock(descriptor):
            self._stdout = Output(descriptor, "stdout", self._failed)

    def receive(self, info: SigInfo) -> None:
        """
        Write the line of one signal.
        """
        if info.signo == SIGPIPE and isFromThisProcess(info):
            # Our own write raised it, and has failed visibly.  Writing a line
            # about it would raise the next SIGPIPE, without end.
            return
        if not self._json:
            _log.info("{line}", line=describeWithCommand(info), info=info)
            return
        line = toJSON(info, senderCommand(info), datetime.now(timezone.utc))
        if self._stdout is None:
            _log.info("{line}", line=line, info=info)
            return
        # One write for the whole line: an unbuffered print makes two, and the
        # reader may close the pipe between them.
        data = f"{line}\n"
        try:
            self._stdout.write(data)
            self._stdout.flush()
        except OSError as error:
            self._failed(data.encode(), error)

    def _failed(self, data: bytes, error: OSError) -> None:
        if not isinstance(error, BrokenPipeError):
            # For example a full disk, which may have room again later.
            _log.error("stdout: {error}: this JSON goes to the log", error=error)
        elif self._stdout is not None:
            _log.warn("stdout: the reader has closed it: JSON goes to this log")
            self._stdout = None
        _log.info("{line}", line=data.decode().rstrip("\n"))


class SignalLogService(SignalService):
    """
    A L{SignalService} that logs at its start which signals it watches.
    """

    def __init__(
        self,
        signals: list[int],
        receive: Callable[[SigInfo], None],
        reactor: Any = None,
    ) -> None:
        """
        @param signals: The signals to watch.
        @param receive: The handler of each signal.
        @param reactor: The reactor; by default the global one.
        """
        super().__init__(
            dict.fromkeys(signals, receive),
            stopOn=[
                signo
                for signo in (SIGINT, SIGTERM)
                if signo in signals
                and not (signals is DEFAULT_SIGNALS and staysIgnored(signo))
            ],
            reactor=reactor,
        )
        self._signals = signals

    def privilegedStartService(self) -> None:
        """
        Watch the signals.
        """
        startupSignals.block()
        super().privilegedStartService()
        unblockLog(self._reactor)

    def startService(self) -> None:
        """
        Start, and log the watched signals.
        """
        super().startService()
        _serviceLog.info(
            "pid {pid} watches {names}",
            pid=os.getpid(),
            names=namesOf(self._signals),
        )
        startupSignals.resend()

    def stopService(self) -> None:
        """
        Remove the handlers.
        """
        startupSignals.deferAgain()
        super().stopService()
