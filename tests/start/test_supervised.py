"""
C{txsignalfd supervise}: programs with a main function of their own, unchanged.
"""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from signal import SIGHUP, SIGKILL, SIGTERM

import pytest

from tests.support.clients import Web, fetch, keeping, load, opening, tcp
from tests.support.daemons import childrenOf, program, reload
from tests.support.freeports import freePort
from tests.support.supervised import RUN, command, supervised, write

#: For tests that count processes.
ALONE = ["--spare-workers=0"]

REACT = """
from twisted.internet.defer import Deferred
from twisted.internet.task import react

async def main(reactor):
    reactor.listenTCP(port, site, interface="127.0.0.1")
    try:
        await Deferred()
    finally:
        print("never")

react(main)
"""

#: Begins with this, and listens later.
ASYNCIO_FIRST = """
import asyncio
from twisted.internet import asyncioreactor

loop = asyncio.new_event_loop()
asyncioreactor.install(loop)
"""
ASYNCIO = """
from twisted.internet import reactor

async def main():
    await asyncio.sleep(0.2)
    reactor.listenTCP(port, site, interface="127.0.0.1")

main = loop.create_task(main())
reactor.run(installSignalHandlers=False)
"""

#: Replaces the reactor that a module of it has installed, as daphne does.
REPLACES = (
    """
from twisted.internet import reactor

del sys.modules["twisted.internet.reactor"]
from twisted.internet import selectreactor
selectreactor.install()
"""
    + RUN
)


THREAD = """
import threading
from twisted.internet import reactor

threading.Thread(target=reactor.run, args=[False]).start()
"""


@pytest.mark.parametrize(
    ("main", "first"), [(REACT, ""), (ASYNCIO, ASYNCIO_FIRST), (REPLACES, "")]
)
def test_aProgramIsServedByItsWorkers(main: str, first: str, tmp_path: Path) -> None:
    """
    Whatever its reactor is, and also if it listens later.
    """
    port = freePort()
    write(tmp_path, main, port, b"text", first)
    with supervised(tmp_path, "--", "python", "main.py"):
        assert fetch(tcp(port)) == b"text"


def test_aConsoleScriptIsServedByItsWorkers(tmp_path: Path) -> None:
    """
    It is found beside the interpreter, and reloads.
    """
    port = freePort()
    (tmp_path / "page").write_text("text")
    where = f"--listen=tcp:{port}:interface=127.0.0.1"
    with supervised(tmp_path, "--", "twist", "web", where, "--path=.") as running:
        reload(running)
        assert fetch(tcp(port), "/page") == b"text"


def test_aTwistdNeedsNoPidfile(tmp_path: Path) -> None:
    """
    With one, the new generation would refuse to run beside the old one.
    """
    port = freePort()
    where = f"--listen=tcp:{port}:interface=127.0.0.1"
    with supervised(tmp_path, "--", "twistd", "-n", "web", where) as running:
        reload(running)
        assert not (tmp_path / "twistd.pid").exists()


def test_aReloadRunsTheNewProgram(tmp_path: Path) -> None:
    """
    Without a lost request, with what failed in one line, and with the old program's
    own code for its end.
    """
    port = freePort()
    write(tmp_path, RUN, port, b"old")
    with supervised(tmp_path, *ALONE, "--workers=2", "python", "main.py") as running:
        assert len(childrenOf(running.pid)) == 2
        with load(opening(tcp(port)), keeping(tcp(port))):
            write(tmp_path, RUN, port, b"new")
            reload(running)
            assert fetch(tcp(port)) == b"new"
        running.waitForOutput("worker 2: the program has ended")
        write(tmp_path, "raise ValueError('no settings')", port, b"")
        running.kill(SIGHUP)
        running.waitForOutput("generation 2 serves on: ValueError: no settings\n")
        assert fetch(tcp(port)) == b"new"


def test_aProgramStopsWhenItsConnectionsHaveDrained(tmp_path: Path) -> None:
    """
    Its shutdown triggers are called after that.
    """
    port = freePort()
    write(tmp_path, RUN, port, b"text")
    with (
        supervised(tmp_path, "python", "main.py") as running,
        closing(Web(tcp(port))) as web,
    ):
        web.send("/slow")
        running.waitForOutput("worker 1: asked\n")
        running.kill(SIGTERM)
        running.waitForOutput(": stopping")
        (tmp_path / "go").touch()
        assert web.receive() == b"text"
        assert running.wait() == -SIGTERM
        lines = [
            each.partition("worker 1: ")[2] for each in running.output().splitlines()
        ]
        assert [each for each in lines if each] == [
            "asked",
            "answered",
            "the trigger is called",
            "the program has ended",
        ]


@pytest.mark.parametrize(
    ("main", "reason"),
    [
        ("raise SystemExit('no\\n\\nlicence\\n')", "not started: no licence\n"),
        ("raise SystemExit(3)", ") has exited with status 3\n"),
        ("print('done')", ") has exited with status 0: done\n"),
        ("import os; os.fork() and os._exit(0)", "has to stay in the foreground\n"),
        (THREAD, "RuntimeError: the reactor has to run in the main thread\n"),
    ],
)
def test_aProgramThatDoesNotServeEndsTheSupervisor(
    main: str, reason: str, tmp_path: Path
) -> None:
    """
    With the reason, and status 1.
    """
    (tmp_path / "main.py").write_text(main)
    with program(tmp_path, *command("--", "python", "main.py")) as running:
        assert running.wait() == 1
        assert reason in running.output()


#: Handles SIGTERM itself, and stops its reactor when it is asked for that.
HANDLES = """
import signal
from twisted.internet import reactor
from txsignalfd import workerNumber

def stop():
    if os.path.exists("stop"):
        os.remove("stop")
        reactor.stop()
    reactor.callLater(0.01, stop)

def handle():
    # reactor.run has installed a handler of its own.
    signal.signal(signal.SIGTERM, lambda *_: print("its own handler"))

reactor.callWhenRunning(handle)
reactor.listenTCP(port, site, interface="127.0.0.1")
reactor.callWhenRunning(stop)
reactor.run()
print("the program has ended, in worker", workerNumber())
"""


def test_aProgramThatEndsIsReplaced(tmp_path: Path) -> None:
    """
    Also if it was killed, or has stopped its reactor: no connection delays that.
    """
    port = freePort()
    write(tmp_path, HANDLES, port, b"text")
    with supervised(tmp_path, *ALONE, "python", "-m", "main") as running:
        (first,) = childrenOf(running.pid)
        os.kill(first, SIGKILL)
        running.waitForOutput(f"worker 1 (pid {first}) was killed by SIGKILL after ")
        running.waitForOutput(") serves\n")
        with closing(Web(tcp(port))) as web:
            web.send("/slow")
            running.waitForOutput("worker 1: asked\n")
            (tmp_path / "stop").touch()
            with pytest.raises(ConnectionResetError):
                web.receive()
        running.waitForOutput("worker 1: the program has ended, in worker 1\n")
        running.waitForOutput(" has exited with status 0 after ")


@pytest.mark.parametrize("on", [[], ["--on=TERM=leave"]])
def test_aSignalIsHandledByTheWorker(on: list[str], tmp_path: Path) -> None:
    """
    Unless it is left to the program.
    """
    port = freePort()
    write(tmp_path, HANDLES, port, b"text")
    with supervised(tmp_path, *ALONE, *on, "python", "main.py") as running:
        (worker,) = childrenOf(running.pid)
        os.kill(worker, SIGTERM)
        running.waitForOutput("its own handler" if on else "has exited with status 0")
        if on:
            (tmp_path / "stop").touch()
            running.kill(SIGTERM)
            assert running.wait() == -SIGTERM


def test_theReloadMayBeThatOfAChangedFile(tmp_path: Path) -> None:
    """
    The file of the program is watched, and those that are named.
    """
    port = freePort()
    write(tmp_path, RUN, port, b"old")
    (tmp_path / "settings").touch()
    options = ["--watch", "--watch-path=settings"]
    with supervised(tmp_path, *options, "python", "main.py") as running:
        write(tmp_path, RUN, port, b"newer")
        running.waitForOutput("main.py has changed: reloading\n")
        running.waitForOutput("generation 2 serves\n")
        assert fetch(tcp(port)) == b"newer"
        (tmp_path / "settings").write_text("changed")
        running.waitForOutput("settings has changed: reloading\n")
        running.waitForOutput("generation 3 serves\n")


def test_aProgramWithoutPortsServesAfterAWhile(tmp_path: Path) -> None:
    """
    If the command line says so.
    """
    main = "from twisted.internet import reactor; reactor.run(); print('over')"
    (tmp_path / "main.py").write_text(main)
    with supervised(tmp_path, "--ready-after=0.1", "python", "main.py") as running:
        assert running.stop() == -SIGTERM
        assert "worker 1: over\n" in running.output()
