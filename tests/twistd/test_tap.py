"""
The options of C{twistd signalfd}, and a real daemon that logs signals.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGRTMIN, SIGTERM, SIGUSR1
from types import SimpleNamespace
from typing import Any, cast

import pytest
from twisted.application.service import Application, IServiceCollection, Service
from twisted.logger import ILogObserver
from twisted.python.reflect import namedAny
from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError
from twisted.scripts._twistd_unix import ServerOptions

from tests.support.daemons import Program, adoptingOrphans, endOf, program, waitFor
from tests.support.forkserver import TWISTD
from tests.support.inreactor import inReactor
from tests.support.observers import Logged
from tests.support.reactors import DEADLINE, spin, turn
from tests.support.worlds import needsLinux
from txsignalfd import SignalService, lowlevel, tap
from txsignalfd._reload.sharing import unshareInherited
from txsignalfd._twistd import signallog
from txsignalfd._twistd.actions import DEFAULTS, Action
from txsignalfd._twistd.daemon import Daemon
from txsignalfd._twistd.output import Output
from txsignalfd._twistd.plugins import PluginFactory, installedPlugins
from txsignalfd._twistd.startup import startupSignals
from txsignalfd.siginfo import parse

ME = Path("/proc/self/comm").read_text().strip()


@contextmanager
def twistd(directory: Path, *options: str) -> Iterator[Program]:
    """
    Run C{twistd -n signalfd}, and wait until it watches its signals.
    """
    with program(directory, TWISTD, "-n", "signalfd", *options) as running:
        running.waitForOutput(f"pid {running.pid} watches")
        yield running


def test_everySignalIsLoggedWithItsSender(tmp_path: Path) -> None:
    """
    SIGTERM then stops twistd.
    """
    with twistd(tmp_path) as daemon:
        daemon.kill(SIGHUP)
        daemon.waitForOutput(
            f"] SIGHUP from pid {os.getpid()} ({ME}, uid {os.getuid()}) by kill\n"
        )
        lowlevel.sigqueue(daemon.pid, SIGRTMIN + 3, 7)
        daemon.waitForOutput(
            f"] SIGRTMIN+3 claims to come from pid {os.getpid()} (uid {os.getuid()})"
            " by sigqueue, value 7\n"
        )
        assert (tmp_path / "twistd.pid").read_text() == str(daemon.pid)
        assert daemon.stop() == -SIGTERM
        assert f"SIGTERM from pid {os.getpid()} (uid" in daemon.output()
        assert not (tmp_path / "twistd.pid").exists()
        assert "Traceback" not in daemon.output()


def test_signalsOfJobControlAreNotWatched(tmp_path: Path) -> None:
    """
    They still stop and continue the process.
    """
    with twistd(tmp_path) as daemon:
        (line,) = re.findall("watches (.*)", daemon.output())
        names = line.split()
        assert {"SIGHUP", "SIGINT", "SIGTERM", "SIGCHLD", "SIGWINCH"} <= set(names)
        assert names[-1] == "SIGRTMIN..SIGRTMAX"
        for name in ("TSTP", "TTIN", "TTOU", "CONT", "KILL", "STOP", "SEGV"):
            assert "SIG" + name not in names
        daemon.kill(signal.SIGTSTP)
        status = Path(f"/proc/{daemon.pid}/stat")
        waitFor(lambda: ") T " in status.read_text(), "it stops")
        daemon.kill(signal.SIGCONT)
        daemon.kill(SIGUSR1)
        daemon.waitForOutput("SIGUSR1 from pid")
        daemon.kill(SIGINT)
        assert daemon.wait() == -SIGINT


def test_signalsAreChosenByNameOrNumber(tmp_path: Path) -> None:
    """
    With or without SIG, in upper or lower case.
    """
    with twistd(tmp_path, "--signals", "HUP,sigusr1,RTMIN+3, 12") as daemon:
        daemon.waitForOutput("watches SIGHUP SIGUSR1 SIGUSR2 SIGRTMIN+3\n")
        daemon.kill(signal.SIGUSR2)
        daemon.waitForOutput("SIGUSR2 from pid")
        # SIGTERM is not watched: Twisted's own handler stops the reactor.
        assert daemon.stop() == -SIGTERM


def test_aWrongFormatIsAUsageError() -> None:
    with pytest.raises(UsageError, match="expected text or json, got 'xml'"):
        tap.Options().parseOptions(["--format", "xml"])


def test_jsonIsAloneOnStdout(tmp_path: Path) -> None:
    """
    The log of twistd goes to stderr.
    """
    with twistd(tmp_path, "--format", "json") as daemon:
        daemon.kill(SIGHUP)
        lowlevel.sigqueue(daemon.pid, SIGRTMIN, -5)
        waitFor(lambda: daemon.stdout.read_text().count("\n") == 2, "two lines")
        assert daemon.stop() == -SIGTERM
        lines = [json.loads(line) for line in daemon.stdout.read_text().splitlines()]
        assert "twistd" in daemon.stderr.read_text()
    for line in lines:
        age = datetime.now(timezone.utc) - datetime.fromisoformat(line.pop("time"))
        assert timedelta() <= age < timedelta(seconds=DEADLINE)
    by: dict[str, Any] = {"pid": os.getpid(), "uid": os.getuid(), "command": ME}
    assert lines[:2] == [
        {
            "signal": 1,
            "name": "SIGHUP",
            "code": "SI_USER",
            "vouched": True,
            "sender": {**by, "vouched": True},
            "child": None,
            "value": None,
        },
        {
            "signal": int(SIGRTMIN),
            "name": "SIGRTMIN",
            "code": "SI_QUEUE",
            "vouched": False,
            "sender": {**by, "vouched": False, "command": None},
            "child": None,
            "value": -5,
        },
    ]
    assert [line["name"] for line in lines[2:]] == ["SIGTERM"]


@needsLinux
def test_jsonDescribesAChild() -> None:
    descriptor = lowlevel.create_signalfd([signal.SIGCHLD])
    try:
        pid = os.fork()
        if pid == 0:
            os._exit(3)
        (info,) = parse(os.read(descriptor, 128))
        os.waitpid(pid, 0)
    finally:
        os.close(descriptor)
        lowlevel.sigprocmask(lowlevel.SIG_UNBLOCK, [signal.SIGCHLD])
    line = json.loads(signallog.toJSON(info, None, datetime.now(timezone.utc)))
    assert line["code"] == "CLD_EXITED"
    assert line["sender"] is None
    assert (line["child"]["pid"], line["child"]["exitCode"]) == (pid, 3)


def test_aClosedPipeIsLoggedOnce(tmp_path: Path) -> None:
    """
    As with C{twistd -n signalfd --format json | head -1}: JSON then goes to the
    log.  The SIGPIPE of our own write is not logged, or each line would raise the
    next one; a SIGPIPE from another process is.
    """
    read, write = os.pipe()
    command = [TWISTD, "-n", "signalfd", "--format", "json"]
    with (tmp_path / "stderr").open("wb") as stderr:
        daemon = subprocess.Popen(command, cwd=tmp_path, stdout=write, stderr=stderr)
    os.close(write)
    log = tmp_path / "stderr"
    try:
        waitFor(lambda: "watches" in log.read_text(), "it starts")
        daemon.send_signal(signal.SIGPIPE)
        assert json.loads(os.read(read, 4096))["name"] == "SIGPIPE"
        os.close(read)
        daemon.send_signal(SIGHUP)
        waitFor(lambda: '"name": "SIGHUP"' in log.read_text(), "it is logged")
        daemon.send_signal(SIGUSR1)
        waitFor(lambda: '"name": "SIGUSR1"' in log.read_text(), "it is logged")
        daemon.send_signal(SIGTERM)
        assert daemon.wait(DEADLINE) == -SIGTERM
        assert log.read_text().count("stdout: the reader has closed it") == 1
        assert '"name": "SIGPIPE"' not in log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        daemon.kill()
        daemon.wait()


@pytest.mark.parametrize(
    ("form", "stdout", "expected"),
    [
        ("text", False, "SIGRTMIN+3 claims to come from pid"),
        ("json", False, '"name": "SIGRTMIN+3"'),
        ("json", True, '"name": "SIGRTMIN+3"'),
    ],
)
def test_aSignalIsWritten(
    form: str,
    stdout: bool,
    expected: str,
    logged: Logged,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """
    As text or JSON, to the log or stdout, except for our own SIGPIPE.
    """

    async def main(reactor: Any) -> None:
        options = tap.Options()
        if not stdout:
            options.parent = UsageOptions()
            options.parent["nodaemon"] = 0
        options.parseOptions(["--signals", "PIPE,RTMIN+3", "--format", form])
        service = tap.makeService(options)
        assert isinstance(service, SignalService)
        service._reactor = reactor
        service.startService()
        os.kill(os.getpid(), signal.SIGPIPE)
        lowlevel.sigqueue(os.getpid(), SIGRTMIN + 3)
        written = ""
        while expected not in written:
            await turn()
            written += capsys.readouterr().out if stdout else str(logged.texts)
        assert "SIGPIPE from" not in written
        assert f"pid {os.getpid()} watches SIGPIPE SIGRTMIN+3" in logged.texts
        service.stopService()

    spin(main)


@pytest.mark.parametrize(
    ("parent", "logger"),
    [
        ({"nodaemon": 1}, "txsignalfd._twistd.signallog.logToStderr"),
        ({"nodaemon": 1, "logfile": "log"}, None),
        ({"nodaemon": 1, "syslog": 1}, None),
        ({"nodaemon": 0}, None),
    ],
)
def test_jsonChoosesALog(parent: dict[str, object], logger: str | None) -> None:
    """
    Only in the foreground, and if the user has chosen none.
    """
    options = tap.Options()
    options.parent = UsageOptions()
    options.parent.update(parent)
    try:
        options.parseOptions(["--format", "json"])
    finally:
        startupSignals.restore()
        unshareInherited()
    assert options.parent.get("logger") == logger
    assert options["signals"] == signallog.DEFAULT_SIGNALS
    if logger:
        assert ILogObserver.providedBy(namedAny(logger)())


def test_anErrorNamesItsOption() -> None:
    with pytest.raises(UsageError, match=r"^--signals: there is no signal 'FOO'$"):
        tap.Options().parseOptions(["--signals", "HUP,FOO"])


@contextmanager
def loggingTo(descriptor: int) -> Iterator[signallog.SignalLogger]:
    """
    A logger that writes JSON to a descriptor.
    """
    with open(descriptor, "w") as stdout:
        logger = signallog.SignalLogger(json=True, stdout=stdout)
        output = logger._stdout
        yield logger
        if isinstance(output, Output):
            output.close()


HANGUP = parse(SIGHUP.to_bytes(4, sys.byteorder) + bytes(124))[0]


def test_jsonGoesToTheLogAfterThePipeIsClosed(logged: Logged) -> None:
    """
    One warning says so.
    """
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    os.write(write, b"x" * 4096)
    with loggingTo(write) as logger:
        # Both wait for the reader.
        logger.receive(HANGUP)
        logger.receive(HANGUP)
        os.close(read)
        waitFor(lambda: len(logged.texts) == 3, "they are logged")
        logger.receive(HANGUP)
    warning, *lines = logged.texts
    assert warning == "stdout: the reader has closed it: JSON goes to this log"
    assert [json.loads(line)["name"] for line in lines] == ["SIGHUP"] * 3


@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_jsonGoesToTheLogWhileTheDiskIsFull(
    kind: str, tmp_path: Path, logged: Logged
) -> None:
    """
    It goes to stdout again when there is room.
    """
    read, write = os.pipe()
    if kind == "file":
        os.close(write)
        write = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    before = os.dup(write)
    with loggingTo(write) as logger:
        with open("/dev/full", "wb") as full:
            os.dup2(full.fileno(), write)
        logger.receive(HANGUP)
        waitFor(lambda: len(logged.texts) == 2, "it is logged")
        os.dup2(before, write)
        logger.receive(HANGUP)
    os.close(before)
    written = os.read(read, 4096) or (tmp_path / "file").read_bytes()
    os.close(read)
    assert json.loads(written.splitlines()[-1])["name"] == "SIGHUP"
    error, line = logged.texts
    assert error.startswith("stdout: [Errno 28] No space left on device: ")
    assert json.loads(line)["name"] == "SIGHUP"


def test_itWorksDaemonized(tmp_path: Path) -> None:
    """
    JSON goes to the log, because there is no stdout.
    """
    pidfile, log = tmp_path / "daemon.pid", tmp_path / "daemon.log"
    command = [TWISTD, "--pidfile", str(pidfile), "--logfile", str(log)]
    with adoptingOrphans():
        with program(tmp_path, *command, "signalfd", "--format=json") as launcher:
            assert launcher.wait() == 0
        pid = int(pidfile.read_text())
        waitFor(lambda: f"pid {pid} watches" in log.read_text(), "it starts")
        os.kill(pid, SIGHUP)
        line = '"name": "SIGHUP", "code"'
        waitFor(lambda: line in log.read_text(), "SIGHUP is logged")
        os.kill(pid, SIGTERM)
        status = endOf(pid)
    assert os.WTERMSIG(status) == SIGTERM
    assert not pidfile.exists()
    assert "Traceback" not in log.read_text()


@contextmanager
def listeningAsSyslog() -> Iterator[socket.socket]:
    """
    Listen as the system's log, where there is none.
    """
    with ExitStack() as stack:
        # Other runs of the tests have to wait.
        directory = os.open("/dev", os.O_RDONLY)
        stack.callback(os.close, directory)
        fcntl.flock(directory, fcntl.LOCK_EX)
        if os.path.lexists("/dev/log"):
            pytest.skip("needs to make /dev/log, which exists")
        syslog = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        stack.enter_context(syslog)
        syslog.settimeout(DEADLINE)
        syslog.bind("/dev/log")
        stack.callback(os.unlink, "/dev/log")
        yield syslog


@pytest.mark.skipif(not os.access("/dev", os.W_OK), reason="needs to make /dev/log")
def test_itWorksWithSyslog(tmp_path: Path) -> None:
    command = [TWISTD, "-n", "--syslog", "--prefix", "signals", "signalfd"]
    with listeningAsSyslog() as syslog, program(tmp_path, *command) as daemon:
        lines = iter(lambda: syslog.recv(8192).decode(), "")
        assert any(f"pid {daemon.pid} watches" in line for line in lines)
        daemon.kill(SIGHUP)
        line = next(line for line in lines if "SIGHUP" in line)
        assert "signals" in line
        assert f"SIGHUP from pid {os.getpid()}" in line
        assert daemon.stop() == -SIGTERM


@pytest.mark.skipif(not os.access("/dev", os.W_OK), reason="needs to make /dev/log")
def test_aSyslogThatReadsNothingStopsNothing(tmp_path: Path) -> None:
    command = [TWISTD, "-n", "--syslog", "--pidfile=", "signalfd"]
    with listeningAsSyslog() as syslog, program(tmp_path, *command) as daemon:
        while "watches" not in syslog.recv(8192).decode():
            pass
        fill("/dev/log")
        assert daemon.stop() == -SIGTERM


def fill(path: str) -> None:
    """
    Fill the queue of a datagram socket.
    """
    sent = 1
    while sent:
        # The buffer of one sender may be full before.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect(path)
            sender.setblocking(False)
            sent = 0
            with suppress(BlockingIOError):
                while True:
                    sent += sender.send(b"full")


def test_anInterruptFromATerminalHasNoSender(tmp_path: Path) -> None:
    """
    The kernel sends the SIGINT of ^C.
    """
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execv(TWISTD, [TWISTD, "-n", "signalfd"])
    output = b""
    while b"watches" not in output:
        output += os.read(terminal, 4096)
    os.write(terminal, b"\x03")
    while b"Server Shut Down" not in output:
        output += os.read(terminal, 4096)
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert b"] SIGINT from the kernel\r\n" in output
    assert os.WTERMSIG(status) == SIGINT


def parsed(*arguments: str, **parent: object) -> tap.Options:
    """
    Parse the options of C{twistd signalfd}, with options of twistd as parent.
    """
    # As twistd does, which imports the plugins.
    assert installedPlugins()
    options = tap.Options()
    options.parent = UsageOptions()
    options.parent.update(parent)
    try:
        options.parseOptions(list(arguments))
    finally:
        startupSignals.restore()
        unshareInherited()
    return options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "--on HUP=restart web",
            "--on: unknown action 'restart': expected reload, stop",
        ),
        ("--signals HUP,FOO", "twistd signalfd: --signals: there is no signal 'FOO'"),
        ("--signals HUP,KILL", "SIGKILL cannot be watched: the kernel lets no process"),
        ("--signals SEGV", "SIGSEGV cannot be watched: when the CPU raises it"),
        ("--signals 32", "32 cannot be watched: the C library uses it"),
        ("--signals=", "there is no signal ''"),
        ("--on HUP=reload", "--on: only with a command, such as web"),
        ("--stop-first", "--stop-first: only with a command, such as web"),
        ("--drain 0", "--drain: only with a command, such as web"),
        ("--stop-timeout 60", "--stop-timeout: only with a command, such as web"),
        ("--signals HUP socks", "--signals: only without a command"),
        ("--format json socks", "--format: only without a command"),
        (
            "--drain -1 web",
            "--drain: expected a number of seconds, 0 or more, got '-1'",
        ),
        (
            "--drain inf web",
            "--drain: expected a number of seconds, 0 or more, got 'inf'",
        ),
        (
            "--stop-timeout 1m web",
            "--stop-timeout: expected a number of seconds, 0 or more, got '1m'",
        ),
        ("--signals HPU", "there is no signal 'HPU'; did you mean HUP?"),
        ("--on SIGHPU=stop socks", "'SIGHPU'; did you mean SIGHUP?"),
        ("--on HUP=relaod socks", "run:COMMAND; did you mean reload?"),
        ("signalfd", "Unknown command: signalfd"),
        ("zzz", "twistd signalfd: Unknown command: zzz (try: twistd signalfd --help)"),
        ("sock --port 1", "Unknown command: sock; did you mean socks?"),
        ("socks --nosuch", "option --nosuch not recognized (try"),
        ("socks --prot 1", "option --prot not recognized; did you mean port?"),
        ("socks --drain 5", "--drain belongs before socks: it is an option of sig"),
        ("--port 1 socks", "--port belongs after socks: it is an option of socks"),
        ("--drian 5 socks", "option --drian not recognized; did you mean drain?"),
        ("-n socks", "-n belongs to twistd: it stands before signalfd"),
        ("socks --logfile=x", "--logfile belongs to twistd: it stands before"),
        ("--drain", "option --drain requires argument"),
    ],
)
def test_aWrongCommandLineIsNamed(arguments: str, message: str) -> None:
    """
    SIGHUP has its default action again.
    """
    with pytest.raises(SystemExit) as raised:
        ServerOptions().parseOptions(["signalfd", *arguments.split()])
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert signal.getsignal(SIGHUP) is signal.SIG_DFL


@pytest.mark.parametrize(
    ("parent", "foreground"),
    [({"nodaemon": 1}, True), ({"nodaemon": 0}, False), ({}, True)],
)
def test_itKnowsWhetherItIsADaemon(parent: dict[str, object], foreground: bool) -> None:
    """
    twist(1) has no such option, and stays in the foreground.
    """
    assert parsed(**parent).inForeground is foreground


def test_helpRestoresTheActionOfSighup(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("socks", "--help")
    assert signal.getsignal(SIGHUP) is signal.SIG_DFL
    assert "Usage" in capsys.readouterr().out


@inReactor
async def test_aHangupAtTheEndIsNotFatal(reactor: Any) -> None:
    """
    SIGHUP is deferred after the service has stopped.
    """
    service: Any = tap.makeService(parsed("--signals", "HUP"))
    service._reactor = reactor
    startupSignals.defer(DEFAULTS)
    service.startService()
    service.stopService()
    assert signal.getsignal(SIGHUP) is not signal.SIG_DFL
    startupSignals.restore()


def test_aPluginReadsTheOptionsOfTwistd() -> None:
    """
    Each reload parses them again.
    """
    options = parsed("--drain", "3", "socks", "--port", "1081", nodaemon=True)
    assert options.subCommand == "socks"
    assert options["nodaemon"] is True
    assert options["drain"] == 3.0
    again = options.parseAgain()
    assert again is not options.subOptions
    assert again["port"] == options.subOptions["port"] == "1081"
    with pytest.raises(KeyError, match="unheardOf"):
        tap.Options()["unheardOf"]


def test_aPluginSetsOptionsOfTwistdAtItsStart() -> None:
    """
    At a reload they have no effect any more, and the pidfile would be its own.
    """
    options = parsed("socks", pidfile="web.pid", uid=None)
    assert options.parent is not None
    assert ("pidfile" in options, "other" in options) == (True, False)
    assert (options.get("pidfile"), options.get("other", 7)) == ("web.pid", 7)
    options["uid"] = 1000
    options.isStarting = False
    options["uid"] = 2000
    assert options.parent["uid"] == 1000
    assert options["pidfile"] == ""
    options["other"] = 3
    assert "other" not in options.parent


def test_aPluginInAWorkerLeavesThePidfileToTheSupervisor() -> None:
    """
    Otherwise the next worker would find a daemon that runs already.
    """
    options = parsed("socks", pidfile="", uid=None)
    options.worker = cast("Any", object())
    options["pidfile"] = "service.pid"
    options["uid"] = 1000
    assert options.parent is not None
    assert (options.parent["pidfile"], options.parent["uid"]) == ("", 1000)


def factoryThat(act: Callable[[Any], None]) -> PluginFactory:
    """
    Return a factory that does something with its options before it makes a service.
    """

    def makeService(options: Any) -> Service:
        act(options)
        return Service()

    maker = SimpleNamespace(makeService=makeService)
    return PluginFactory(maker, "first", lambda: "again")


def test_aReloadWorksInTheDirectoryOfTheCommand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    C{--rundir} may have changed the working directory.
    """
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    made: list[str] = []

    factory = factoryThat(lambda it: made.append(f"{it} in {Path.cwd().name}"))
    assert isinstance(factory(), Service)
    factory()
    monkeypatch.chdir(elsewhere)
    factory()
    assert Path.cwd() == elsewhere
    here = tmp_path.name
    assert made == [f"first in {here}", f"again in {here}", f"again in {here}"]
    # In another root, the path of the directory means nothing.
    factory._root = os.stat(elsewhere)
    factory()
    assert made.pop() == "again in elsewhere"


def test_aReloadWorksInAReplacedDirectory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A deployment may remove the directory and make another one.  Without another
    one, absolute paths can still be read.
    """
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    found: list[bool] = []

    factory = factoryThat(lambda _: found.append(Path("new").exists()))
    factory()
    here.rmdir()
    factory()
    here.mkdir()
    (here / "new").touch()
    factory()
    assert found == [False, False, True]
    assert Path.cwd() == here


def test_aFailedReloadReturnsToTheOldRelease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Where the link to the working directory has changed.
    """
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    link = tmp_path / "current"
    link.symlink_to("old")
    monkeypatch.chdir(link)
    monkeypatch.setenv("PWD", str(link))
    factory = factoryThat(lambda _: None)
    factory()
    link.unlink()
    link.symlink_to("new")
    for end, name in (("rollback", "old"), ("commit", "new")):
        commit, rollback = factory.prepare()
        factory()
        assert Path.cwd().name == "new"
        {"commit": commit, "rollback": rollback}[end]()
        assert Path.cwd().name == name


def test_aReloadFailsWithoutTheDirectoryOfTheCommand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    If the process works in another one.
    """
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    factory = factoryThat(lambda _: None)
    factory()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").rmdir()
    with pytest.raises(FileNotFoundError, match="here"):
        factory()
    assert Path.cwd() == tmp_path


def test_anErrorNamesAPluginThatMakesNoService() -> None:
    maker = SimpleNamespace(tapname="forgetful", makeService=lambda options: None)
    with pytest.raises(TypeError, match="service of forgetful has made None,"):
        PluginFactory(maker, "first", lambda: "again")


def test_theDaemonHasTheOptionsOfTheCommandLine() -> None:
    line = ["--on", "URG=ignore", "--stop-timeout", "4", "--drain", "3", "socks"]
    try:
        service: Any = tap.makeService(parsed(*line))
    finally:
        unshareInherited()
    assert isinstance(service, Daemon)
    assert service.reloads.stopTimeout == 4.0
    assert service.reloads.drain == 3.0
    assert service._chosen == {signal.SIGURG: Action("ignore")}


def test_optionsWithoutTwistdDeferNoSignals() -> None:
    """
    Another program may only parse them.
    """
    options = tap.Options()
    options.opt_on("HUP=stop")
    assert options["on"][SIGHUP].name == "stop"


def test_aServiceGivesTwistdALogObserver() -> None:
    """
    When it joins the application, as that of carbon does.
    """

    class Observed(Service):
        def setServiceParent(self, parent: Any) -> None:
            super().setServiceParent(parent)
            parent.setComponent(ILogObserver, print)

    class Maker:
        def makeService(self, options: Any) -> Service:
            return Observed()

    factory = PluginFactory(Maker(), None, lambda: None)
    application: Any = Application("observed")
    factory.equip(application)
    assert application.getComponent(ILogObserver) is print
    assert list(IServiceCollection(application)) == []
    assert factory().parent is None
