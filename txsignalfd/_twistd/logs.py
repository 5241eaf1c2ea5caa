# -*- test-case-name: tests.twistd.test_logs -*-
"""
L{rotateLogs}: rotate or reopen the log files of twistd and of its service.

Theory
======

Log files are rotated in one of two ways.  Twisted's own rotation
(C{twisted.python.logfile}) moves the old file and opens a new one.  External
rotation (logrotate(8)) moves or removes the old file before it sends the signal,
and may have created a new file, which then has to be opened.  The two are told
apart by whether our open file still is the file at its path.

With C{--logfile} alone, twistd installs a handler of SIGUSR1.  That handler does
nothing, silently, when logrotate has moved the file, and it does not say which
file it rotates.  So the observers of the log are asked in its place: an event
with C{log_trace} (C{twisted.logger.ILogObserver}) records every observer that it
passes, also those behind filters and publishers.  This works for every option by
which an observer was added.

A service may write log files of its own, as C{web --logfile} does.  Those of
C{twisted.python.logfile} are found among all objects of the process, and reopened
if they were moved.  They are not rotated: the service decides when that is done.
Nothing tells which plain files of a service are logs, so these are left unchanged.

No file is closed before its successor can be opened, because the directory may
belong to root, and twistd may have dropped its privileges.  A file that cannot be
rotated is named in the log, and stays open.

Rejected: calling twistd's handler (see above); giving twistd a C{logger} of our
own (each of its log options would have to be implemented a second time).
"""

from __future__ import annotations

import fcntl
import gc
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, Final

from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogObserver,
    LegacyLogObserverWrapper,
    Logger,
    globalLogBeginner,
)
from twisted.python.log import FileLogObserver as LegacyFileLogObserver
from twisted.python.logfile import BaseLogFile

from txsignalfd._twistd.output import (
    Output,
    SyslogOutput,
    descriptorOf,
    finishWith,
    mayBlock,
)

_log: Final = Logger("txsignalfd.logs")

_NOTHING: Final = "nothing to rotate"

_STREAMS: Final[dict[int | None, str]] = {1: "stdout", 2: "stderr"}


def rotateLogs() -> list[str]:
    """
    Rotate each log file of twistd, or reopen a file that was moved or removed.

    Other log files of Twisted's are reopened if they were moved or removed.

    Call this function in the reactor's thread.  It raises no exception.  It logs
    one line at the end of the old files, and the outcome in the new files, as an
    error for a file that could not be rotated.

    @return: The outcome, as one line for each destination of the log, and for
        each other file that was reopened.
    """
    targets = destinations("rotating the log")
    known = set(map(id, targets))
    others = [file for file in _logFiles() if id(file) not in known]
    lines = [_renewed(target, _renew) for target in targets]
    lines += [_renewed(file, _reopen) for file in others if _wasMoved(file)]
    return lines


def reopenLogs() -> None:
    """
    Reopen the log files of the service that were moved or removed.
    """
    for file in _logFiles():
        if _wasMoved(file):
            _renewed(file, _reopen)


def _renewed(target: Any, renew: Callable[[Any], str]) -> str:
    name = _nameOf(target)
    try:
        line = f"{name}: {renew(target)}"
        _log.info("{line}", line=line)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        line = f"{name}: not rotated, logging continues there: {why}"
        _log.error("{line}", line=line)
    return line


def _logFiles() -> list[BaseLogFile]:
    """
    Return the open log files of Twisted's in this process.
    """
    # type(), because a proxy may pretend to be of another class.
    found = [each for each in gc.get_objects() if issubclass(type(each), BaseLogFile)]
    return [file for file in found if not getattr(file, "closed", True)]


def _wasMoved(file: BaseLogFile) -> bool:
    # Twisted has closed the file if its own rotation failed.
    inner = file._file  # noqa: SLF001
    return inner.closed or not _isInPlace(file.path, inner.fileno())


def destinations(text: str = "") -> list[Any]:
    """
    Return the files to which the log is written, or observers that have none.

    @param text: The text of the event that is logged to find them.  Files do not
        show an empty one.
    """
    return list({id(file): file for file in map(fileOf, _observers(text))}.values())


def unblockLog(reactor: Any) -> None:
    """
    Do not let the log block a reactor: write to pipes and the like by L{Output}.
    """
    _unblockLog()
    # twist(1) opens the log after it has started the service.
    reactor.callWhenRunning(_unblockLog)
    finishWith(reactor)


def _unblockLog() -> None:
    outputs: dict[int, Output] = {}
    for observer in _observers(""):
        target = fileOf(observer)
        if _isSyslog(target) and not _isUnblocked(target.syslog):
            target.syslog = SyslogOutput().syslog
        descriptor = descriptorOf(target)
        if isinstance(target, Output) or not mayBlock(descriptor):
            continue
        if target is observer:
            # An observer of another kind writes by itself.
            continue
        if descriptor not in outputs:
            outputs[descriptor] = Output(descriptor, _nameOf(target))
        output: Any = outputs[descriptor]
        if isinstance(observer, FileLogObserver):
            # Private, as in fileOf.
            observer._outFile = output  # noqa: SLF001
        else:
            legacy = observer.legacyObserver.__self__  # type: ignore[attr-defined]
            legacy.write, legacy.flush = output.write, output.flush


def _isUnblocked(function: Any) -> bool:
    return isinstance(getattr(function, "__self__", None), Output)


def hasBegun() -> bool:
    """
    Return whether the program has begun its log.

    Until then, Twisted shows critical events on stderr, and no others.
    """
    return _untilBegun() is None


def _untilBegun() -> Any:
    # Private, but nothing public shows whether the log has begun.
    return globalLogBeginner._temporaryObserver  # noqa: SLF001


def isSilent() -> bool:
    """
    Return whether stderr leads nowhere, as that of a daemon in the background.
    """
    return os.path.samestat(os.fstat(2), os.stat(os.devnull))


def silence() -> None:
    """
    Let stderr lead nowhere.
    """
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 2)
    os.close(null)


@contextmanager
def stderrInLog() -> Iterator[None]:
    """
    Let a silent stderr lead to the log file meanwhile.

    A program that is executed then shows why it cannot start.
    """
    paths = [each.path for each in destinations() if isinstance(each, BaseLogFile)]
    if not (isSilent() and paths):
        yield
        return
    log = os.open(paths[0], os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    os.dup2(log, 2)
    os.close(log)
    try:
        yield
    finally:
        silence()


def isStream(destination: Any) -> bool:
    """
    Return whether a destination is stdout or stderr.
    """
    return descriptorOf(destination) in _STREAMS


def _observers(text: str) -> list[ILogObserver]:
    """
    Return the observers that write events, without publishers and filters.
    """
    trace: list[tuple[Any, Any]] = []
    _log.info(text, log_trace=trace)
    for observer in _lastOf(trace):
        if isinstance(observer, FilteringLogObserver):
            # The filter did not pass the event.  The file behind the filter has
            # to be rotated nevertheless.
            behind = Logger(_log.namespace, observer=observer)
            behind.critical(text, log_trace=trace)
    return _lastOf(trace)


def _lastOf(trace: list[tuple[Any, Any]]) -> list[Any]:
    publishers = {id(publisher) for publisher, _ in trace}
    # Until the log has begun, an observer of Twisted's stands for its destinations.
    unbegun = {id(_untilBegun())}
    observers = {}
    for publisher, observer in trace:
        if unbegun.isdisjoint((id(publisher), id(observer))):
            observers[id(observer)] = observer
        else:
            unbegun.add(id(observer))
    return [each for key, each in observers.items() if key not in publishers]


def fileOf(observer: Any) -> Any:
    """
    Return the file that an observer writes to, or the observer if unknown.
    """
    if isinstance(observer, LegacyLogObserverWrapper):
        # Usually the bound method emit.
        legacy = observer.legacyObserver
        owner = getattr(legacy, "__self__", legacy)
        if isinstance(owner, LegacyFileLogObserver):
            return getattr(owner.write, "__self__", owner)
        return owner
    if isinstance(observer, FileLogObserver):
        # Private, but there is no other way from an observer to its file.
        return observer._outFile  # noqa: SLF001
    return observer


def _isSyslog(target: object) -> bool:
    # Its module is loaded only if --syslog of twistd is given.
    module = sys.modules.get("twisted.python.syslog")
    return module is not None and isinstance(target, module.SyslogObserver)


def _nameOf(target: Any) -> str:
    if isinstance(target, BaseLogFile):
        return target.path
    if _isSyslog(target):
        return "syslog"
    descriptor = descriptorOf(target)
    if descriptor in _STREAMS:
        return _STREAMS[descriptor]
    return repr(target) if descriptor is None else str(getattr(target, "name", target))


def _renew(target: Any) -> str:
    if isinstance(target, BaseLogFile):
        return _rotate(target)
    descriptor = descriptorOf(target)
    if _isSyslog(target) or descriptor in _STREAMS:
        return _NOTHING
    if descriptor is None:
        return "not known to be a file, left unchanged"
    return _reopenPlain(target, descriptor)


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _isInPlace(path: str, descriptor: int) -> bool:
    """
    Return whether an open file still is the file at its path.
    """
    found = _stat(path)
    return found is not None and os.path.samestat(found, os.fstat(descriptor))


def _rotate(file: BaseLogFile) -> str:
    if file.closed:
        return "the file is closed, left unchanged"
    if _wasMoved(file):
        return _reopen(file)
    before = os.fstat(file._file.fileno())  # noqa: SLF001
    if not stat.S_ISREG(before.st_mode):
        return _NOTHING
    try:
        # The subclasses that can be written to have this method.
        file.rotate()  # type: ignore[attr-defined]
    except OSError:
        # rotate() may have closed the file already.
        _reopen(file)
        raise
    after = _stat(file.path)
    if after is not None and not os.path.samestat(before, after):
        return "rotated"
    for path in (file.directory, file.path):
        if not os.access(path, os.W_OK):
            raise OSError(f"uid {os.getuid()} may not write to {path}")
    raise OSError("the reason is unknown (a DailyLogFile rotates once a day)")


def _reopen(file: BaseLogFile) -> str:
    # reopen() closes the old file first, so check that a new one can be opened.
    mode = 0o666 if file.defaultMode is None else file.defaultMode
    os.close(os.open(file.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode))
    file.reopen()
    return "reopened"


def _reopenPlain(file: IO[Any], descriptor: int) -> str:
    """
    Reopen the file of a Python file object under its descriptor.
    """
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        return _NOTHING
    path = getattr(file, "name", None)
    if not isinstance(path, str) or not os.path.isabs(path):
        raise OSError("it was not opened with an absolute path")
    if _isInPlace(path, descriptor):
        return "still at its path, is reopened once it has been moved"
    file.flush()
    access = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
    flags = access | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    opened = os.open(path, flags, stat.S_IMODE(status.st_mode))
    try:
        os.dup2(opened, descriptor, inheritable=os.get_inheritable(descriptor))
    finally:
        os.close(opened)
    return "reopened"
