"""
L{rotateLogs} with every log option of twistd.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from signal import SIGTERM, SIGUSR1
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, Any, cast

import pytest
from twisted.logger import (
    FilteringLogObserver,
    ILogFilterPredicate,
    ILogObserver,
    LegacyLogObserverWrapper,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    LogPublisher,
    PredicateResult,
    textFileLogObserver,
)
from twisted.python.log import FileLogObserver as LegacyFileLogObserver
from twisted.python.logfile import DailyLogFile, LogFile
from twisted.python.syslog import SyslogObserver
from zope.interface import implementer

from tests.support.daemons import Program, adoptingOrphans, endOf, program, waitFor
from tests.support.forkserver import TWISTD
from tests.support.observers import LOG, logging
from tests.support.processes import runPython
from txsignalfd._twistd.logs import reopenLogs, rotateLogs, stderrInLog

#: A service that rotates on SIGUSR1, and appends the outcome to a file.
SERVICE = """
from signal import SIGUSR1
from twisted.application.service import Application
from twisted.logger import Logger
from txsignalfd import SignalService
from txsignalfd._twistd.logs import rotateLogs

class Service(SignalService):
    def startService(self):
        super().startService()
        Logger().info("it runs")
        note()

def note(*lines):
    with open("outcome", "a") as file:
        print(*lines, sep="\\n", file=file)

application = Application("logs")
handlers = {SIGUSR1: lambda info: note(*rotateLogs())}
Service(handlers).setServiceParent(application)
"""

#: The module of C{--logger}.
LOGGERS = """
from twisted.python.log import FileLogObserver
from twisted.python.logfile import LogFile

def legacy():
    return FileLogObserver(LogFile.fromFullPath("twistd.log")).emit
"""


class Daemon:
    """
    A twistd that runs L{SERVICE}.
    """

    def __init__(self, directory: Path, pid: int, output: Callable[[], str]) -> None:
        self.directory = directory
        self.pid = pid
        self.output = output

    def outcomes(self) -> list[str]:
        outcome = self.directory / "outcome"
        return outcome.read_text().splitlines()[1:] if outcome.exists() else []

    def rotate(self) -> list[str]:
        """
        Send SIGUSR1, wait for the outcome, and return it.
        """
        before = len(self.outcomes())
        os.kill(self.pid, SIGUSR1)
        waitFor(lambda: len(self.outcomes()) > before, self.output())
        return self.outcomes()[before:]


@contextmanager
def twistd(directory: Path, *options: str, daemonize: bool = False) -> Iterator[Daemon]:
    """
    Run twistd, and assert that SIGTERM stops it without a traceback.
    """
    (directory / "service.tac").write_text(SERVICE)
    (directory / "loggers.py").write_text(LOGGERS)
    foreground = [] if daemonize else ["-n"]
    command = [TWISTD, *foreground, *options, "-y", "service.tac"]
    with adoptingOrphans(), program(directory, *command) as running:
        if daemonize:
            assert running.wait() == 0, running.output()
        pid = daemonPid(running) if daemonize else running.pid
        waitFor((directory / "outcome").exists, running.output())
        yield Daemon(directory, pid, running.output)
        os.kill(pid, SIGTERM)
        if daemonize:
            assert os.WTERMSIG(endOf(pid)) == SIGTERM
        else:
            assert running.wait() == -SIGTERM
    for log in directory.glob("*.log*"):
        assert "Traceback" not in log.read_text()
    assert "Traceback" not in running.output()


def daemonPid(launcher: Program) -> int:
    """
    Return the pid of the daemon that twistd has left.
    """
    return int((launcher.directory / "twistd.pid").read_text())


@pytest.mark.parametrize(
    ("options", "daemonize"),
    [
        (["--logfile", "twistd.log", "--prefix", "unused"], True),
        ([], True),
        (["--logger", "loggers.legacy"], False),
    ],
)
def test_itsOwnFileIsRotated(
    options: list[str], daemonize: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    If logrotate has moved or removed the file, or has created a new one, the file
    at its path is opened.
    """
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    log = tmp_path / "twistd.log"
    with twistd(tmp_path, *options, daemonize=daemonize) as daemon:
        assert daemon.rotate() == [f"{log}: rotated"]
        first = (tmp_path / "twistd.log.1").read_text()
        assert "it runs" in first
        assert first.endswith("rotating the log\n")
        assert log.read_text().endswith(f"{log}: rotated\n")
        assert daemon.rotate() == [f"{log}: rotated"]
        assert (tmp_path / "twistd.log.2").read_text() == first

        log.rename(tmp_path / "moved.log")
        assert daemon.rotate() == [f"{log}: reopened"]
        assert (tmp_path / "moved.log").read_text().endswith("rotating the log\n")
        assert log.read_text().count("\n") == 1

        log.unlink()
        assert daemon.rotate() == [f"{log}: reopened"]

        log.rename(tmp_path / "moved.log")
        log.touch(0o640)
        assert daemon.rotate() == [f"{log}: reopened"]
        assert log.read_text().endswith(f"{log}: reopened\n")


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ([], "stdout"),
        (["--syslog", "--prefix", "signals"], "syslog"),
        (["--logfile", "/dev/null"], "/dev/null"),
    ],
)
def test_destinationsThatAreNotFilesAreNotRotated(
    options: list[str], place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Nor is /dev/null.
    """
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with twistd(tmp_path, *options) as daemon:
        line = f"{place}: nothing to rotate"
        assert daemon.rotate() == [line]
        if place == "stdout":
            assert daemon.output().endswith(line + "\n")
    assert os.path.exists(os.devnull)
    assert not os.path.exists("/dev/null.1")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to change its user")
@pytest.mark.parametrize("moved", [False, True])
def test_aFileInADirectoryOfRootIsNotRotated(moved: bool) -> None:
    """
    After twistd has dropped its privileges; logging continues.
    """
    # Other users may not enter the parents of tmp_path.
    with TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o777)
        losePrivileges(directory, moved)


def losePrivileges(directory: Path, moved: bool) -> None:
    """
    Rotate a log in a directory of root, as another user.
    """
    logs = directory / "logs"
    logs.mkdir(0o755)
    log = logs / "twistd.log"
    options = ["--logfile", str(log), "--uid", "65534", "--gid", "65534"]
    with twistd(directory, *options) as daemon:
        writesTo = log
        if moved:
            writesTo = log.rename(logs / "moved.log")
        for _ in range(2):
            (line,) = daemon.rotate()
            start, _, why = line.partition(": not rotated, logging continues there: ")
            assert start == str(log)
            assert why == (
                f"PermissionError: [Errno 13] Permission denied: '{log}'"
                if moved
                else f"OSError: uid 65534 may not write to {logs}"
            )
            assert writesTo.read_text().endswith(line + "\n")
        assert os.listdir(logs) == [writesTo.name]
        os.chown(logs, 65534, 65534)
        if not moved:
            os.chown(log, 65534, 65534)
        done = "reopened" if moved else "rotated"
        assert daemon.rotate() == [f"{log}: {done}"]


@contextmanager
def logFile(path: Path, kind: Any = LogFile) -> Iterator[Any]:
    """
    Open a log file of Twisted, and close it.
    """
    with closing(kind.fromFullPath(str(path))) as file:
        yield file


def test_filesBehindPublishersAndFiltersAreRotatedOnce(tmp_path: Path) -> None:
    """
    Also behind a filter that passes only critical events.
    """
    log, all_ = tmp_path / "critical.log", tmp_path / "all.log"
    with logFile(log) as critical, logFile(all_) as everything:
        predicate = LogLevelFilterPredicate(LogLevel.critical)
        filtering = FilteringLogObserver(textFileLogObserver(critical), [predicate])
        observer = textFileLogObserver(everything)
        publisher = LogPublisher(filtering, observer)
        with logging(publisher, observer, textFileLogObserver(everything)):
            lines = rotateLogs()
        assert sorted(lines) == [f"{all_}: rotated", f"{log}: rotated"]
    assert (tmp_path / "critical.log.1").read_text().count("rotating the log") == 1
    assert log.read_text() == ""
    assert (tmp_path / "all.log.1").exists()
    assert not (tmp_path / "all.log.2").exists()


def test_observersWithoutAFileAreNotRotated() -> None:
    """
    Files in memory, functions, and objects that only look like a file.
    """

    class Pretender:
        encoding = "utf-8"

        def fileno(self) -> str:
            return "not a number"

        def write(self, text: str) -> None:
            pass

        flush = write

    pretender: Any = Pretender()
    pretender.flush = lambda: None
    memory = io.StringIO()
    events: list[LogEvent] = []

    @implementer(ILogObserver)
    def legacy(event: LogEvent) -> None:
        pass

    class Writing:
        def write(self, text: str) -> None:
            pass

        def flush(self) -> None:
            pass

    @implementer(ILogFilterPredicate)
    def nothing(event: LogEvent) -> Any:
        return PredicateResult.no

    writing = Writing()
    function = LegacyFileLogObserver(memory)
    function.write = lambda text: None
    function.flush = lambda: None
    append = cast(ILogObserver, events.append)
    deaf = FilteringLogObserver(append, [nothing])
    with logging(
        append,
        textFileLogObserver(memory),
        textFileLogObserver(pretender),
        LegacyLogObserverWrapper(legacy),
        LegacyLogObserverWrapper(cast(Any, LegacyFileLogObserver(writing).emit)),
        LegacyLogObserverWrapper(cast(Any, function.emit)),
        deaf,
    ):
        lines = rotateLogs()
    left = "not known to be a file, left unchanged"
    targets = [append, memory, pretender, legacy, writing, function, deaf]
    assert lines == [f"{each!r}: {left}" for each in targets]
    assert [event["log_level"] for event in events] == [LogLevel.info] * 8


@pytest.mark.parametrize("mode", ["a", "ab", "w+"])
def test_reopeningAPlainFileLosesNothing(mode: str, tmp_path: Path) -> None:
    """
    Buffered text goes to the old file.  Mode and descriptor stay the same.
    """
    log, moved = tmp_path / "log", tmp_path / "moved"
    with open(log, mode) as file:
        descriptor = file.fileno()
        log.chmod(0o600)
        with logging(textFileLogObserver(file)):
            LOG.info("old")
            (line,) = rotateLogs()
            assert line.startswith(f"{log}: still at its path")
            file.write("kept" if "b" not in mode else b"kept")
            log.rename(moved)
            assert rotateLogs() == [f"{log}: reopened"]
            LOG.info("new")
            log.rename(tmp_path / "again")
            log.write_text("there\n")
            assert rotateLogs() == [f"{log}: reopened"]
        assert file.fileno() == descriptor
        assert not os.get_inheritable(descriptor)
    assert "old" in moved.read_text()
    assert "kept" in moved.read_text()
    assert "new" in (tmp_path / "again").read_text()
    assert (tmp_path / "again").stat().st_mode & 0o777 == 0o600
    assert log.read_text().startswith("there\n")
    assert log.read_text().endswith("reopened\n")


def test_aPlainFileThatCannotBeReopenedGoesOn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A relative path may name another file by now, and a nameless file has no path.
    """
    monkeypatch.chdir(tmp_path)
    why = (
        "not rotated, logging continues there: OSError: it was not opened with an"
        " absolute path"
    )
    with open("log", "a") as relative, logging(textFileLogObserver(relative)):
        assert rotateLogs() == [f"log: {why}"]
        os.rename("log", "moved")
        assert rotateLogs() == [f"log: {why}"]
    assert (tmp_path / "moved").read_text().count(why) == 2
    with TemporaryFile("w") as unnamed, logging(textFileLogObserver(unnamed)):
        assert rotateLogs() == [f"{unnamed.name}: {why}"]
    nothing = "/dev/null: nothing to rotate"
    with open(os.devnull, "w") as null, logging(textFileLogObserver(null)):
        assert rotateLogs() == [nothing]
    with logFile(Path(os.devnull)) as file, logging(textFileLogObserver(file)):
        assert rotateLogs() == [nothing]
    log = tmp_path / "gone" / "log"
    log.parent.mkdir()
    with open(log, "a") as gone, logging(textFileLogObserver(gone)):
        log.parent.rename(tmp_path / "elsewhere")
        (line,) = rotateLogs()
        assert "FileNotFoundError: [Errno 2] No such file or directory" in line
    assert line in (tmp_path / "elsewhere" / "log").read_text()


def test_aDailyFileRotatesOnceADay(tmp_path: Path) -> None:
    """
    A second rotation on the same day fails with the reason.
    """
    log = tmp_path / "log"
    with logFile(log, DailyLogFile) as file, logging(textFileLogObserver(file)):
        assert rotateLogs() == [f"{log}: rotated"]
        (line,) = rotateLogs()
        assert line.endswith("reason is unknown (a DailyLogFile rotates once a day)")
    assert log.read_text().endswith(line + "\n")


def test_aFileIsReopenedIfItsRotationFails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Twisted closes the file before the last step, which may fail.
    """
    log = tmp_path / "log"
    (tmp_path / "log.1").mkdir()
    (tmp_path / "log.1" / "x").touch()

    def noLogs(self: LogFile) -> list[int]:
        return []

    monkeypatch.setattr(LogFile, "listLogs", noLogs)
    with logFile(log) as file, logging(textFileLogObserver(file)):
        for _ in range(2):
            (line,) = rotateLogs()
            assert "not rotated, logging continues there: " in line
            assert log.read_text().endswith(line + "\n")
        os.rename(tmp_path / "log.1", tmp_path / "elsewhere")
        assert rotateLogs() == [f"{log}: rotated"]
        # Twisted leaves a closed file if its own rotation fails.
        file._file.close()
        assert rotateLogs() == [f"{log}: reopened"]
    assert log.read_text().endswith("reopened\n")
    with logging(textFileLogObserver(file)):
        assert rotateLogs() == [f"{log}: the file is closed, left unchanged"]


@contextmanager
def asNobody() -> Iterator[None]:
    """
    Change the real user, which access(2) checks, to another than root.
    """
    uid = os.getuid()
    if uid == 0:
        os.setreuid(65534, -1)
    try:
        yield
    finally:
        os.setreuid(uid, -1)


@pytest.mark.parametrize("name", ["logs", "logs/log"])
def test_anErrorNamesTheUnwritablePath(name: str) -> None:
    """
    The directory, or the file itself.
    """
    # Other users may not enter the parents of tmp_path.
    with TemporaryDirectory() as parent:
        log, denied = Path(parent, "logs", "log"), Path(parent, name)
        Path(parent).chmod(0o755)
        log.parent.mkdir()
        log.touch()
        log.parent.chmod(0o777)
        log.chmod(0o666)
        with logFile(log) as file, logging(textFileLogObserver(file)):
            denied.chmod(0o555)
            with asNobody():
                (line,) = rotateLogs()
                why = f"OSError: uid {os.getuid()} may not write to {denied}"
            assert line == f"{log}: not rotated, logging continues there: {why}"
            assert log.read_text().endswith(line + "\n")
            denied.chmod(0o777)


def test_standardStreamsAndSyslogAreNotRotated() -> None:
    syslog = SyslogObserver("txsignalfd")
    sent: list[str] = []
    syslog.syslog = lambda priority, line: sent.append(line)
    streams = [sys.__stdout__, sys.__stderr__]
    with logging(
        *(textFileLogObserver(cast(IO[str], stream)) for stream in streams),
        LegacyLogObserverWrapper(cast(Any, syslog.emit)),
    ):
        lines = rotateLogs()
    why = "nothing to rotate"
    assert lines == [f"{place}: {why}" for place in ("stdout", "stderr", "syslog")]
    assert [line.split("] ")[1] for line in sent] == ["rotating the log", *lines]


@pytest.mark.parametrize("removed", [False, True])
def test_otherLogFilesAreReopened(removed: bool, tmp_path: Path) -> None:
    """
    If they were moved or removed.  Those that are in place, or closed, are not.
    """
    log, other = tmp_path / "log", tmp_path / "other"
    closed = LogFile.fromFullPath(str(tmp_path / "closed"))
    closed.close()
    (tmp_path / "closed").unlink()
    with logFile(other) as file, logFile(log) as own:
        with logging(textFileLogObserver(own)):
            assert rotateLogs() == [f"{log}: rotated"]
            if removed:
                other.unlink()
            else:
                other.rename(tmp_path / "moved")
            assert rotateLogs() == [f"{log}: rotated", f"{other}: reopened"]
            file.write("new")
    assert other.read_text() == "new"
    assert not (tmp_path / "closed").exists()


def test_onlyFilesThatWereMovedAreReopened(tmp_path: Path) -> None:
    """
    A worker reopens the files of its service, and rotates none.
    """
    with logFile(tmp_path / "stays"), logFile(tmp_path / "moved") as moved:
        (tmp_path / "moved").rename(tmp_path / "old")
        reopenLogs()
        moved.write("new")
    assert (tmp_path / "moved").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 3


def test_aReopenedFileHasItsDefaultMode(tmp_path: Path) -> None:
    log = tmp_path / "log"
    file: Any = LogFile("log", str(tmp_path), defaultMode=0o604)
    with closing(file):
        with logging(textFileLogObserver(file)):
            log.unlink()
            assert rotateLogs() == [f"{log}: reopened"]
    assert log.stat().st_mode & 0o777 == 0o604


def test_privatePartsOfTwistedThatItUses(tmp_path: Path) -> None:
    """
    If this fails with a new Twisted, update L{txsignalfd._twistd.logs}.
    """
    with logFile(tmp_path / "log") as file:
        assert vars(textFileLogObserver(file))["_outFile"] is file
        assert os.path.samestat(os.fstat(file._file.fileno()), os.stat(file.path))


def test_stderrStaysWhereItIsShown() -> None:
    """
    Only a silent one leads to the log for the next program.
    """
    before = os.fstat(2)
    with stderrInLog():
        assert os.path.samestat(os.fstat(2), before)


#: Makes the process silent, and writes to stderr during and after C{stderrInLog}.
SILENT = """
import os
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.python.logfile import LogFile
from txsignalfd._twistd.logs import silence, stderrInLog

log = textFileLogObserver(LogFile("app.log", "."))
globalLogBeginner.beginLoggingTo([log], redirectStandardIO=False)
silence()
with stderrInLog():
    os.write(2, b"shown\\n")
os.write(2, b"not shown\\n")
"""


def test_aSilentStderrLeadsToTheLogMeanwhile(tmp_path: Path) -> None:
    """
    And nowhere afterwards.
    """
    runPython("-c", SILENT, cwd=tmp_path, check=True)
    assert (tmp_path / "app.log").read_text() == "shown\n"
