"""
C{txsignalfd check}: the errors that a start or a reload of a configuration would have.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from contextlib import closing
from pathlib import Path
from signal import SIGHUP
from typing import Any

import pytest

from tests.support import supervised as supervise
from tests.support.clients import fetch, tcp
from tests.support.daemons import serving
from tests.support.freeports import freePort, local
from tests.support.processes import ask, runPython
from tests.support.reactors import DEADLINE
from tests.support.served import write
from txsignalfd._control import targetcheck
from txsignalfd._control.request import Request
from txsignalfd._control.target import CannotAsk, Target

SYSTEMD = ("systemd:domain=INET:index=0", "systemd:domain=INET:name=web")

TAC = """
from twisted.application.service import Application, Service
application = Application("example")
Service().setServiceParent(application)
"""


def check(directory: Path, *arguments: str) -> tuple[int, str, str]:
    """
    Check a command line in a directory: exit status, stdout and stderr.
    """
    return ask("check", *arguments, cwd=directory)


@pytest.mark.parametrize(
    "arguments",
    [
        ["signalfd"],
        ["web", "--path=."],
        ["signalfd", "--on=HUP=ignore", "web", "--path=.", f"--listen={SYSTEMD[0]}"],
        ["signalfd", "web", "--path=.", f"--listen={SYSTEMD[1]}"],
        ["--reactor=poll", "-y", "app.tac", "signalfd"],
        ["-n", "--pidfile=x.pid", "--logfile=x.log", "web", "--path=."],
        ["-y", "app.tac"],
        ["-ny", "app.tac"],
    ],
)
def test_aGoodConfigurationLeavesNoTrace(tmp_path: Path, arguments: list[str]) -> None:
    """
    The exit status is 0, and no file was written.
    """
    (tmp_path / "app.tac").write_text(TAC)
    before = sorted(tmp_path.iterdir())
    status, out, err = check(tmp_path, *arguments)
    assert (status, err) == (0, "")
    assert out.endswith(": no error found; it was made, and not started\n")
    assert sorted(tmp_path.iterdir()) == before


#: Code that a program may run while it is loaded.
OPENING = """
import threading
from twisted.application.service import Application
from twisted.internet import reactor
from twisted.internet.protocol import DatagramProtocol, Factory

port = int(open("port").read())
for listening in (
    reactor.listenTCP(port, Factory(), interface="127.0.0.1"),
    reactor.listenUDP(port, DatagramProtocol()),
    reactor.listenUNIX("socket", Factory()),
    reactor.adoptStreamPort(0, 2, Factory()),
):
    print(listening.getHost())
    listening.startListening()
    listening.stopListening()
threading.Thread(target=threading.Event().wait).start()
application = Application("example")
"""


def test_aPortInUseIsNoMatterOfTheConfiguration(tmp_path: Path) -> None:
    """
    The daemon that serves has it, also if the program opens it while it is loaded.
    A thread that the program has started does not keep the check from ending.
    """
    (tmp_path / "app.tac").write_text(OPENING)
    with socket.create_server(("127.0.0.1", 0)) as used:
        number = used.getsockname()[1]
        (tmp_path / "port").write_text(str(number))
        status, out, err = check(tmp_path, "--json", "-y", "app.tac")
        assert json.loads(out)["exitStatus"] == status == 0
        assert f"IPv4Address(type='TCP', host='127.0.0.1', port={number})" in err
        assert not (tmp_path / "socket").exists()
        endpoint = local(number)
        assert check(tmp_path, "web", f"--listen={endpoint}", "--path=.")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["web", "--nonsense"], "option --nonsense not recognized"),
        (["web", "--listen=nonsense:1"], "nonsense"),
        (["-y", "empty.tac"], "empty.tac sets no variable named application"),
        (["-y", "exits.tac"], "SystemExit: 7"),
        (["nosuchplugin"], "nosuchplugin"),
        (["--logfile=new.log", "signalfd", "-y", "raises.tac"], "ZeroDivisionError"),
        (["--pidfile=x.pid"], "expected a plugin, or -y with an application file"),
    ],
)
def test_aBrokenConfigurationIsRefusedInOneLine(
    tmp_path: Path, arguments: list[str], reason: str
) -> None:
    """
    The exit status is 1, and the line has the reason.
    """
    (tmp_path / "raises.tac").write_text("1 / 0\n")
    (tmp_path / "empty.tac").write_text("\n")
    (tmp_path / "exits.tac").write_text("raise SystemExit(7)\n")
    status, out, err = check(tmp_path, *arguments)
    assert (status, out) == (1, "")
    assert err.startswith("txsignalfd check: ")
    assert reason in err
    assert err.count("\n") == 1
    assert not (tmp_path / "new.log").exists()


@pytest.mark.parametrize("arguments", [[], ["--workers=2"]])
def test_aWrongEndpointOfMetricsIsRefused(tmp_path: Path, arguments: list[str]) -> None:
    """
    As at a start.
    """
    pytest.importorskip("prometheus_client", reason="needs txsignalfd[metrics]")
    whole = ["signalfd", *arguments, "--metrics=nonsense:1", "web", "--path=."]
    status, out, err = check(tmp_path, *whole)
    reason = "ValueError: --metrics: Unknown endpoint type: 'nonsense'"
    assert (status, out, err) == (1, "", f"txsignalfd check: {reason}\n")


@pytest.mark.parametrize(
    ("command", "option"), [("web", "--listen"), ("supervise", "--workers")]
)
def test_helpIsNoFailure(tmp_path: Path, command: str, option: str) -> None:
    """
    The help of the plugin, as twistd prints it, or of the command.
    """
    status, out, err = check(tmp_path, command, "--help")
    assert (status, err) == (0, "")
    assert option in out


def test_aSupervisedProgramIsCompiledAndNotRun(tmp_path: Path) -> None:
    """
    Nothing else is known of it before it starts.
    """
    (tmp_path / "main.py").write_text("1 / 0")
    status, out, err = check(tmp_path, "supervise", "--", "python", "main.py")
    found = "supervise: no error found; the program was compiled, and not run\n"
    assert (status, out, err) == (0, found, "")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--nonsense"], "the options of supervise are wrong"),
        (["--drain=5"], "expected a program"),
        (["--workers=none", "--", "python", "-c", ""], "UsageError: --workers"),
    ],
)
def test_aWrongCommandOfSuperviseIsRefused(
    tmp_path: Path, arguments: list[str], reason: str
) -> None:
    """
    With the reason in one line.
    """
    status, out, err = check(tmp_path, "supervise", *arguments)
    assert (status, out) == (1, "")
    assert err.splitlines()[-1].startswith(f"txsignalfd check: {reason}")


TLS = """
from twisted.internet.endpoints import serverFromString
from twisted.internet import reactor
serverFromString(reactor, "ssl:0:privateKey=key.pem")
"""


def reload(daemon: Any) -> str:
    """
    Request a reload that fails, and return the reason.
    """
    with closing(Target(str(daemon.pid))) as target:
        with closing(Request(target, SIGHUP, "reload")) as request:
            answer = request.run(DEADLINE, lambda answer: None)
    assert answer.exitStatus == 1
    return answer.text.partition("serves on: ")[2]


#: Check a file of the same name in several directories.
CHECKS = """
import os, sys
from txsignalfd._control.check import main

for directory in sys.argv[1:]:
    os.chdir(directory)
    main(["signalfd", "-y", "app.tac"])
"""

#: Five ways to break a configuration: C{None} is a missing file.
BROKEN = {
    "syntax": "def\n",
    "exception": "1 / 0\n",
    "key": TLS,
    "option": "from twisted.web.tap import Options\n"
    "Options().parseOptions(['--nonsense'])\n",
    "missing": None,
}


def test_theReasonIsThatOfAReload(tmp_path: Path) -> None:
    """
    For each way to break a configuration.
    """
    running = tmp_path / "running"
    for name, content in {"running": TAC, **BROKEN}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "key.pem").write_text("no key\n")
        if content is not None:
            (tmp_path / name / "app.tac").write_text(content)
    reasons = []
    with serving(running, "-y", "app.tac") as daemon:
        for content in BROKEN.values():
            (running / "app.tac").unlink()
            if content is not None:
                (running / "app.tac").write_text(content)
            reasons.append(f"txsignalfd check: {reload(daemon)}")
    paths = [str(tmp_path / name) for name in BROKEN]
    checked = runPython("-c", CHECKS, *paths, check=True)
    assert checked.stderr.splitlines() == reasons


# --- reload --check


# The environment of the process is read from /proc.
@pytest.mark.fresh
def test_aReloadMayCheckFirst(tmp_path: Path) -> None:
    """
    The command line of the daemon is checked from any directory, and a daemon whose
    check fails is not asked to reload.
    """
    write(tmp_path, make="")
    with serving(tmp_path, "served") as daemon:
        assert ask("reload", "--check", "--timeout=60", str(daemon.pid))[0] == 0
        write(tmp_path, make="raise")
        status, out, err = ask("reload", "--check", str(daemon.pid))
        assert (status, out) == (1, "")
        reason = "RuntimeError: it was told to raise"
        assert err == f"txsignalfd: not reloaded: the check has failed: {reason}\n"
        assert daemon.output().count("] reloading: ") == 1


@pytest.mark.fresh
def test_aReloadOfAProgramMayCheckFirst(tmp_path: Path) -> None:
    """
    Before C{--stop-first} ends the one that serves.
    """
    port = freePort()
    supervise.write(tmp_path, supervise.RUN, port, b"text")
    with supervise.supervised(tmp_path, "--stop-first", "python", "main.py") as daemon:
        (tmp_path / "main.py").write_text("def")
        status, _, err = ask("reload", "--check", str(daemon.pid))
        reason = "SyntaxError: invalid syntax (main.py, line 1)"
        assert err == f"txsignalfd: not reloaded: the check has failed: {reason}\n"
        assert status == 1
        supervise.write(tmp_path, supervise.RUN, port, b"new")
        assert ask("reload", "--check", str(daemon.pid))[0] == 0
        assert fetch(tcp(port)) == b"new"


def test_aDaemonThatDoesNotReportIsNotChecked(tmp_path: Path) -> None:
    """
    It does not tell its command line.
    """
    write(tmp_path)
    with serving(tmp_path, "--on=USR2=ignore", "served") as daemon:
        status, _, err = ask("reload", "--check", str(daemon.pid))
    assert status == 1
    assert err == (
        "txsignalfd: not reloaded: its command line is unknown: SIGUSR2=ignore, so it"
        " does not report\n"
    )


def statusOf(*command: str) -> dict[str, Any]:
    return {"command": [sys.executable, *command], "directory": "/"}


@pytest.mark.parametrize(
    ("status", "timeout", "reason"),
    [
        (statusOf("-m", "carbon"), None, "reload it without --check"),
        (statusOf("twistd", "web"), 0.0, "the check has not ended within 0 s"),
        ({**statusOf("twistd"), "directory": "/nowhere"}, None, "/nowhere"),
    ],
)
def test_theReasonWhyADaemonCannotBeCheckedIsPrinted(
    status: dict[str, Any], timeout: float | None, reason: str
) -> None:
    """
    The reload is not requested then.
    """
    with pytest.raises(CannotAsk, match=reason):
        targetcheck.check(os.getpid(), status, timeout)


@pytest.mark.parametrize("words", [["-m", "txsignalfd"], ["/bin/txsignalfd"]])
def test_theCommandOfASupervisedProgramIsKnown(words: list[str]) -> None:
    """
    Whether it was started as a command or as a module.
    """
    program = ["supervise", "--", "daphne"]
    command = [sys.executable, *words, *program]
    assert targetcheck._split(1, command) == ([sys.executable], program)


def test_aDaemonWithAnotherRootIsNotChecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Its paths name other files.
    """
    monkeypatch.setattr(os.path, "samestat", lambda one, other: False)
    with pytest.raises(CannotAsk, match="has another root directory"):
        targetcheck.check(os.getpid(), statusOf("twistd"), None)


def test_theCheckRunsAsTheUserOfTheDaemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Root runs nothing that another user has chosen.
    """
    monkeypatch.setattr(os, "geteuid", lambda: -1)
    expected = {"user": os.getuid(), "group": os.getgid()}
    assert expected.items() <= targetcheck._credentials(os.getpid()).items()


def test_aCheckThatEndsWithoutAnOutcomeFails() -> None:
    """
    The reason is the last line that it has printed.
    """
    status = statusOf("-c", "import sys; sys.exit('it fell')", "twistd")
    reason = targetcheck.check(os.getpid(), status, None)
    assert reason == "the check ended without an outcome: it fell"
