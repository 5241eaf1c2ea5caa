"""
A real daemon under a real systemd, with C{Type=notify-reload} or with C{ExecReload=}.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from signal import SIGKILL, SIGSTOP
from socket import MSG_PEEK
from threading import Thread
from uuid import uuid4

import pytest

from tests.support.clients import (
    Web,
    canConnect,
    fetch,
    keeping,
    load,
    opening,
    tcp,
    unix,
)
from tests.support.daemons import childrenOf, commandFor, waitFor
from tests.support.deployed import deploy
from tests.support.freeports import freePort, local
from tests.support.processes import runProgram
from tests.support.reactors import DEADLINE
from tests.support.served import write
from tests.support.servicemanager import NOTIFY_RELOAD


def _systemctl(*words: str) -> str:
    return runProgram("systemctl", *words, check=True).stdout


def _whyNot() -> str:
    """
    Return why these tests cannot run here, or an empty string.
    """
    if not os.path.isdir("/run/systemd/system"):  # sd_booted(3)
        return "needs a machine booted by systemd"
    version = int(_systemctl("--version").split()[1].split("~")[0])
    if version < NOTIFY_RELOAD:
        return f"needs systemd {NOTIFY_RELOAD}, not {version}"
    return "" if os.getuid() == 0 else "needs root, to start a service"


pytestmark = pytest.mark.skipif(bool(_whyNot()), reason=_whyNot())


class Unit:
    """
    A service unit of systemd.
    """

    def __init__(self) -> None:
        self.name = f"txsignalfd-test-{uuid4().hex}.service"

    def show(self, name: str) -> str:
        return _systemctl("show", "--value", f"--property={name}", self.name).strip()

    def reload(self) -> None:
        _systemctl("reload", self.name)

    def restart(self) -> None:
        _systemctl("restart", self.name)


@contextmanager
def unit(
    directory: Path, *properties: str, command: Sequence[str] = ("served",)
) -> Iterator[Unit]:
    """
    Start C{twistd signalfd}, and wait until it is ready.

    @param command: The arguments after C{signalfd}; by default they run a service of
        L{tests.support.served}.
    """
    running = Unit()
    # The directory has the plugin, the repository has the module of it.
    environment = f"PYTHONPATH={directory}:{Path(__file__).parent.parent.parent}"
    _, _, *whole = commandFor(directory, *command, twistd=["--pidfile="])
    subprocess.run(
        [
            "systemd-run",
            f"--unit={running.name}",
            f"--setenv={environment}",
            # The tests change code faster than its cache notices.
            "--setenv=PYTHONDONTWRITEBYTECODE=1",
            f"--working-directory={directory}",
            f"--property=StandardError=append:{directory}/log",
            f"--property=StandardOutput=append:{directory}/log",
            "--property=Type=notify-reload",
            "--property=KillMode=mixed",
            *(f"--property={each}" for each in properties),
            *whole,
        ],
        timeout=DEADLINE,
        check=True,
    )
    try:
        yield running
    finally:
        # The unit does not exist any more if the test has stopped it.
        for words in (["kill", "--signal=KILL"], ["stop"], ["reset-failed"]):
            subprocess.run(
                ["systemctl", *words, running.name],
                stderr=subprocess.DEVNULL,
                timeout=DEADLINE,
                check=False,
            )


def test_systemctlWaitsForTheReload(tmp_path: Path) -> None:
    """
    It returns when the new generation serves, and no request fails.
    """
    port = freePort()
    listens = [local(port)]
    write(tmp_path, listen=listens)
    with unit(tmp_path) as running:
        assert running.show("StatusText") == "generation 1 serves"
        with load(opening(tcp(port)), keeping(tcp(port))):
            for number in range(2, 12):
                write(tmp_path, listen=listens, body=f"{number}")
                running.reload()
                assert running.show("StatusText") == f"generation {number} serves"
                with closing(Web(tcp(port))) as web:
                    assert web.get(last=True) == b"%d" % number
        assert running.show("ActiveState") == "active"


def test_aFailedReloadIsInTheStatus(tmp_path: Path) -> None:
    """
    It gives the reason, and the next reload succeeds.
    """
    write(tmp_path)
    with unit(tmp_path) as running:
        write(tmp_path, make="raise")
        running.reload()
        assert running.show("StatusText") == (
            "not reloaded, generation 1 serves on: RuntimeError: it was told to raise"
        )
        assert running.show("ActiveState") == "active"
        write(tmp_path)
        running.reload()
        assert running.show("StatusText") == "generation 3 serves"


def test_execReloadMakesAFailedReloadFail(tmp_path: Path) -> None:
    """
    C{systemctl reload} fails, too, and the old service serves on.
    """
    write(tmp_path)
    ask = f"{sys.executable} -m txsignalfd"
    execReload = f"ExecReload={ask} reload --timeout=60 $MAINPID"
    with unit(tmp_path, "Type=notify", execReload) as running:
        running.reload()
        assert running.show("StatusText") == "generation 2 serves"
        write(tmp_path, make="raise")
        with pytest.raises(subprocess.CalledProcessError):
            running.reload()
        assert running.show("ActiveState") == "active"
        command = [*ask.split(), "status", f"unit:{running.name}"]
        status = subprocess.check_output(command, text=True, timeout=DEADLINE)
        assert "reloads: 1 succeeded, 1 failed" in status


def test_aStopMayTakeLongerThanTimeoutStopSec(tmp_path: Path) -> None:
    """
    The daemon requests more time while connections drain.
    """
    port = freePort()
    write(tmp_path, listen=[local(port)])
    with unit(tmp_path, "TimeoutStopSec=1") as running:
        with closing(Web(tcp(port))) as web:
            web.send("/go")
            # Half of the response is sent.
            assert web.socket.recv(1, MSG_PEEK)
            stopping = Thread(target=_systemctl, args=("stop", running.name))
            stopping.start()
            waitFor(lambda: not canConnect(tcp(port)), "the port closes")
            stopping.join(3)
            assert stopping.is_alive()
            (tmp_path / "go").touch()
            web.receive()
            stopping.join(DEADLINE)


def test_aBlockedDaemonIsRestarted(tmp_path: Path) -> None:
    """
    The reactor feeds the watchdog.
    """
    write(tmp_path)
    with unit(tmp_path, "WatchdogSec=1", "Restart=on-failure") as running:
        first = int(running.show("MainPID"))
        fed = running.show("WatchdogTimestampMonotonic")
        for _ in range(3):
            waitFor(
                lambda: running.show("WatchdogTimestampMonotonic") != fed,  # noqa: B023
                "it is fed",
            )
            fed = running.show("WatchdogTimestampMonotonic")
        assert running.show("NRestarts") == "0"
        os.kill(first, SIGSTOP)
        waitFor(lambda: running.show("NRestarts") == "1", "it is restarted")
        waitFor(
            lambda: running.show("StatusText") == "generation 1 serves", "it serves"
        )
        assert int(running.show("MainPID")) != first


def test_aRestartRefusesNobody(tmp_path: Path) -> None:
    """
    Systemd keeps the sockets meanwhile, as also after a crash.
    """
    port, path = freePort(), str(tmp_path / "socket")
    write(tmp_path, listen=[local(port), f"unix:{path}"])
    options = ["FileDescriptorStoreMax=2", "Restart=on-failure", "RestartSec=0.1"]
    with unit(tmp_path, *options) as running:
        with load(opening(tcp(port)), opening(unix(path))) as clients:
            for _ in range(3):
                running.restart()
                clients.waitForAnswers()
        assert running.show("NFileDescriptorStore") == "2"
        os.kill(int(running.show("MainPID")), SIGKILL)
        assert fetch(tcp(port))
        assert fetch(unix(path))
        assert running.show("NRestarts") == "1"


#: Two processes with the application file of L{tests.support.deployed}.
WORKERS = ("--workers=2", "-y", "app.tac")


def test_aReloadOfWorkersLoadsChangedCode(tmp_path: Path) -> None:
    """
    C{systemctl reload} returns when the new workers serve, and no request fails.
    """
    port = freePort()
    deploy(tmp_path, port, b"1")
    with unit(tmp_path, command=WORKERS) as running:
        with load(opening(tcp(port)), keeping(tcp(port))) as clients:
            for number in (2, 3):
                deploy(tmp_path, port, b"%d" % number)
                running.reload()
                assert running.show("StatusText") == f"generation {number} serves"
                assert fetch(tcp(port)) == b"%d" % number
                clients.waitForAnswers()


def test_aRestartOfWorkersRefusesNobody(tmp_path: Path) -> None:
    """
    Systemd keeps the sockets of the supervisor, and the new workers run changed code.
    """
    port = freePort()
    deploy(tmp_path, port, b"old")
    store = "FileDescriptorStoreMax=1"
    with unit(tmp_path, store, command=WORKERS) as running:
        with load(opening(tcp(port))) as clients:
            deploy(tmp_path, port, b"new")
            for _ in range(2):
                running.restart()
                clients.waitForAnswers()
        assert running.show("NFileDescriptorStore") == "1"
        assert fetch(tcp(port)) == b"new"


def test_aWorkerThatCrashesIsNoMatterOfSystemd(tmp_path: Path) -> None:
    """
    The supervisor replaces it, and feeds the watchdog.
    """
    port = freePort()
    deploy(tmp_path, port, b"page")
    options = ["WatchdogSec=2", "Restart=on-failure"]
    command = ("--spare-workers=0", *WORKERS)
    with unit(tmp_path, *options, command=command) as running:
        main = int(running.show("MainPID"))
        first, second = childrenOf(main)
        os.kill(first, SIGKILL)
        log = tmp_path / "log"
        waitFor(lambda: "was killed by SIGKILL" in log.read_text(), "the log")
        fed = running.show("WatchdogTimestampMonotonic")
        waitFor(lambda: running.show("WatchdogTimestampMonotonic") != fed, "it is fed")
        waitFor(lambda: len(childrenOf(main)) == 2, "another worker")
        assert second in childrenOf(main)
        assert fetch(tcp(port)) == b"page"
        assert running.show("NRestarts") == "0"
        assert int(running.show("MainPID")) == main


def test_theJournalHasWholeLinesOfWorkers(tmp_path: Path) -> None:
    """
    Also if two of them write at the same time.
    """
    deploy(tmp_path, freePort(), b"page")
    module = tmp_path / "answers.py"
    printing = "for _ in range(200): print('x' * 500, flush=True)\n"
    module.write_text(module.read_text() + printing)
    journal = ["StandardOutput=journal", "StandardError=journal"]
    with unit(tmp_path, *journal, command=WORKERS) as running:
        subprocess.run(["journalctl", "--sync"], timeout=DEADLINE, check=True)
        command = ["journalctl", "--output=cat", f"--unit={running.name}"]
        lines = subprocess.check_output(command, text=True, timeout=DEADLINE)
    ends = [line.partition("] ")[2] for line in lines.splitlines() if "xx" in line]
    expected = [
        f"worker {number}: {'x' * 500}" for number in (1, 2) for _ in range(200)
    ]
    assert sorted(ends) == expected
