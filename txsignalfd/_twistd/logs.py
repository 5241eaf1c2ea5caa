# -*- test-case-name: tests.twistd.test_logs -*-
"""
L{rotateLogs}: begin new log files, wherever twistd was told to log.

Theory
======

Files are rotated in one of two ways.  Twisted's own
(C{twisted.python.logfile}) moves the old file and opens a new one.  An external
one, as logrotate(8), has moved or removed the old file before it sends the
signal, and has perhaps made a new one; then that has to be opened.  Which of
them it is shows in whether our file still stands at its path.

twistd rotates by a handler of SIGUSR1, which it installs only with
C{--logfile}, and which does nothing, and says nothing, when logrotate has moved
the file.  What it logs to it keeps to itself.  So the observers are asked: an
event with C{log_trace} (C{twisted.logger.ILogObserver}) comes back with all
whom it has met, those behind filters and publishers too.  So it does not matter
which option has put them there.

Nothing is closed before its successor can be opened, for the directory may
belong to root, and twistd may have become somebody else.  A file that cannot be
rotated is named in the log, and goes on.

Rejected: to call twistd's handler (above); to give twistd a C{logger} of ours
(each of its log options would have to be read, and done, a second time).
"""

from __future__ import annotations

import fcntl
import os
import stat
from typing import IO, Any, Final

from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogObserver,
    LegacyLogObserverWrapper,
    Logger,
)
from twisted.python.log import FileLogObserver as LegacyFileLogObserver
from twisted.python.logfile import BaseLogFile
from twisted.python.syslog import SyslogObserver

_log: Final = Logger("txsignalfd.logs")


_NOTHING: Final = "there is nothing to rotate"

_STREAMS: Final[dict[int | None, str]] = {1: "stdout", 2: "stderr"}


def rotateLogs() -> list[str]:
    """
    Rotate each log file, or open it again where it was moved or removed.  Call
    it in the reactor's thread.

    It logs one line before, at the end of the old files, and in the new ones
    what was done; as an error where it could not be done.  It does not raise.

    @return: What was done, a line for each place to which the log goes.
    """
    lines = []
    targets = {id(target): target for target in map(_targetOf, _observers())}
    for target in targets.values():
        name = _nameOf(target)
        try:
            line = f"{name}: {_renew(target)}"
            _log.info("{line}", line=line)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            line = f"{name}: not rotated, the log goes on: {why}"
            _log.error("{line}", line=line)
        lines.append(line)
    return lines


def _observers() -> list[ILogObserver]:
    """
    Each observer of the log that hands on to no other, once.
    """
    trace: list[tuple[Any, Any]] = []
    _log.info("rotating the log", log_trace=trace)
    for observer in _ends(trace):
        if isinstance(observer, FilteringLogObserver):
            # It lets no such line pass, and its file is to be rotated all the
            # same.
            behind = Logger(_log.namespace, observer=observer)
            behind.critical("rotating the log", log_trace=trace)
    return _ends(trace)


def _ends(trace: list[tuple[Any, Any]]) -> list[Any]:
    handOn = {id(publisher) for publisher, _ in trace}
    met = {id(observer): observer for _, observer in trace}
    return [observer for key, observer in met.items() if key not in handOn]


def _targetOf(observer: Any) -> Any:
    """
    What an observer writes to; the observer where that cannot be told.
    """
    if isinstance(observer, LegacyLogObserverWrapper):
        # Mostly a method, emit.
        legacy = observer.legacyObserver
        owner = getattr(legacy, "__self__", legacy)
        if isinstance(owner, LegacyFileLogObserver):
            return getattr(owner.write, "__self__", owner)
        return owner
    if isinstance(observer, FileLogObserver):
        # Private, for there is no other way from an observer to its file.
        return observer._outFile  # noqa: SLF001
    return observer


def _descriptorOf(target: Any) -> int | None:
    try:
        number = target.fileno()
    except (AttributeError, ValueError):
        # No file, one in memory, or one that is closed.
        return None
    return number if isinstance(number, int) else None


def _nameOf(target: Any) -> str:
    if isinstance(target, BaseLogFile):
        return target.path
    if isinstance(target, SyslogObserver):
        return "syslog"
    descriptor = _descriptorOf(target)
    if descriptor in _STREAMS:
        return _STREAMS[descriptor]
    return repr(target) if descriptor is None else str(getattr(target, "name", target))


def _renew(target: Any) -> str:
    if isinstance(target, BaseLogFile):
        return _rotate(target)
    descriptor = _descriptorOf(target)
    if isinstance(target, SyslogObserver) or descriptor in _STREAMS:
        return _NOTHING
    if descriptor is None:
        return "not known to be a file, and left alone"
    return _reopenPlain(target, descriptor)


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _stands(path: str, descriptor: int) -> bool:
    """
    Whether it is our file that stands at its path.
    """
    found = _stat(path)
    return found is not None and os.path.samestat(found, os.fstat(descriptor))


def _rotate(file: BaseLogFile) -> str:
    if file.closed:
        return "it was closed, and is left alone"
    # Private, for BaseLogFile has no fileno().
    inner = file._file  # noqa: SLF001
    # It is closed where Twisted has tried to rotate it, and failed.
    if inner.closed or not _stands(file.path, inner.fileno()):
        return _reopen(file)
    before = os.fstat(inner.fileno())
    if not stat.S_ISREG(before.st_mode):
        return _NOTHING
    try:
        # BaseLogFile has none, but those that can be written to have.
        file.rotate()  # type: ignore[attr-defined]
    except OSError:
        # It has perhaps been closed already.
        _reopen(file)
        raise
    after = _stat(file.path)
    if after is not None and not os.path.samestat(before, after):
        return "rotated"
    for path in (file.directory, file.path):
        if not os.access(path, os.W_OK):
            raise OSError(f"uid {os.getuid()} may not write to {path}")
    raise OSError("it has said no reason (a DailyLogFile rotates once a day)")


def _reopen(file: BaseLogFile) -> str:
    # It closes the old one first: were there no new one, there would be none.
    mode = 0o666 if file.defaultMode is None else file.defaultMode
    os.close(os.open(file.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode))
    file.reopen()
    return "reopened"


def _reopenPlain(file: IO[Any], descriptor: int) -> str:
    """
    Open a file of Python's again, beneath the object that writes to it.
    """
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        return _NOTHING
    path = getattr(file, "name", None)
    if not isinstance(path, str) or not os.path.isabs(path):
        raise OSError("it was not opened by an absolute path")
    if _stands(path, descriptor):
        return "it stands at its path, and is opened again when it was moved"
    file.flush()
    access = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
    flags = access | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    opened = os.open(path, flags, stat.S_IMODE(status.st_mode))
    try:
        os.dup2(opened, descriptor, inheritable=os.get_inheritable(descriptor))
    finally:
        os.close(opened)
    return "reopened"
