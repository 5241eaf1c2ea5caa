"""
A real daemon under a real systemd, with C{Type=notify-reload} or with C{ExecReload=}.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
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
from tests.support.daemons import commandFor, waitFor
from tests.support.freeports import freePort
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
def unit(directory: Path, *properties: str) -> Iterator[Unit]:
    """
    Start a service of L{tests.support.served}, and wait until it is ready.
    """
    running = Unit()
    # The directory has the plugin, the repository has the module of it.
    environment = f"PYTHONPATH={directory}:{Path(__file__).parent.parent.parent}"
    _, _, *command = commandFor(directory, "served", twistd=["--pidfile="])
    subprocess.run(
        [
            "systemd-run",
            f"--unit={running.name}",
            f"--setenv={environment}",
            f"--working-directory={directory}",
            f"--property=StandardError=append:{directory}/log",
            f"--property=StandardOutput=append:{directory}/log",
            "--property=Type=notify-reload",
            "--property=KillMode=mixed",
            *(f"--property={each}" for each in properties),
            *command,
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
    listens = [f"tcp:{port}:interface=127.0.0.1"]
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
    write(tmp_path, listen=[f"tcp:{port}:interface=127.0.0.1"])
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
    write(tmp_path, listen=[f"tcp:{port}:interface=127.0.0.1", f"unix:{path}"])
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
