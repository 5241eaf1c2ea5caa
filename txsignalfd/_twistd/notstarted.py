# -*- test-case-name: tests.twistd.test_notstarted -*-
"""
Report a service that cannot start in one line.

Without this module, twistd prints a traceback.  Here the traceback is only in the
log file, or, with C{--debug} of twistd, in the output.

The service is made before the log is opened and before twistd becomes a daemon.
Then the line goes to stderr, and C{SystemExit} ends the process.  Later it is
logged.  L{NotStarted} then lets twistd remove its pidfile and inform the process
that has started the daemon.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from twisted.logger import Logger, textFileLogObserver
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile

from txsignalfd._proc.reason import reasonOf
from txsignalfd._twistd.logs import destinations, hasBegun, isStream

_log: Final = Logger("txsignalfd.daemon.Daemon")

_NOT_STARTED: Final = "not started: {reason}"


class NotStarted(Exception):
    """
    The service could not start.  The reason is logged.
    """


def logNotStarted(failure: Failure, debug: bool = False) -> None:
    """
    Log why a service could not start.

    @param failure: The failure.  Its traceback is not shown on stdout and stderr.
    @param debug: Whether to log the traceback everywhere.
    """
    reason = reasonOf(failure.value)
    if debug or not all(map(isStream, destinations())):
        _log.failure(_NOT_STARTED, failure, reason=reason)
    else:
        _log.critical(_NOT_STARTED, reason=reason)


@contextmanager
def makingService(twistd: Mapping[str, Any], command: str) -> Iterator[None]:
    """
    Exit with the reason, if a service cannot be made.

    @param twistd: The options of twistd.
    @param command: The beginning of the command line.
    """
    try:
        yield
    except Exception as error:
        if twistd.get("debug"):
            raise
        path = twistd.get("logfile")
        if path and path != "-":
            file: Any = LogFile.fromFullPath(path)
            log = Logger(_log.namespace, observer=textFileLogObserver(file))
            log.failure(_NOT_STARTED, reason=reasonOf(error))
            file.close()
        raise SystemExit(f"{command}: not started: {reasonOf(error)}") from None


@contextmanager
def starting(debug: bool, isLogged: Callable[[], bool]) -> Iterator[None]:
    """
    Log the reason, if a service cannot start, and raise L{NotStarted}.

    @param debug: Whether to show tracebacks.
    @param isLogged: Returns whether the reason is logged already.
    """
    try:
        yield
    except Exception as error:
        if not isLogged():
            logNotStarted(Failure(), debug)
        raise NotStarted(reasonOf(error)) from (error if debug else None)


def printNotStarted(error: NotStarted, command: str) -> None:
    """
    Print why a service could not start, unless the log has shown it.

    @param command: The beginning of the line, such as C{"twistd: "}.
    """
    if hasBegun() and not any(map(isStream, destinations())):
        print(f"{command}{_NOT_STARTED.format(reason=error)}", file=sys.__stderr__)


def hideTraceback(command: str) -> None:
    """
    Let Python print no traceback of L{NotStarted}, whose reason is logged.

    @param command: The beginning of the command line.
    """
    sys.excepthook = partial(_withoutTraceback, command)


def _withoutTraceback(
    command: str, kind: type, error: BaseException, traceback: Any
) -> None:
    if isinstance(error, NotStarted):
        printNotStarted(error, f"{command}: ")
    else:
        sys.__excepthook__(kind, error, traceback)
