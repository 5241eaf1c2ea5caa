"""
A real daemon that inherits ignored or blocked signals, receives signals while it
starts, or is the first process of a pid namespace.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import (
    SIGCHLD,
    SIGHUP,
    SIGINT,
    SIGKILL,
    SIGQUIT,
    SIGRTMIN,
    SIGTERM,
    SIGUSR1,
    SIGUSR2,
    SIGWINCH,
    Signals,
)

import pytest

from tests.support.daemons import (
    RELOADED,
    Program,
    asInit,
    childrenOf,
    commandFor,
    program,
    serving,
    startedWith,
    waitFor,
)
from tests.support.forkserver import TWISTD
from tests.support.served import write
from txsignalfd._proc.status import ofProcess
from txsignalfd._twistd.actions import REPEAT
from txsignalfd._twistd.startup import removeOwnPidfile

STOPS = [SIGTERM, SIGINT, SIGQUIT]


@contextmanager
def starting(directory: Path, *command: str) -> Iterator[Program]:
    """
    Run a daemon whose service is not made before the file C{go} exists.
    """
    write(directory, make="wait")
    with program(directory, *commandFor(directory, *command, "served")) as daemon:
        waitFor((directory / "parsing").exists, "its options are parsed")
        yield daemon


def waitsForGo(outer: Program) -> None:
    """
    Wait until the service is being made.
    """
    waitFor((outer.directory / "parsing").exists, "its options are parsed")


# -- inherited state


def test_ignoredSignalsStayIgnored(tmp_path: Path) -> None:
    """
    A background job of a script ignores SIGINT and SIGQUIT.
    """
    ignored = {SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2}
    write(tmp_path)
    with serving(tmp_path, "served", before=startedWith(ignored)) as daemon:
        assert ofProcess(daemon.pid).main.ignored >= ignored
        assert "serves; SIGTERM=stop\n" in daemon.output()
        for signo in ignored:
            daemon.kill(signo)
        assert daemon.stop() == -SIGTERM


@pytest.mark.parametrize("signo", [SIGHUP, SIGINT])
def test_ignoredSignalThatOnNames(signo: int, tmp_path: Path) -> None:
    """
    It has that action.
    """
    write(tmp_path)
    on = [f"--on={signo}=stop", "served"]
    with serving(tmp_path, *on, before=startedWith([signo])) as daemon:
        daemon.kill(signo)
        assert daemon.wait() == -signo


def test_ignoredSigtermStopsTheDaemon(tmp_path: Path) -> None:
    """
    Nothing else could stop it in order.  Twisted does the same.
    """
    write(tmp_path)
    with serving(tmp_path, "served", before=startedWith([SIGTERM])) as daemon:
        assert daemon.stop() == -SIGTERM


def test_loggerIgnoresAnIgnoredSigint(tmp_path: Path) -> None:
    """
    It logs the signal, and does not stop.
    """
    command = [*startedWith([SIGINT]), TWISTD, "-n", "signalfd"]
    with program(tmp_path, *command) as daemon:
        daemon.waitForOutput("watches")
        daemon.kill(SIGINT)
        daemon.waitForOutput("SIGINT from pid")
        daemon.kill(SIGHUP)
        daemon.waitForOutput("SIGHUP from pid")
        assert daemon.stop() == -SIGTERM


@pytest.mark.parametrize(
    ("name", "signo"),
    [("twistd", SIGTERM), ("twistd", SIGINT), ("twist", SIGQUIT)],
)
def test_blockedSignals(name: str, signo: int, tmp_path: Path) -> None:
    """
    Each has its action, and the process ends by the one that stops it.
    """
    write(tmp_path)
    command = commandFor(tmp_path, "served", foreground=name == "twistd")
    command[command.index(TWISTD)] = str(Path(TWISTD).with_name(name))
    blocked = startedWith(blocked=[*STOPS, SIGHUP, SIGUSR1, SIGUSR2])
    with program(tmp_path, *blocked, *command) as daemon:
        daemon.waitForOutput("serves")
        daemon.kill(SIGHUP)
        daemon.waitForOutput(RELOADED[2:])
        daemon.kill(SIGUSR1)
        daemon.waitForOutput("SIGUSR1")
        daemon.kill(SIGUSR2)
        daemon.waitForOutput("generation 2 serves: ")
        daemon.kill(signo)
        assert daemon.wait() == -signo


# -- signals during the start


def test_signalsDuringTheStart(tmp_path: Path) -> None:
    """
    Each is handled when the service has started, and once.
    """
    results = {
        SIGHUP: "generation 2 serves",
        SIGUSR1: "rotating the log",
        SIGUSR2: "serves: 0 connections",
        SIGWINCH: "noted SIGWINCH",
        SIGRTMIN: "noted SIGRTMIN",
    }
    call = "call:tests.support.served.note"
    with starting(tmp_path, f"--on=WINCH={call}", f"--on=RTMIN={call}") as daemon:
        for signo in [*results] * 3:
            daemon.kill(signo)
        (tmp_path / "go").touch()
        for result in results.values():
            daemon.waitForOutput(result)
        assert daemon.stop() == -SIGTERM
        came = "arrived during startup: handling it now"
        assert daemon.output().count(came) == len(results)
        assert daemon.output().count(RELOADED) == 1


@pytest.mark.parametrize("on", [[], ["--on=USR1=stop"]])
def test_stopDuringTheStart(on: list[str], tmp_path: Path) -> None:
    """
    The signal ends the process immediately, although the start hangs.
    """
    signo = SIGUSR1 if on else SIGTERM
    with starting(tmp_path, *on) as daemon:
        daemon.kill(signo)
        assert daemon.wait() == -signo


# -- handlers of the program


def test_signalBeforeAStartThatFails(tmp_path: Path) -> None:
    """
    The reason is shown; a signal that was deferred does not kill the process.
    """
    os.mkfifo(tmp_path / "options")
    with program(tmp_path, *commandFor(tmp_path, "served")) as daemon:
        waitFor((tmp_path / "parsing").exists, "its options are parsed")
        daemon.kill(SIGUSR2)
        (tmp_path / "options").write_text("nonsense")
        assert daemon.wait() == 1
        assert "options: Expecting value" in daemon.output()


@pytest.mark.parametrize("when", ["make", "start"])
def test_handlerOfTheProgram(when: str, tmp_path: Path) -> None:
    """
    The log says, once, which action has replaced it.
    """
    write(tmp_path, **{when: "catch"})
    with serving(tmp_path, "served") as daemon:
        warning = (
            "SIGHUP is watched by txsignalfd (action reload); the handler"
            " tests.support.served.caught, installed since, is not called:"
            " use --on HUP=leave\n"
        )
        daemon.waitForOutput(warning)
        daemon.kill(SIGHUP)
        daemon.waitForOutput("generation 2 serves")
        assert daemon.stop() == -SIGTERM
        assert daemon.output().count("watched by txsignalfd") == 1
        assert "the program has caught" not in daemon.output()


def test_handlerThatReplacesAChosenAction(tmp_path: Path) -> None:
    """
    A handler that is installed while the program is loaded is older than --on.
    """
    write(tmp_path, make="catch")
    with serving(tmp_path, "--on=HUP=report", "served") as daemon:
        daemon.kill(SIGHUP)
        daemon.waitForOutput("generation 1 serves: ")
        assert daemon.stop() == -SIGTERM
        assert "watched by txsignalfd" not in daemon.output()


@pytest.mark.parametrize("when", ["make", "start"])
def test_signalThatIsLeftToTheProgram(when: str, tmp_path: Path) -> None:
    """
    Its handler is called, and the daemon does nothing.
    """
    write(tmp_path, **{when: "catch"})
    with serving(tmp_path, "--on=HUP=leave", "served") as daemon:
        assert "serves; SIGHUP=leave, " in daemon.output()
        daemon.kill(SIGHUP)
        daemon.waitForOutput(f"the program has caught {SIGHUP}\n")
        assert daemon.stop() == -SIGTERM
        assert "reloading" not in daemon.output()
        assert "watched by txsignalfd" not in daemon.output()


@pytest.mark.parametrize("signo", STOPS)
def test_stopThatIsLeftToTwisted(signo: int, tmp_path: Path) -> None:
    """
    It has the effect that it has in any twistd.
    """
    write(tmp_path)
    name = Signals(signo).name
    with serving(tmp_path, f"--on={name}=leave", "served") as daemon:
        # Twisted installs its handlers when the reactor starts, which is later.
        daemon.kill(SIGUSR2)
        daemon.waitForOutput("delayed calls")
        daemon.kill(signo)
        assert daemon.wait() == -signo
        assert ("Server Shut Down." in daemon.output()) == (signo != SIGQUIT)


def test_sigchldThatIsLeftToTwisted(tmp_path: Path) -> None:
    """
    Twisted reports the ends of children.
    """
    write(tmp_path)
    on = ["--on=CHLD=leave", "--on=WINCH=run:echo it runs; exit 3"]
    with serving(tmp_path, *on, "served") as daemon:
        daemon.kill(SIGWINCH)
        daemon.waitForOutput("it runs; exit 3: it runs\n")
        daemon.waitForOutput("exited with status 3")
        assert daemon.stop() == -SIGTERM


# -- the first process of a pid namespace


@pytest.mark.parametrize("signo", [SIGTERM, SIGQUIT])
def test_firstProcessIsStoppedDuringTheStart(signo: int, tmp_path: Path) -> None:
    """
    It stops when its service has started, with 0.  Such a process has no default
    actions, and cannot kill itself by a signal.
    """
    write(tmp_path, make="wait")
    with asInit(tmp_path, "served", until=waitsForGo) as (outer, pid):
        for each in (signo, SIGHUP, signo):
            os.kill(pid, each)
        (tmp_path / "go").touch()
        assert outer.wait() == 0
        assert "pid 1 serves" in outer.output()
        assert f"{Signals(signo).name} arrived during startup" in outer.output()
        assert "Traceback" not in outer.output()


def test_startOfTheFirstProcessHangs(tmp_path: Path) -> None:
    """
    A second SIGTERM, after half a second, ends it immediately.
    """
    write(tmp_path, make="wait")
    with asInit(tmp_path, "served", until=waitsForGo) as (outer, pid):
        os.kill(pid, SIGTERM)
        # Within that time it would be the same request.
        time.sleep(REPEAT)
        with suppress(ProcessLookupError):
            while outer.process.poll() is None:
                os.kill(pid, SIGTERM)
        assert outer.wait() == 128 + SIGTERM


def test_firstProcessStartsAgainAfterSIGKILL(tmp_path: Path) -> None:
    """
    It finds a pidfile with its own pid, which is that of the killed process.
    """
    write(tmp_path)
    pidfile = tmp_path / "twistd.pid"
    for _ in range(2):
        with asInit(tmp_path, "served", pidfile=str(pidfile)) as (outer, pid):
            assert pidfile.read_text() == "1"
            os.kill(pid, SIGKILL)
            outer.wait()


@pytest.mark.parametrize("content", [str(os.getppid()), "no number", None])
def test_anotherPidfileStays(content: str | None, tmp_path: Path) -> None:
    """
    Twistd decides what it means.
    """
    pidfile = tmp_path / "twistd.pid"
    if content is not None:
        pidfile.write_text(content)
    removeOwnPidfile(str(pidfile))
    assert pidfile.exists() == (content is not None)


def test_aPidfileWithItsOwnPidIsRemoved(tmp_path: Path) -> None:
    """
    A killed process with the same pid has left it.
    """
    pidfile = tmp_path / "twistd.pid"
    pidfile.write_text(str(os.getpid()))
    removeOwnPidfile(str(pidfile))
    assert not pidfile.exists()


def test_firstProcessReloadsAndStops(tmp_path: Path) -> None:
    """
    It handles signals like any other daemon.
    """
    write(tmp_path)
    with asInit(tmp_path, "served") as (outer, pid):
        os.kill(pid, SIGHUP)
        outer.waitForOutput("requested by SIGHUP from a process unknown here")
        outer.waitForOutput("generation 2 serves")
        os.kill(pid, SIGTERM)
        assert outer.wait() == 0
        assert "Traceback" not in outer.output()


@pytest.mark.parametrize("unshare", [[], ["--mount-proc"]], ids=["", "own proc"])
def test_firstProcessReapsOrphans(unshare: list[str], tmp_path: Path) -> None:
    """
    Also if C{/proc} shows another pid namespace.
    """
    write(tmp_path)
    orphan = "sh -c 'until test -e go; do sleep 0.05; done'"
    leave = f"--on=WINCH=run:{orphan} > left 2>&1 & echo it is left"
    with asInit(tmp_path, leave, "served", unshare=unshare) as (outer, pid):
        os.kill(pid, SIGWINCH)
        outer.waitForOutput("is left: it is left\n")
        waitFor(lambda: len(childrenOf(pid)) == 1, "the orphan is adopted")
        (tmp_path / "go").touch()
        waitFor(lambda: not childrenOf(pid), "it was reaped")
        os.kill(pid, SIGTERM)
        assert outer.wait() == 0
        assert "Traceback" not in outer.output()


def test_orphansOfACommandDoNotRunItAgain(tmp_path: Path) -> None:
    """
    With C{--on CHLD=run:}, when the first process has adopted them.
    """
    write(tmp_path)
    chain = "(sleep 0.05; sleep 0.05 &) & (sleep 0.05 &); echo ran"
    command = f"--on=CHLD=run:{chain}"
    with asInit(tmp_path, command, "served", unshare=["--mount-proc"]) as (outer, pid):
        os.kill(pid, SIGCHLD)
        outer.waitForOutput(": ran\n")
        waitFor(lambda: all(map(isZombie, childrenOf(pid))), "its orphans have ended")
        os.kill(pid, SIGTERM)
        assert outer.wait() == 0
        assert outer.output().count(": running ") == 1


def isZombie(pid: int) -> bool:
    """
    Return whether a process has ended.
    """
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
