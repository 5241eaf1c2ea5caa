"""
L{Output}: a reader that does not read stops nothing.
"""

from __future__ import annotations

import os
import pty
import re
import select
import socket
import subprocess
import syslog
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fcntl import F_SETPIPE_SZ, fcntl
from pathlib import Path
from signal import SIGINT, SIGQUIT, SIGRTMIN, SIGTERM, SIGUSR2
from typing import Any, cast

import pytest
from twisted.logger import (
    LegacyLogObserverWrapper,
    LogEvent,
    textFileLogObserver,
)
from twisted.python.log import FileLogObserver as LegacyFileLogObserver
from twisted.python.logfile import LogFile
from twisted.python.syslog import SyslogObserver

from tests.support.daemons import commandFor, waitFor
from tests.support.forkserver import TWISTD
from tests.support.kernel import inChild
from tests.support.observers import LOG, Logged, logging
from tests.support.reactors import DEADLINE, newReactor
from tests.support.served import write
from txsignalfd import lowlevel
from txsignalfd._twistd import output
from txsignalfd._twistd.logs import rotateLogs, unblockLog
from txsignalfd._twistd.output import LIMIT, Output, finishAll, flushAll, mayBlock


@contextmanager
def smallPipe() -> Iterator[tuple[int, int]]:
    """
    A pipe that is full after a page.
    """
    read, write = os.pipe()
    fcntl(write, F_SETPIPE_SZ, 4096)
    try:
        yield read, write
    finally:
        os.close(read)
        os.close(write)


def drain(read: int, out: Output) -> None:
    """
    Read until every line is written.
    """
    os.set_blocking(read, False)

    def isWritten() -> bool:
        with suppress(BlockingIOError):
            os.read(read, 65536)
        return not out._queue

    waitFor(isWritten, "every line is written")


@contextmanager
def outputTo(descriptor: int, *more: Any) -> Iterator[Output]:
    """
    An output that is closed in the end.
    """
    made = Output(descriptor, "out", *more)
    yield made
    made.close()


def test_everyLineIsWrittenInOrder() -> None:
    with smallPipe() as (read, write), outputTo(write) as out:
        for number in range(3000):
            out.write(f"{number}\n" if number % 2 else b"%d\n" % number)
            out.flush()
        with open(read, closefd=False) as reader:
            lines = [int(reader.readline()) for _ in range(3000)]
        assert lines == list(range(3000))
        assert out.fileno() == write


@pytest.mark.parametrize(
    ("piece", "dropped"), [(b"x" * 4096, "9|10"), (b"x" * 2047 + b"\n", "18|20")]
)
def test_droppedLinesAreCounted(piece: bytes, dropped: str, logged: Logged) -> None:
    """
    The log says how many, as soon as the reader reads again.
    """
    piece = piece * (4096 // len(piece))
    with smallPipe() as (read, write), outputTo(write) as out:
        for _ in range(LIMIT // 4096 + 10):
            out.write(piece)
        drain(read, out)
    (line,) = logged.texts
    # One may be in the pipe already.
    assert re.fullmatch(
        rf"out was not read fast enough: ({dropped}) lines were dropped", line
    )


def test_theEndWaitsForAReaderOnlyShortly(
    monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    """
    In all.  Lines that are not written are counted too.
    """
    monkeypatch.setattr(output, "PATIENCE", 0.05)
    with smallPipe() as (read, write), outputTo(write) as out:
        for _ in range(3):
            out.write(b"x" * 4096)
        finishAll()
        out.write("late")
        finishAll()
        assert [text.split()[-4] for text in logged.texts] == ["2", "3"]
        drain(read, out)


def test_anOutputWithoutALineHasNoThread() -> None:
    with smallPipe() as (_, write), outputTo(write) as out:
        finishAll()
        assert out._thread is None


def test_afterTheEndEachLineIsWaitedFor() -> None:
    with smallPipe() as (read, write), outputTo(write) as out:
        finishAll()
        out.write("late")
        os.set_blocking(read, False)
        assert os.read(read, 100) == b"late"


def test_aDescriptorMayBeNonBlocking(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Another process that has it may have set O_NONBLOCK.
    """
    with smallPipe() as (read, write), outputTo(write) as out:
        os.set_blocking(write, False)
        os.write(write, b"x" * 4096)
        wait, isWaiting = select.select, threading.Event()

        def waiting(*ends: Any) -> Any:
            isWaiting.set()
            return wait(*ends)

        monkeypatch.setattr(select, "select", waiting)
        out.write(b"x" * 100_000)
        assert isWaiting.wait(DEADLINE)
        received = -4096
        while received < 100_000:
            received += len(os.read(read, 4096))


def test_linesThatCannotBeWrittenAreReported() -> None:
    failed: list[tuple[bytes, int | None]] = []

    def note(data: bytes, error: OSError) -> None:
        failed.append((data, error.errno))

    with open("/dev/full", "wb") as full:
        with outputTo(full.fileno(), note) as out, outputTo(full.fileno()) as silent:
            out.write("lost")
            silent.write("lost")
    assert failed == [(b"lost", 28)]


def test_aForkedChildWritesByItself() -> None:
    with smallPipe() as (read, write), outputTo(write) as out:
        out.write("parent ")
        finishAll()

        def child() -> None:
            out.write("child")
            finishAll()

        inChild(child)
        assert os.read(read, 100) == b"parent child"


def test_onlyReadersMayBlockAWrite(tmp_path: Path) -> None:
    with ExitStack() as stack, open(tmp_path / "file", "w") as file:
        ends = [*os.pipe(), *pty.openpty()]
        for end in ends:
            stack.callback(os.close, end)
        pair = [stack.enter_context(each) for each in socket.socketpair()]
        assert all(map(mayBlock, [*ends, *(each.fileno() for each in pair)]))
        assert not mayBlock(file.fileno())
        assert not mayBlock(None)


def test_everyObserverOfAPipeIsUnblocked(tmp_path: Path) -> None:
    """
    Also a legacy observer.  Those of files, and others, are not changed.
    """

    class Other:
        def __call__(self, event: LogEvent) -> None:
            pass

        def fileno(self) -> int:
            return end

    before = len(output._outputs)
    with newReactor() as reactor, smallPipe() as (read, end):
        file = open(end, "w", closefd=False)  # noqa: SIM115
        legacy = LegacyFileLogObserver(file)
        plain: Any = LogFile.fromFullPath(str(tmp_path / "log"))
        with logging(
            textFileLogObserver(plain),
            textFileLogObserver(file),
            cast(Any, Other()),
            LegacyLogObserverWrapper(cast(Any, legacy.emit)),
        ):
            unblockLog(reactor)
            unblockLog(reactor)
            (out,) = output._outputs[before:]
            assert out.fileno() == end
            for _ in range(1000):
                LOG.info("a line that does not fit into a pipe a thousand times")
            assert len(rotateLogs()) == 3
        drain(read, out)
        out.close()
        plain.close()


def test_syslogIsSentByAThread(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Because syslog(3) waits while the socket of the system's log is full.
    """
    sent: list[tuple[int, str, str]] = []

    def send(priority: int, line: str) -> None:
        sent.append((priority, line, threading.current_thread().name))

    monkeypatch.setattr(syslog, "syslog", send)
    before = len(output._outputs)
    observer = LegacyLogObserverWrapper(cast(Any, SyslogObserver("test").emit))
    with newReactor() as reactor, logging(observer):
        unblockLog(reactor)
        unblockLog(reactor)
        (out,) = output._outputs[before:]
        LOG.error("a line\0")
        waitFor(lambda: len(sent) == 1, "the line is sent")
        out.close()
    ((priority, line, thread),) = sent
    assert priority == syslog.LOG_ALERT
    assert line.endswith("a line\\0")
    assert thread == "writes to syslog"


@contextmanager
def unread(
    directory: Path, *command: str
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """
    Run a program whose stdout is a pipe, and C{stderr} a file in a directory.
    """
    with (directory / "stderr").open("wb") as stderr, smallPipe() as (read, write):
        running = subprocess.Popen(command, cwd=directory, stdout=write, stderr=stderr)
        try:
            yield running, read
        finally:
            running.kill()
            running.wait()


def readUntil(read: int, text: str) -> None:
    """
    Read until a text was read.
    """
    received = ""
    while text not in received:
        received += os.read(read, 4096).decode()


@pytest.mark.parametrize("signo", [SIGTERM, SIGINT, SIGQUIT])
def test_aLogThatIsNotReadStopsNothing(signo: int, tmp_path: Path) -> None:
    write(tmp_path)
    with unread(tmp_path, *commandFor(tmp_path, "served")) as (daemon, read):
        readUntil(read, "serves")
        for _ in range(30):
            daemon.send_signal(SIGUSR2)
        daemon.send_signal(signo)
        assert daemon.wait(DEADLINE) == -signo


def test_jsonThatIsNotReadStopsNothing(tmp_path: Path) -> None:
    """
    The log says how many lines were dropped.
    """
    log = tmp_path / "stderr"
    command = [TWISTD, "-n", "signalfd", "--format", "json"]
    with unread(tmp_path, *command) as (daemon, _):
        waitFor(lambda: "watches" in log.read_text(), "it watches")
        for number in range(8000):
            lowlevel.sigqueue(daemon.pid, SIGRTMIN, number)
        daemon.send_signal(SIGTERM)
        assert daemon.wait(DEADLINE) == -SIGTERM
    assert "stdout was not read fast enough: " in log.read_text()


def test_aReaderThatReadsLosesNothing(tmp_path: Path) -> None:
    """
    It gets the last line of the log too.
    """
    write(tmp_path)
    with unread(tmp_path, *commandFor(tmp_path, "served")) as (daemon, read):
        readUntil(read, "serves")
        daemon.send_signal(SIGTERM)
        readUntil(read, "Server Shut Down")
        assert daemon.wait(DEADLINE) == -SIGTERM


def test_theLogIsWrittenBeforeAnUpgrade() -> None:
    """
    And later lines do not wait.
    """
    with smallPipe() as (read, write):
        out = Output(write, "a pipe")
        out.write("line\n")
        flushAll()
        assert os.read(read, 100) == b"line\n"
        out.close()
