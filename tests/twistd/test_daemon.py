"""
C{twistd signalfd PLUGIN}: a real daemon, and its action for each signal.
"""

from __future__ import annotations

import os
import pty
import re
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from signal import (
    SIGCHLD,
    SIGHUP,
    SIGINT,
    SIGQUIT,
    SIGRTMIN,
    SIGTERM,
    SIGUSR1,
    SIGUSR2,
    SIGWINCH,
    Signals,
)

import pytest

from tests.support.clients import Web, canConnect, fetch, tcp
from tests.support.daemons import (
    RELOADED,
    Program,
    adoptingOrphans,
    caught,
    childrenOf,
    commandFor,
    endOf,
    program,
    reload,
    serving,
    waitFor,
)
from tests.support.forkserver import TWISTD
from tests.support.served import write
from tests.support.servicemanager import ServiceManager, listening
from txsignalfd._twistd.actions import REPEAT

ME = Path("/proc/self/comm").read_text().strip()


def listen(port: int) -> str:
    """
    Return an endpoint on 127.0.0.1.
    """
    return f"tcp:{port}:interface=127.0.0.1"


@contextmanager
def hanging(port: int) -> Iterator[Web]:
    """
    Send a request that is answered as soon as the file C{go} exists.
    """
    with closing(Web(tcp(port))) as web:
        web.send("/go")
        assert web.socket.recv(1, 2)  # MSG_PEEK: half of the response has arrived.
        yield web


def endsBy(daemon: Program, signo: int) -> None:
    """
    Assert that a daemon ends by a signal, after an orderly shutdown.
    """
    assert daemon.wait() == -signo
    assert not (daemon.directory / "twistd.pid").exists()
    assert "Server Shut Down." in daemon.output()


def test_aReloadIsLogged(tmp_path: Path) -> None:
    """
    With its requester, its duration and its outcome.
    """
    write(tmp_path)
    with serving(tmp_path, "served") as daemon:
        reload(daemon)
        who = f"SIGHUP from pid {os.getpid()} ({ME}, uid {os.getuid()}) by kill"
        assert f"] reloading: requested by {who}\n" in daemon.output()
        assert " s: generation 2 serves\n" in daemon.output()


def test_requestsDuringAReloadCauseOneMore(tmp_path: Path) -> None:
    write(tmp_path, start="slow")
    with serving(tmp_path, "served") as daemon:
        daemon.kill(SIGHUP)
        daemon.waitForOutput("reloading")
        for _ in range(20):
            daemon.kill(SIGHUP)
        waitFor(lambda: daemon.output().count(RELOADED) == 2, "two reloads")
        daemon.kill(SIGUSR2)
        daemon.waitForOutput("generation 3 serves: ")
        assert daemon.output().count("reloading: ") == 2


@pytest.mark.parametrize("signo", [SIGTERM, SIGINT])
def test_aStopWaitsForOpenConnections(signo: int, tmp_path: Path, port: int) -> None:
    """
    New connections are refused meanwhile.
    """
    write(tmp_path, listen=[listen(port)])
    with serving(tmp_path, "served") as daemon:
        with hanging(port) as web:
            daemon.kill(signo)
            waitFor(lambda: not canConnect(tcp(port)), "the port closes")
            daemon.kill(SIGHUP)
            # Only the same signal would stop it at once.
            daemon.kill(SIGTERM if signo == SIGINT else SIGINT)
            daemon.waitForOutput("already stopping")
            (tmp_path / "go").touch()
            web.receive()
        endsBy(daemon, signo)
        assert (
            "] no reload: the service is being stopped; requested by SIGHUP from"
            in daemon.output()
        )


@pytest.mark.parametrize(
    "signals",
    [(SIGTERM, SIGTERM), (SIGINT, SIGINT), (SIGQUIT,), (SIGTERM, SIGQUIT)],
    ids=lambda signals: " ".join(Signals(signo).name for signo in signals),
)
def test_aSecondSignalOrSigquitStopsItAtOnce(
    signals: tuple[int, ...], tmp_path: Path, port: int
) -> None:
    """
    Even if a connection is open, and C{stopService} hangs.
    """
    write(tmp_path, listen=[listen(port)], stop="hang")
    with serving(tmp_path, "--stop-timeout=1000", "served") as daemon:
        with hanging(port):
            for signo in signals:
                daemon.kill(signo)
                daemon.waitForOutput(f"{Signals(signo).name} from pid")
            if signals[1:] == signals[:1]:
                repeatUntilNew(daemon, signals[0])
            endsBy(daemon, signals[0])
            assert "stopping at once" in daemon.output()


def repeatUntilNew(daemon: Program, signo: int) -> None:
    """
    Send a signal again until it is a new request, not a repetition of the first.

    It is a repetition within C{REPEAT}, and while the daemon is busy.
    """
    # The same output counts: an earlier signal may be logged in any moment.
    while "stopping at once" not in (output := daemon.output()):
        lines = output.count(f"{Signals(signo).name} from pid")
        # The time is what is tested: an earlier signal would be a repetition.
        time.sleep(REPEAT)
        daemon.kill(signo)
        waitFor(
            lambda: daemon.output().count(f"{Signals(signo).name} from pid") > lines,  # noqa: B023
            "the signal is logged",
        )


@pytest.mark.parametrize("options", [[], ["--stop-first"]])
def test_aStopDoesNotWaitForAReload(options: list[str], tmp_path: Path) -> None:
    write(tmp_path)
    with serving(tmp_path, *options, "served") as daemon:
        write(tmp_path, start="hang")
        daemon.kill(SIGHUP)
        daemon.waitForOutput("reloading")
        daemon.kill(SIGTERM)
        endsBy(daemon, SIGTERM)
        assert "the service is being stopped" in daemon.output()


def test_theLogSaysWhyAReloadHasToWait(tmp_path: Path) -> None:
    """
    The last generation is still starting; the report says so too.
    """
    write(tmp_path)
    with serving(tmp_path, "served") as daemon:
        write(tmp_path, start="hang")
        daemon.kill(SIGHUP)
        daemon.waitForOutput("reloading")

        def requested() -> object:
            daemon.kill(SIGHUP)
            return re.search(
                r"\] generation 2 has been starting for \d+ s; one more reload follows"
                " it, requested by SIGHUP from pid .* times",
                daemon.output(),
            )

        waitFor(requested, "the reason is logged")
        daemon.kill(SIGUSR2)
        daemon.waitForOutput("generation 2 starts: 0 connections, no port")
        daemon.kill(SIGTERM)
        endsBy(daemon, SIGTERM)


def test_sigusr1RotatesTheLogAndSigusr2Reports(tmp_path: Path, port: int) -> None:
    write(tmp_path, listen=[listen(port)])
    log = tmp_path / "log"
    whole = commandFor(tmp_path, "served", twistd=["--logfile", str(log)])
    with program(tmp_path, *whole) as daemon:
        waitFor(lambda: log.exists() and "serves" in log.read_text(), "it serves")
        daemon.kill(SIGUSR1)
        waitFor((tmp_path / "log.1").exists, "it is rotated")
        waitFor(lambda: log.exists() and "rotated" in log.read_text(), "it goes on")
        with hanging(port):
            daemon.kill(SIGUSR2)
            reported = f"generation 1 serves: 1 connection, tcp:127.0.0.1:{port}"
            waitFor(lambda: reported in log.read_text(), "a report")
        assert daemon.stop() == -SIGTERM


def test_onChangesTheActionOfASignal(tmp_path: Path) -> None:
    write(tmp_path)
    log = tmp_path / "log"
    on = [
        "HUP=report",
        "USR1=reload",
        "USR2=ignore",
        "WINCH=rotate",
        "RTMIN=call:tests.support.served.note",
        "RTMIN+1=run:echo It ran, $0 >&2; exit 3",
        "RTMIN+2=quit",
        "RTMIN+3=stop",
    ]
    options = [f"--on={each}" for each in on]
    whole = commandFor(tmp_path, *options, "served", twistd=["--logfile", str(log)])

    def said(text: str) -> bool:
        return text in log.read_text()

    with program(tmp_path, *whole) as daemon:
        waitFor(lambda: log.exists() and said("pid"), "it starts")
        waitFor(lambda: said("SIGRTMIN+2=quit, SIGRTMIN+3=stop"), "it serves")
        daemon.kill(SIGUSR2)
        daemon.kill(SIGHUP)
        waitFor(lambda: said("generation 1 serves: 0 connections"), "a report")
        waitFor(lambda: said("SIGUSR2 from pid"), "it is logged, and ignored")
        daemon.kill(SIGUSR1)
        waitFor(lambda: said(RELOADED), "a reload")
        daemon.kill(SIGRTMIN)
        waitFor(lambda: said("noted SIGRTMIN from pid"), "a call")
        daemon.kill(SIGRTMIN + 1)
        waitFor(lambda: said("exited with status 3"), "a command")
        assert said("RTMIN+1=run:echo It ran, $0 >&2; exit 3")
        assert said("echo It ran, $0 >&2; exit 3: It ran, /bin/sh")
        daemon.kill(SIGWINCH)
        waitFor((tmp_path / "log.1").exists, "it is rotated")
        daemon.kill(SIGRTMIN + 3)
        assert daemon.wait() == -(SIGRTMIN + 3)


def test_theHangupOfATerminalStopsIt(tmp_path: Path) -> None:
    """
    The kernel sends this SIGHUP.  A SIGHUP from a process reloads it.
    """
    write(tmp_path)
    log = tmp_path / "log"
    whole = commandFor(tmp_path, "served", twistd=["--logfile", str(log)])
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execvp(whole[0], whole)
    waitFor(lambda: log.exists() and "serves" in log.read_text(), "it serves")
    os.kill(pid, SIGHUP)
    waitFor(lambda: RELOADED in log.read_text(), "it reloads")
    os.close(terminal)
    assert os.WTERMSIG(endOf(pid)) == SIGHUP
    assert "] SIGHUP from the kernel: stopping\n" in log.read_text()
    assert not (tmp_path / "twistd.pid").exists()


#: A shell in a terminal, which forwards SIGHUP to its job, as bash does.
LEADER = """
import os, signal, subprocess, sys
job = subprocess.Popen(sys.argv[1:])
signal.signal(signal.SIGHUP, lambda *_: job.send_signal(signal.SIGHUP))
signal.signal(signal.SIGUSR1, lambda *_: job.send_signal(signal.SIGHUP))
sys.exit(-job.wait())
"""


def test_theShellOfAClosedTerminalStopsIt(tmp_path: Path) -> None:
    """
    While the terminal is open, a SIGHUP from the shell reloads it.
    """
    write(tmp_path)
    log = tmp_path / "log"
    whole = commandFor(tmp_path, "served", twistd=["--logfile", str(log)])
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execv(sys.executable, [sys.executable, "-c", LEADER, *whole])
    waitFor(lambda: log.exists() and "serves" in log.read_text(), "it serves")
    waitFor(lambda: {SIGHUP, SIGUSR1} <= caught(pid), "the shell is ready")
    os.kill(pid, SIGUSR1)
    waitFor(lambda: RELOADED in log.read_text(), "it reloads")
    os.close(terminal)
    waitFor(lambda: "Server Shut Down." in log.read_text(), "it stops")
    assert os.waitstatus_to_exitcode(endOf(pid)) == SIGHUP


#: The same, which ends when the job has received the signal.
ENDING_LEADER = """
import os, signal, subprocess, sys, time
def hangUp(*_):
    job.send_signal(signal.SIGHUP)
    while ": stopping" not in open("log").read():
        time.sleep(0.001)  # only the log shows it, and the test has a deadline
    os._exit(0)
signal.signal(signal.SIGHUP, hangUp)
job = subprocess.Popen(sys.argv[1:])
job.wait()
"""


def test_theEndOfTheShellIsTheSameRequest(tmp_path: Path) -> None:
    """
    The kernel sends another SIGHUP then, to the processes in the foreground.
    """
    write(tmp_path, stop="go")
    log = tmp_path / "log"
    again = "SIGHUP from the kernel: already stopping"
    whole = commandFor(tmp_path, "served", twistd=["--logfile", str(log)])
    with adoptingOrphans():
        leader, terminal = pty.fork()
        if leader == 0:
            os.chdir(tmp_path)
            os.execv(sys.executable, [sys.executable, "-c", ENDING_LEADER, *whole])
        waitFor(lambda: log.exists() and "serves" in log.read_text(), "it serves")
        (pid,) = childrenOf(leader)
        os.close(terminal)
        endOf(leader)
        waitFor(lambda: again in log.read_text(), "the kernel sends it")
        (tmp_path / "go").touch()
        status = endOf(pid)
    assert os.WTERMSIG(status) == SIGHUP
    assert "at once" not in log.read_text()


def test_nohupDisablesReload(tmp_path: Path) -> None:
    write(tmp_path)
    with serving(tmp_path, "served", before=["nohup"]) as daemon:
        daemon.kill(SIGHUP)
        daemon.kill(SIGUSR2)
        daemon.waitForOutput("SIGUSR2 from pid")
        assert "reloading" not in daemon.output()
        daemon.kill(SIGTERM)
        endsBy(daemon, SIGTERM)


def test_aHangupNeverKillsIt(tmp_path: Path) -> None:
    """
    From the moment at which the options of the plugin are parsed until the end.
    """
    write(tmp_path, make="wait", start="slow")
    with program(tmp_path, *commandFor(tmp_path, "served")) as daemon:
        waitFor((tmp_path / "parsing").exists, "its options are parsed")
        daemon.kill(SIGHUP)
        (tmp_path / "go").touch()
        stopping = False

        def hasEnded() -> bool:
            nonlocal stopping
            daemon.kill(SIGHUP)
            if not stopping and daemon.output().count(RELOADED) > 2:
                daemon.kill(SIGTERM)
                stopping = True
            return daemon.process.poll() is not None

        waitFor(hasEnded, "it ends")
        endsBy(daemon, SIGTERM)
        came = "SIGHUP arrived during startup: handling it now"
        assert came in daemon.output()


def test_itWorksDaemonized(tmp_path: Path, port: int) -> None:
    """
    SIGHUP is sent as soon as its pid is known.
    """
    write(tmp_path, listen=[listen(port)])
    pidfile, log = tmp_path / "daemon.pid", tmp_path / "daemon.log"
    files = [f"--pidfile={pidfile}", f"--logfile={log}"]
    whole = commandFor(tmp_path, "served", twistd=files, foreground=False)
    with adoptingOrphans():
        with program(tmp_path, *whole) as launcher:
            waitFor(lambda: pidfile.exists() and pidfile.read_text() != "", "its pid")
            pid = int(pidfile.read_text())
            os.kill(pid, SIGHUP)
            assert launcher.wait() == 0
        waitFor(lambda: RELOADED in log.read_text(), "it reloads")
        fetch(tcp(port))
        # It has no terminal.
        os.kill(pid, SIGTERM)
        status = endOf(pid)
    assert os.WTERMSIG(status) == SIGTERM
    assert not pidfile.exists()
    assert "Traceback" not in log.read_text()


def test_itWorksUnderTwist(tmp_path: Path, port: int) -> None:
    """
    twist(1) also runs plugins, always in the foreground.
    """
    write(tmp_path, listen=[listen(port)])
    options = ["--log-format", "text"]
    command = commandFor(tmp_path, "served", twistd=options, foreground=False)
    twist = [TWISTD.removesuffix("d") if each == TWISTD else each for each in command]
    with program(tmp_path, *twist) as daemon:
        daemon.waitForOutput(f"pid {daemon.pid} serves")
        reload(daemon)
        assert canConnect(tcp(port))
        assert daemon.stop() == -SIGTERM


def test_itServesWhenItsStartIsDone(tmp_path: Path) -> None:
    """
    A Deferred of C{startService} may take its time.
    """
    write(tmp_path, start="go")
    with program(tmp_path, *commandFor(tmp_path, "served")) as daemon:
        waitFor(lambda: SIGUSR2 in caught(daemon.pid), "it starts")
        daemon.kill(SIGUSR2)
        daemon.waitForOutput("generation 1 starts: ")
        assert "serves" not in daemon.output()
        (tmp_path / "go").touch()
        daemon.waitForOutput(f"pid {daemon.pid} serves; ")
        daemon.kill(SIGTERM)
        endsBy(daemon, SIGTERM)


def test_systemdIsNotified(tmp_path: Path, port: int) -> None:
    """
    Of the start, reloads, a failed reload and the stop; the watchdog is fed.
    """
    write(tmp_path, listen=[listen(port)])

    def read(manager: ServiceManager, name: str) -> dict[str, str]:
        while True:
            pid, message = manager.readFrom()
            assert pid == daemon.pid
            if name in message:
                return message
            assert message in ({"WATCHDOG": "1"}, {"EXTEND_TIMEOUT_USEC": "10000000"})

    with listening(str(tmp_path / "notify")) as manager:
        before = ["env", f"NOTIFY_SOCKET={manager.name}", "WATCHDOG_USEC=200000"]
        with serving(tmp_path, "served", before=before) as daemon:
            assert read(manager, "READY") == {
                "READY": "1",
                "STATUS": "generation 1 serves",
            }
            began = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            daemon.kill(SIGHUP)
            message = read(manager, "RELOADING")
            now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            assert began <= int(message.pop("MONOTONIC_USEC")) <= now
            assert message == {"RELOADING": "1"}
            assert read(manager, "READY")["STATUS"] == "generation 2 serves"
            write(tmp_path, make="raise")
            daemon.kill(SIGHUP)
            assert "MONOTONIC_USEC" in read(manager, "RELOADING")
            assert read(manager, "READY") == {
                "READY": "1",
                "STATUS": "not reloaded, generation 2 serves on:"
                " RuntimeError: it was told to raise",
            }
            read(manager, "WATCHDOG")
            with hanging(port) as web:
                daemon.kill(SIGTERM)
                assert read(manager, "STOPPING") == {"STOPPING": "1"}
                read(manager, "EXTEND_TIMEOUT_USEC")
                # The watchdog is fed while connections drain.
                read(manager, "WATCHDOG")
                (tmp_path / "go").touch()
                web.receive()
            endsBy(daemon, SIGTERM)


def test_aWrongCommandLineIsAUsageError(tmp_path: Path) -> None:
    """
    The last line is the reason.
    """
    with program(tmp_path, *commandFor(tmp_path, "--drain=-1", "served")) as daemon:
        assert daemon.wait() == 1
        why = "--drain: expected a number of seconds, 0 or more, got '-1'"
        assert why in daemon.output().splitlines()[-1]
        assert not (tmp_path / "twistd.pid").exists()


def test_aFailureOfACallIsLogged(tmp_path: Path) -> None:
    """
    The daemon continues to serve.
    """
    write(tmp_path)
    options = ["--on=USR1=call:tests.support.served.fall", "served"]
    with serving(tmp_path, *options) as daemon:
        daemon.kill(SIGUSR1)
        daemon.waitForOutput("ValueError: it fell")
        reload(daemon)
        daemon.kill(SIGTERM)
        endsBy(daemon, SIGTERM)


def test_childrenOfACommandDoNotRunItAgain(tmp_path: Path) -> None:
    """
    With C{--on CHLD=run:}, the end of the command is no new SIGCHLD.
    """
    write(tmp_path)
    with serving(tmp_path, "--on=CHLD=run:echo ran; exit 1", "served") as daemon:
        for count in (1, 2, 3):
            daemon.kill(SIGCHLD)
            # While the SIGCHLD of the end is pending, the kernel would drop this one.
            waitFor(lambda: daemon.output().count("status 1\n") >= count, "it ran")  # noqa: B023
        daemon.kill(SIGTERM)
        endsBy(daemon, SIGTERM)
        assert daemon.output().count(": ran\n") == 3


def test_aLongLineOfACommandIsLoggedInPieces(tmp_path: Path) -> None:
    """
    A command without line breaks does not use up the memory.
    """
    write(tmp_path)
    command = "head -c 100000 /dev/zero | tr '\\0' x; until test -e go; do :; done"
    with serving(tmp_path, f"--on=USR1=run:{command}", "served") as daemon:
        daemon.kill(SIGUSR1)
        waitFor(lambda: daemon.output().count("x") > 90_000, "most of it is logged")
        (tmp_path / "go").touch()
        daemon.kill(SIGTERM)
        endsBy(daemon, SIGTERM)
