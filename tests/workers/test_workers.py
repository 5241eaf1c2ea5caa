"""
C{twistd signalfd --workers}: fresh processes under a supervisor.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from signal import SIGHUP, SIGKILL, SIGTERM, SIGUSR1

import pytest

from tests.support.clients import (
    canConnect,
    fetch,
    keeping,
    load,
    tcp,
    tls,
    unix,
)
from tests.support.daemons import (
    childrenOf,
    commandFor,
    hasEnded,
    program,
    reload,
    serving,
    waitFor,
)
from tests.support.deployed import application, deploy
from tests.support.freeports import freePort
from tests.support.served import write


def test_aReloadLoadsNewCode(tmp_path: Path, certificate: Path) -> None:
    """
    Without a lost request.  A client that uses one connection at a time meets the new
    code, and then no old code: by TCP, TLS, HTTP/2 and a UNIX socket.
    """
    pytest.importorskip("h2", reason="needs h2, as HTTP/2 in Twisted does")
    from tests.support.streams import HTTP2, tlsOfHTTP2

    port, secure = freePort(), freePort()
    unixSocket = str(tmp_path / "socket")
    more = [f"ssl:{secure}:privateKey={certificate}:interface=127.0.0.1"]
    more.append(f"unix:{unixSocket}")
    deploy(tmp_path, port, b"0", *more)
    command = application(tmp_path, "--workers=2")
    path = str(certificate)
    kept: list[keeping | HTTP2] = [
        keeping(tcp(port)),
        keeping(tls(tcp(secure), path)),
        HTTP2(tlsOfHTTP2(tcp(secure), path)),
    ]
    requests: list[Callable[[], bytes]] = [
        lambda: fetch(tcp(port)),
        lambda: fetch(unix(unixSocket)),
        *(each.get for each in kept),
    ]
    seen: list[list[bytes]] = [[] for _ in requests]
    with program(tmp_path, *command) as daemon, ExitStack() as stack:
        daemon.waitForOutput(f"pid {daemon.pid} serves")
        for client in kept:
            stack.enter_context(closing(client))
        with load(
            *(
                lambda request=request, texts=texts: texts.append(request())
                for request, texts in zip(requests, seen, strict=True)
            )
        ) as answers:
            for number in (1, 2):
                deploy(tmp_path, port, b"%d" % number, *more)
                reload(daemon)
                assert fetch(tcp(port)) == b"%d" % number
            answers.waitForAnswers(2)
        for texts in seen:
            assert texts == sorted(texts)
            assert texts[-1] == b"2"
        daemon.kill(SIGTERM)
        assert daemon.wait() == -SIGTERM
    assert "generation 2 has ended" in daemon.output()


def test_aFailureKeepsTheOldWorkersServing(tmp_path: Path) -> None:
    """
    The verdict has the reason of the new code, and the log its traceback.
    """
    port = freePort()
    deploy(tmp_path, port, b"old")
    with program(tmp_path, *application(tmp_path, "--workers=1")) as daemon:
        daemon.waitForOutput(f"pid {daemon.pid} serves")
        (tmp_path / "answers.py").write_text("1 / 0\n")
        daemon.kill(SIGHUP)
        daemon.waitForOutput(
            "generation 1 serves on: ZeroDivisionError: division by zero\n"
        )
        daemon.waitForOutput('answers.py", line 1, in <module>')
        assert fetch(tcp(port)) == b"old"
        daemon.kill(SIGTERM)
        assert daemon.wait() == -SIGTERM


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("1 / 0", "not started: ZeroDivisionError: division by zero\n"),
        ("import os; os.kill(os.getpid(), 9)", "was killed by SIGKILL\n"),
        ("raise SystemExit('no licence')", "not started: no licence\n"),
    ],
)
def test_theDaemonEndsIfNoWorkerHasEverServed(
    code: str, reason: str, tmp_path: Path
) -> None:
    """
    With status 1 and the reason.
    """
    deploy(tmp_path, freePort(), b"old")
    (tmp_path / "answers.py").write_text(code)
    with program(tmp_path, *application(tmp_path, "--workers=1")) as daemon:
        assert daemon.wait() == 1
        assert reason in daemon.output()


@pytest.mark.parametrize(
    ("how", "option", "reason"),
    [
        ("fail later", "60", "not started: RuntimeError: it was told to raise\n"),
        ("hang", "0.5", "has not started within 0.5 s (--start-timeout)\n"),
    ],
)
def test_aServiceThatDoesNotStartEndsTheDaemon(
    how: str, option: str, reason: str, tmp_path: Path
) -> None:
    """
    With the reason, and status 1.
    """
    write(tmp_path, listen=[], start=how)
    options = ["--workers=1", f"--start-timeout={option}"]
    with program(tmp_path, *commandFor(tmp_path, *options, "served")) as daemon:
        assert daemon.wait() == 1
        assert reason in daemon.output()


@pytest.mark.parametrize(
    ("on", "text"),
    [
        ([], "(the supervisor handles it); the handler tests.support.served.caught, "),
        (["--on=HUP=leave"], "worker 1: the program has caught 1\n"),
    ],
)
def test_aProgramThatHandlesASignal(on: list[str], text: str, tmp_path: Path) -> None:
    """
    The log says how its handler is called, and the supervisor passes the signal on.
    """
    write(tmp_path, listen=[], start="catch")
    with serving(tmp_path, "--workers=1", *on, "served") as daemon:
        if on:
            daemon.kill(SIGHUP)
        daemon.waitForOutput(text)


def test_aMovedLogFileOfTheServiceIsOpenedAgain(tmp_path: Path) -> None:
    """
    By each worker, on SIGUSR1.
    """
    options = [f"--listen=tcp:{freePort()}:interface=127.0.0.1", "--logfile=web.log"]
    with serving(tmp_path, "--workers=1", "web", *options) as daemon:
        (tmp_path / "web.log").rename(tmp_path / "moved")
        daemon.kill(SIGUSR1)
        waitFor((tmp_path / "web.log").exists, "it is opened again")
        daemon.waitForOutput("web.log: reopened")
        daemon.kill(SIGTERM)
        assert daemon.wait() == -SIGTERM


def test_aWorkerThatEndsIsReplaced(tmp_path: Path) -> None:
    """
    The log says how it has ended, and the others serve meanwhile.
    """
    port = freePort()
    write(tmp_path, listen=[f"tcp:{port}:interface=127.0.0.1"], body="body")
    options = ["--workers=2", "--spare-workers=0"]
    with serving(tmp_path, *options, "served") as daemon:
        first, _ = childrenOf(daemon.pid)
        os.kill(first, SIGKILL)
        daemon.waitForOutput(f"(pid {first}) was killed by SIGKILL after ")
        assert fetch(tcp(port)) == b"body"
        waitFor(lambda: len(childrenOf(daemon.pid)) == 2, "another worker")
        daemon.waitForOutput(f"(pid {childrenOf(daemon.pid)[-1]}) serves")
        daemon.kill(SIGTERM)
        assert daemon.wait() == -SIGTERM


def test_workersEndWithTheirSupervisor(tmp_path: Path) -> None:
    """
    A connection drains, and the port is free at once.
    """
    port = freePort()
    write(tmp_path, listen=[f"tcp:{port}:interface=127.0.0.1"], body="body", idle=60)
    options = ["--workers=1", "--spare-workers=0"]
    with serving(tmp_path, *options, "served") as daemon:
        (worker,) = childrenOf(daemon.pid)
        client = keeping(tcp(port))
        client()
        daemon.kill(SIGKILL)
        daemon.wait()
        waitFor(lambda: not canConnect(tcp(port)), "the port closes")
        client()
        client.close()
        waitFor(lambda: hasEnded(worker), "the worker ends")


def test_aPortIsTheSameInEveryWorker(tmp_path: Path) -> None:
    """
    Also where any free port was asked for.
    """
    write(tmp_path, listen=["tcp:0:interface=127.0.0.1", "tcp:0:interface=127.0.0.1"])
    with serving(tmp_path, "--workers=2", "served") as daemon:
        daemon.kill(SIGTERM)
        assert daemon.wait() == -SIGTERM
        lines = [
            line.split()[-1]
            for line in daemon.output().splitlines()
            if "starting on" in line
        ]
    ports = [line for line in lines if line.isdecimal()]
    # Each is opened by the supervisor and by two workers.
    assert sorted(map(ports.count, set(ports))) == [3, 3]


def test_theLogObserverOfAnApplicationIsNotUsed(tmp_path: Path) -> None:
    """
    The log says so, and that of twistd's C{--logger} has the events of the workers.
    """
    deploy(tmp_path, freePort(), b"text")
    with (tmp_path / "app.tac").open("a") as file:
        file.write(OBSERVER)
    (tmp_path / "observers.py").write_text(OBSERVERS)
    command = application(tmp_path, "--workers=1")
    command.insert(command.index("signalfd"), "--logger=observers.upper")
    with program(tmp_path, *command) as daemon:
        daemon.waitForOutput(f"PID {daemon.pid} SERVES")
        assert daemon.stop() == -SIGTERM
        output = daemon.output()
    assert "WORKER 1: THE LOG OBSERVER OF THE APPLICATION IS NOT USED" in output
    assert "used by the application" not in output


OBSERVER = """
from twisted.logger import ILogObserver
application.setComponent(ILogObserver, lambda event: print("used by the application"))
"""

OBSERVERS = """
import sys
from twisted.logger import ILogObserver, eventAsText
from zope.interface import provider

def upper():
    @provider(ILogObserver)
    def write(event):
        print(eventAsText(event).upper(), flush=True, file=sys.__stdout__)
    return write
"""
