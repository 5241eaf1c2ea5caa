"""
L{run}: a program with a main function of its own.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH
from typing import Any

import pytest

from tests.support.clients import fetch, tcp
from tests.support.daemons import Program, childrenOf, program, python, reload, waitFor
from tests.support.freeports import freePort, local
from tests.support.generations import explode
from tests.support.processes import ask, inPidNamespace
from tests.support.served import write
from tests.support.servicemanager import listening
from tests.support.worlds import needsSignalfd
from txsignalfd import run

#: A program that runs the service of L{tests.support.served}.
MAIN = """
import atexit, os, sys
{before}
from tests.support import served
from txsignalfd import run

def makeService():
    open("made", "w").close()
    return served.makeService(served.Options())

atexit.register(print, "exit functions run")
try:
    run(makeService, {arguments})
finally:
    print("finally blocks run")
print("run has returned")
"""

LOG = "log=sys.stdout, "


@contextmanager
def running(
    directory: Path, arguments: str = LOG, before: str = ""
) -> Iterator[Program]:
    """
    Run the program.
    """
    source = MAIN.format(before=before, arguments=arguments)
    with python(directory, source) as program:
        yield program


def serves(program: Program) -> None:
    """
    Wait until the program serves.
    """
    program.waitForOutput(f"pid {program.pid} serves; SIGHUP=reload")


def endsBy(program: Program, signo: int) -> None:
    """
    Send a signal that ends the program in order.
    """
    program.kill(signo)
    assert program.wait() == -signo
    assert program.output().endswith("finally blocks run\nexit functions run\n")


@pytest.mark.parametrize(
    "reactor", ["epollreactor", "pollreactor", "selectreactor", "asyncioreactor"]
)
def test_aReloadMakesTheServiceAgain(reactor: str, tmp_path: Path) -> None:
    """
    With every reactor, and on the same socket.  If that fails, the old one serves on.
    """
    port = freePort()
    listen = [local(port)]
    write(tmp_path, listen=listen, body="old")
    before = f"from twisted.internet import {reactor}; {reactor}.install()"
    with running(tmp_path, before=before) as program:
        serves(program)
        assert fetch(tcp(port)) == b"old"
        write(tmp_path, listen=listen, body="new")
        reload(program)
        write(tmp_path, make="raise")
        program.kill(SIGHUP)
        program.waitForOutput("generation 2 serves on: RuntimeError: it was told")
        assert fetch(tcp(port)) == b"new"
        endsBy(program, SIGTERM)


@pytest.mark.parametrize("signo", [SIGINT, SIGQUIT])
def test_theProcessEndsByTheSignal(signo: int, tmp_path: Path) -> None:
    """
    When the program has cleaned up.
    """
    write(tmp_path)
    with running(tmp_path) as program:
        serves(program)
        endsBy(program, signo)


def test_theProgramChoosesActions(tmp_path: Path) -> None:
    """
    By names or numbers of signals, and by names of actions or functions.
    """
    write(tmp_path)
    on = f'{{"USR2": served.note, {int(SIGWINCH)}: "report", "USR1": "leave"}}'
    with running(tmp_path, f"{LOG}on={on}") as program:
        serves(program)
        program.kill(SIGUSR2)
        program.waitForOutput("noted SIGUSR2")
        program.kill(SIGWINCH)
        program.waitForOutput("generation 1 serves: ")
        assert "SIGUSR2=call:tests.support.served.note" in program.output()
        program.kill(SIGUSR1)
        assert program.wait() == -SIGUSR1


def test_theProgramStopsTheReactor(tmp_path: Path) -> None:
    """
    Then the function returns, and signals have their default actions again.
    """
    write(tmp_path)
    on = "reactor=reactor, on={'WINCH': lambda info: reactor.stop()}"
    before = "from twisted.internet import reactor"
    with running(tmp_path, f"{LOG}{on}", before) as program:
        serves(program)
        program.kill(SIGWINCH)
        assert program.wait() == 0
        assert program.output().endswith("run has returned\nexit functions run\n")


@pytest.mark.parametrize("log", ["", LOG])
@pytest.mark.parametrize(
    "options", [{"make": "raise"}, {"start": "raise"}, {"start": "fail later"}]
)
def test_aFailedStartIsReportedInOneLine(
    options: dict[str, str], log: str, tmp_path: Path
) -> None:
    """
    And the exit status is 1, whether or not the program has begun its log.
    """
    write(tmp_path, **options)
    with running(tmp_path, log) as program:
        assert program.wait() == 1
        lines = program.output().splitlines()
        (line,) = [line for line in lines if "not started" in line]
        assert line.endswith("not started: RuntimeError: it was told to raise")
        assert "Traceback" not in program.output()
        assert "exit functions run" in lines


def test_theReasonOfAFailedStartIsAlsoInALogFile(tmp_path: Path) -> None:
    """
    With the traceback there, and one line on stderr.
    """
    write(tmp_path, make="raise")
    with running(tmp_path, "log=open('log', 'w')") as program:
        assert program.wait() == 1
        reason = "not started: RuntimeError: it was told to raise\n"
        assert program.stderr.read_text() == reason
        assert f"{reason}\tTraceback" in (tmp_path / "log").read_text()


def test_developmentModeShowsTheTraceback(tmp_path: Path) -> None:
    write(tmp_path, make="raise")
    before = """
if not sys.flags.dev_mode:
    os.execv(sys.executable, [sys.executable, "-X", "dev", *sys.orig_argv[1:]])
"""
    with running(tmp_path, "", before) as program:
        assert program.wait() == 1
        assert "Traceback" in program.output()


def test_aFunctionThatReturnsNoServiceIsNamed(tmp_path: Path) -> None:
    """
    Its C{return} was forgotten.
    """
    source = "from txsignalfd import run\ndef makeService(): pass\nrun(makeService)"
    with python(tmp_path, source) as program:
        assert program.wait() == 1
        reason = "__main__.makeService has made None, which is no IService"
        assert program.output() == f"not started: TypeError: {reason}\n"


def test_metricsAreServed(tmp_path: Path) -> None:
    """
    As with C{--metrics}.
    """
    pytest.importorskip("prometheus_client", reason="needs prometheus-client")
    port = freePort()
    write(tmp_path)
    with running(tmp_path, f"{LOG}metrics='tcp:{port}:interface=127.0.0.1'") as program:
        serves(program)
        assert b"txsignalfd_reloads_total" in fetch(tcp(port), "/metrics")
        endsBy(program, SIGTERM)


def test_aHandlerOfTheProgramIsReplaced(tmp_path: Path) -> None:
    """
    The log says so, and how it would be called.
    """
    write(tmp_path)
    before = "import signal; signal.signal(signal.SIGUSR2, print)"
    with running(tmp_path, before=before) as program:
        serves(program)
        advice = "is not called: use on={'USR2': 'leave'}\n"
        assert advice in program.output()
        endsBy(program, SIGTERM)


def test_systemdIsNotified(tmp_path: Path) -> None:
    write(tmp_path)
    with listening(str(tmp_path / "notify")) as manager:
        before = f"os.environ['NOTIFY_SOCKET'] = {manager.name!r}"
        with running(tmp_path, before=before) as program:
            ready = {"READY": "1", "STATUS": "generation 1 serves"}
            assert manager.readFrom() == (program.pid, ready)
            endsBy(program, SIGTERM)
            assert manager.readFrom() == (program.pid, {"STOPPING": "1"})


def test_theFirstProcessOfAContainerExitsWith0(tmp_path: Path) -> None:
    """
    It cannot end by a signal.
    """
    write(tmp_path)
    source = MAIN.format(before="", arguments=LOG)
    where = ["env", f"PYTHONPATH={Path(__file__).parents[2]}"]
    main = [*where, sys.executable, "-u", "-c", source]
    with program(tmp_path, *inPidNamespace(*main, options=["--kill-child"])) as outer:
        outer.waitForOutput("pid 1 serves")
        (pid,) = childrenOf(outer.pid)
        os.kill(pid, SIGTERM)
        assert outer.wait() == 0
        assert outer.output().endswith("exit functions run\n")


#: A service that ignores SIGHUP, because it knows nothing of txsignalfd.
IGNORING = """
import signal, sys
from twisted.application.service import Service
from txsignalfd import run

class Ignoring(Service):
    def startService(self):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

run(Ignoring, log=sys.stdout)
"""


@needsSignalfd
def test_theCommandReloadsAServiceThatIgnoresSighup(tmp_path: Path) -> None:
    """
    As often as it is asked.
    """
    with python(tmp_path, IGNORING) as program:
        serves(program)
        for number in (2, 3):
            status, out, _ = ask("reload", str(program.pid))
            assert (status, f"generation {number} serves" in out) == (0, True)
        assert program.stop() == -SIGTERM


# -- signals during the start


@contextmanager
def starting(directory: Path) -> Iterator[Program]:
    """
    Run the program, which makes no service before the file C{go} exists.
    """
    write(directory, make="wait")
    with running(directory) as program:
        waitFor((directory / "made").exists, "the service is being made")
        yield program


def test_sighupDuringTheStartReloadsAfterIt(tmp_path: Path) -> None:
    with starting(tmp_path) as program:
        program.kill(SIGHUP)
        (tmp_path / "go").touch()
        program.waitForOutput("generation 2 serves")
        endsBy(program, SIGTERM)


@pytest.mark.parametrize("signo", [SIGTERM, SIGINT, SIGQUIT])
def test_stopDuringTheStart(signo: int, tmp_path: Path) -> None:
    """
    It ends the process at once, although the start hangs.  SIGINT raises
    C{KeyboardInterrupt}, as in every Python program.
    """
    with starting(tmp_path) as program:
        program.kill(signo)
        assert program.wait() == -signo
        assert ("finally blocks run" in program.output()) == (signo == SIGINT)


# -- wrong calls


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"on": {"HUPP": "reload"}}, "there is no signal 'HUPP'; did you mean HUP?"),
        ({"on": ["HUP=relod"]}, "unknown action 'relod'"),
        ({"on": {"HUP": 17}}, "expected an action or a function, got 17"),
        ({"drain": -1}, "drain: expected a number of seconds, 0 or more, got -1"),
        ({"stopTimeout": None}, "stopTimeout: expected a number of seconds"),
    ],
)
def test_wrongArgumentsAreRefused(arguments: dict[str, Any], why: str) -> None:
    """
    Before a service is made.
    """
    with pytest.raises((TypeError, ValueError), match=re.escape(why)):
        run(explode, **arguments)


#: Ways to call the function where it cannot work.
WRONG = {
    "in a thread": (
        "threading.Thread(target=call).start()",
        "RuntimeError: call this function in the main thread",
    ),
    "in a loop": (
        "async def main(): call()\nasyncio.run(main())",
        "RuntimeError: an asyncio event loop runs already",
    ),
    "while it runs": (
        "reactor.callWhenRunning(lambda: (call(), reactor.stop())); reactor.run()",
        "twisted.internet.error.ReactorAlreadyRunning: the reactor runs already",
    ),
    "twice": (
        "reactor.callWhenRunning(reactor.stop); reactor.run(); call()",
        "twisted.internet.error.ReactorNotRestartable: the reactor has run before",
    ),
}


@pytest.mark.parametrize("how", WRONG)
def test_itIsRefusedWhereItCannotRun(how: str, tmp_path: Path) -> None:
    """
    Before a service is made, and with the reason.
    """
    source, why = WRONG[how]
    head = """
import asyncio, sys, threading, traceback
from twisted.internet import reactor
from txsignalfd import run

def call():
    try:
        run(lambda: print("ma" + "de"))
    except Exception:
        traceback.print_exc()

"""
    with python(tmp_path, head + source) as program:
        assert program.wait() == 0
        assert why in program.output()
        assert "made" not in program.output()
