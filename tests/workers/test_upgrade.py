"""
The action C{upgrade}: another program in the same process, and nothing is lost.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from signal import SIGALRM, SIGKILL, SIGRTMIN, SIGTERM, SIGUSR2, SIGWINCH

from tests.support.clients import (
    canConnect,
    echoing,
    fetch,
    keeping,
    load,
    opening,
    tcp,
    unix,
)
from tests.support.daemons import (
    Program,
    adoptingOrphans,
    childrenOf,
    commandFor,
    endOf,
    program,
    serving,
    startedWith,
    waitFor,
)
from tests.support.deployed import application, deploy
from tests.support.descriptorstore import descriptorStore
from tests.support.freeports import freePort, local
from tests.support.processes import ask
from tests.support.served import write
from txsignalfd._proc.sender import commandOf
from txsignalfd._proc.status import ofProcess
from txsignalfd.lowlevel import sigqueue

#: Makes each Python program that starts in the directory another version.
VERSION = "import txsignalfd._version\ntxsignalfd._version.__version__ = {!r}\n"


def install(directory: Path, version: str) -> None:
    """
    Install another version of txsignalfd.
    """
    (directory / "new.py").write_text(VERSION.format(version))
    (directory / "new.py").rename(directory / "sitecustomize.py")


def upgrade(pid: int) -> tuple[int, str]:
    """
    Run the command, and return its exit status and output.
    """
    status, out, err = ask("upgrade", str(pid))
    return status, out + err


def zombies(pid: int) -> list[int]:
    """
    Return the children of a process that were not reaped.
    """
    return [
        child
        for child in childrenOf(pid)
        if ") Z " in Path(f"/proc/{child}/stat").read_text()
    ]


def test_anUpgradeLosesNoRequest(tmp_path: Path) -> None:
    """
    The supervisor and the workers are of the new version, and the pid is the same.
    """
    port = freePort()
    deploy(tmp_path, port, b"old")
    install(tmp_path, "1.0")
    command = application(tmp_path, "--workers=2")
    with program(tmp_path, *command) as daemon:
        daemon.waitForOutput(f"pid {daemon.pid} serves")
        with load(opening(tcp(port)), keeping(tcp(port))):
            for number in (2, 3):
                install(tmp_path, f"{number}.0")
                deploy(tmp_path, port, b"%d" % number)
                status, output = upgrade(daemon.pid)
                assert (status, output[:12]) == (0, "upgraded in "), output
                assert f"generation {number} serves" in output
                assert fetch(tcp(port)) == b"%d" % number
                assert f"txsignalfd {number}.0" in daemon.output()
        daemon.waitForOutput("generation 2 has ended")
        waitFor(lambda: not zombies(daemon.pid), "all children are reaped")
        assert (tmp_path / "twistd.pid").read_text() == str(daemon.pid)
        assert daemon.stop() == -SIGTERM
    assert not (tmp_path / "twistd.pid").exists()


def test_aProgramThatCannotStartReplacesNothing(tmp_path: Path) -> None:
    """
    The reason is its own.
    """
    write(tmp_path, listen=[f"tcp:{(port := freePort())}:interface=127.0.0.1"])
    with serving(tmp_path, "--workers=1", "served") as daemon:
        (tmp_path / "sitecustomize.py").write_text("raise SystemExit('no licence')\n")
        status, output = upgrade(daemon.pid)
        assert status == 1
        assert output.startswith("txsignalfd: not upgraded, after ")
        assert output.endswith(" s: SystemExit: no licence\n")
        assert "no licence" in daemon.output()
        (tmp_path / "sitecustomize.py").unlink()
        assert fetch(tcp(port))


def test_workersThatCannotStartReplaceNothing(tmp_path: Path) -> None:
    """
    The new program continues with the old workers.
    """
    port = freePort()
    deploy(tmp_path, port, b"old")
    with program(tmp_path, *application(tmp_path, "--workers=1")) as daemon:
        daemon.waitForOutput(f"pid {daemon.pid} serves")
        (tmp_path / "answers.py").write_text("1 / 0\n")
        status, output = upgrade(daemon.pid)
        assert status == 1
        assert "upgraded, but not reloaded, after " in output
        assert output.endswith(
            "generation 1 serves on: ZeroDivisionError: division by zero\n"
        )
        assert fetch(tcp(port)) == b"old"
        assert daemon.stop() == -SIGTERM


#: A function for C{--on} that starts a child, and leaves it.
OWN = """
import subprocess

def spawn(info):
    subprocess.Popen(["sleep", "60"])
"""


def test_signalsAndChildrenOfTheUpgradeAreHandled(tmp_path: Path) -> None:
    """
    Each signal once, in their order; each child that ends is reaped.  New children
    have the mask with which the daemon was started.
    """
    (tmp_path / "own.py").write_text(OWN)
    write(tmp_path, listen=[])
    options = [
        "--workers=2",
        "--spare-workers=0",
        "--on=RTMIN+1=call:tests.support.served.note",
        "--on=WINCH=call:own.spawn",
        "--on=USR2=upgrade",
        "served",
    ]
    sent = 0
    blocking = startedWith(blocked=[SIGALRM])
    with serving(tmp_path, *options, before=blocking) as daemon:
        daemon.kill(SIGWINCH)
        waitFor(lambda: len(childrenOf(daemon.pid)) == 3, "a child of the function")
        *victims, sleeping = childrenOf(daemon.pid)
        daemon.kill(SIGUSR2)
        while ": generation 2 serves" not in daemon.output():
            assert daemon.process.poll() is None, daemon.output()
            if sent < 2000:
                sigqueue(daemon.pid, SIGRTMIN + 1, sent)
                sent += 1
            if "executing Python" in daemon.output() and victims:
                os.kill(victims.pop(), SIGKILL)
                os.kill(sleeping, SIGKILL)
                victims.clear()
        daemon.waitForOutput("upgraded in ")
        daemon.waitForOutput(f"value {sent - 1}\n")
        values = [
            int(line.rpartition(" ")[2])
            for line in daemon.output().splitlines()
            if "noted SIGRTMIN+1" in line
        ]
        assert values == list(range(sent))
        waitFor(lambda: sleeping not in childrenOf(daemon.pid), "it is reaped")
        assert zombies(daemon.pid) == []
        daemon.kill(SIGWINCH)
        waitFor(lambda: commandOf(childrenOf(daemon.pid)[-1]) == "sleep", "a child")
        child = childrenOf(daemon.pid)[-1]
        assert ofProcess(child).main.blocked == {SIGALRM}
        os.kill(child, SIGKILL)


def test_aStopDuringTheUpgradeStops(tmp_path: Path) -> None:
    """
    The signal stays pending until the new program can handle it.
    """
    write(tmp_path, listen=[])
    options = ["--workers=1", "--on=USR2=upgrade", "served"]
    with serving(tmp_path, *options) as daemon:
        daemon.kill(SIGUSR2)
        daemon.waitForOutput("executing Python")
        assert daemon.stop() == -SIGTERM
        assert daemon.output().count(f"pid {daemon.pid} serves") == 2


def test_oneProcessIsNotUpgraded(tmp_path: Path) -> None:
    """
    Only a supervisor can replace its program while others serve.
    """
    write(tmp_path, listen=[])
    with serving(tmp_path, "--on=USR2=upgrade", "served") as daemon:
        expected = "not upgraded: it has no supervisor (--workers); restart it"
        status, output = upgrade(daemon.pid)
        assert (status, expected in output) == (1, True), output
        daemon.kill(SIGUSR2)
        daemon.waitForOutput("] SIGUSR2 from pid")


def test_aDaemonInTheBackgroundStaysThere(tmp_path: Path) -> None:
    """
    With its log, its pidfile and its pid, also if it works in another directory.
    """
    port = freePort()
    write(tmp_path, listen=[local(port)], body="body")
    (tmp_path / "work").mkdir()
    log = tmp_path / "twistd.log"
    command = commandFor(
        tmp_path, "--workers=1", "served", twistd=["--rundir=work"], foreground=False
    )
    with adoptingOrphans():
        with program(tmp_path, *command) as starter:
            assert starter.wait() == 0
        pid = int((tmp_path / "twistd.pid").read_text())
        waitFor(lambda: f"pid {pid} serves" in log.read_text(), "it serves")
        status, output = upgrade(pid)
        assert status == 0, output
        assert (tmp_path / "twistd.pid").read_text() == str(pid)
        assert fetch(tcp(port)) == b"body"
        assert os.readlink(f"/proc/{pid}/fd/2") == os.devnull
        os.kill(pid, SIGTERM)
        assert os.WTERMSIG(endOf(pid)) == SIGTERM
    assert "upgraded in " in log.read_text()
    assert not (tmp_path / "twistd.pid").exists()


#: Lets a program start only in its trial.
FAILS = """
import json, os
text = os.environ.get("TXSIGNALFD_INHERITANCE")
if text and not json.loads(text)[2]:
    raise SystemExit("the new program is broken")
"""


def test_aProgramThatFailsAfterItsTrialIsExplainedInTheLog(tmp_path: Path) -> None:
    """
    Also if stderr leads nowhere, as that of a daemon in the background.
    """
    write(tmp_path)
    log = tmp_path / "its.log"
    command = commandFor(
        tmp_path, "--workers=1", "served", twistd=["--logfile=its.log"]
    )
    silent = ["sh", "-c", 'exec "$@" 2> /dev/null', "sh"]
    with program(tmp_path, *silent, *command) as daemon:
        waitFor(lambda: log.exists() and " serves;" in log.read_text(), "it serves")
        (tmp_path / "sitecustomize.py").write_text(FAILS)
        status, output = upgrade(daemon.pid)
        why = "before its answer: its log or its stderr may say why"
        assert output == f"txsignalfd: process {daemon.pid} has ended {why}\n"
        assert status == 1
        assert daemon.wait() == 1
    assert log.read_text().endswith("SystemExit: the new program is broken\n")


def test_theCommandSaysWhyTheNewProgramHasEnded(tmp_path: Path) -> None:
    """
    Its error is not one that the trial could find.
    """
    write(tmp_path)
    with serving(tmp_path, "--workers=1", "--spare-workers=0", "served") as daemon:
        pidfile = tmp_path / "twistd.pid"
        pidfile.unlink()
        pidfile.mkdir()
        status, output = upgrade(daemon.pid)
        reason = f"IsADirectoryError: [Errno 21] Is a directory: '{pidfile}'\n"
        assert output == f"txsignalfd: upgraded, but the daemon has ended: {reason}"
        assert (status, daemon.wait()) == (1, 1)


def test_everySocketIsPassedOn(tmp_path: Path) -> None:
    """
    Also one whose port is any free one, and one whose path was removed.  systemd hears
    only of the reload, and goes on storing the sockets.
    """
    late, udp = freePort(), freePort()
    write(
        tmp_path,
        listen=["tcp:0:interface=127.0.0.1", "unix:here", "unix:gone"],
        late=[local(late)],
        udp=[["127.0.0.1", udp]],
    )
    with descriptorStore(tmp_path) as store:
        with store.serving("--workers=1", "served") as daemon:
            (port,) = listening(daemon) - {late}
            waitFor(lambda: canConnect(tcp(late)), "the late port opens")
            store.receive()
            stored = dict(store.stored)
            store.messages.clear()
            (tmp_path / "gone").unlink()
            here = unix(str(tmp_path / "here"))
            ways = (tcp(port), tcp(late), here)
            with load(*map(opening, ways), echoing(udp)):
                status, output = upgrade(daemon.pid)
                assert status == 0, output
            assert fetch(unix(str(tmp_path / "gone")))
            assert (tmp_path / "here.lock").readlink() == Path(str(daemon.pid))
            store.receive()
            names = [tuple(message) for message in store.messages]
            assert ("RELOADING", "MONOTONIC_USEC") in names
            assert names.count(("READY", "STATUS")) == 1
        kept = {name for name in stored if "gone" not in name}
        assert kept <= store.stored.keys()
        assert all(store.stored[name] == stored[name] for name in kept)


def listening(daemon: Program) -> set[int]:
    """
    Return the TCP ports that a daemon has opened, as its status shows them.
    """
    _, status, _ = ask("status", "--json", str(daemon.pid))
    (generation,) = json.loads(status)["generations"]
    addresses = [each for each in generation["addresses"] if each.startswith("tcp")]
    return {int(each.rpartition(":")[2]) for each in addresses}


def test_aProgramWithItsOwnMainFunctionIsUpgraded(tmp_path: Path) -> None:
    """
    It runs again, with the same arguments.
    """
    port = freePort()
    source = MAIN.format(port=port)
    (tmp_path / "main.py").write_text(source)
    with program(tmp_path, sys.executable, "main.py", "old") as running:
        running.waitForOutput(f"pid {running.pid} serves")
        (tmp_path / "main.py").write_text(source.replace("sys.argv[1]", "'new'"))
        with load(opening(tcp(port))):
            status, output = upgrade(running.pid)
        assert status == 0, output
        assert fetch(tcp(port)) == b"new"
        assert running.stop() == -SIGTERM


MAIN = """
import sys
from twisted.application.strports import service
from twisted.web.server import Site
from twisted.web.static import Data
from txsignalfd import run

def makeService():
    page = Data(sys.argv[1].encode(), "text/plain")
    page.isLeaf = True
    return service("tcp:{port}:interface=127.0.0.1", Site(page))

run(makeService, workers=1, log=sys.stdout)
"""
