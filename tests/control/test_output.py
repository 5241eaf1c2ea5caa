"""
The output of the C{txsignalfd} command: on a terminal, elsewhere, and for programs.
"""

from __future__ import annotations

import json
import sys
from io import StringIO
from typing import Any

import pytest

from txsignalfd._control.output import Output
from txsignalfd._control.statustext import statusText


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def onTerminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """
    Use a terminal for stdout and stderr.
    """
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return stream


def test_aTerminalShowsProgressInPlaceAndColours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    The outcome replaces the line that changes.
    """
    terminal = onTerminal(monkeypatch)
    output = Output("stop", asJSON=False)
    for text in ("2 connections", "1 connection", "1 connection", ""):
        output.progress(text)
    output.end(0, "ended")
    clear = "\r\033[K"
    shown = f"{clear}2 connections{clear}1 connection{clear}\033[32mended\033[m\n"
    assert terminal.getvalue() == shown


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_coloursCanBeSwitchedOff(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """
    As https://no-color.org says, or because the terminal has none.
    """
    terminal = onTerminal(monkeypatch)
    monkeypatch.setenv(name, value)
    Output("stop", asJSON=False).end(1, "refused")
    assert terminal.getvalue() == "txsignalfd: refused\n"


def test_elsewhereEachChangeIsALine(capsys: pytest.CaptureFixture[str]) -> None:
    """
    Without control sequences.
    """
    output = Output("stop", asJSON=False)
    for text in ("2 connections", "1 connection", "1 connection", ""):
        output.progress(text)
    assert output.end(0, "ended") == 0
    assert capsys.readouterr() == ("ended\n", "2 connections\n1 connection\n")


def test_aProgramGetsOneObject(capsys: pytest.CaptureFixture[str]) -> None:
    """
    Also for a failure, and without the progress.
    """
    output = Output("stop", asJSON=True)
    output.progress("2 connections")
    assert output.end(2, "no", 7) == 2
    out, err = capsys.readouterr()
    expected = {"command": "stop", "pid": 7, "exitStatus": 2, "text": "no"}
    assert (json.loads(out), out.count("\n"), err) == (expected, 1, "")


def test_aDaemonCannotControlTheTerminal(capsys: pytest.CaptureFixture[str]) -> None:
    """
    Its text is shown, and not obeyed.
    """
    output = Output("stop", asJSON=False)
    output.progress("\033[2J")
    output.end(1, "\033]0;title\007")
    escaped = "\\x1b[2J\ntxsignalfd: \\x1b]0;title\\x07\n"
    assert capsys.readouterr() == ("", escaped)


HANDLER = {
    "handler": "example.f",
    "overlap": "QUEUE",
    "handled": 2,
    "running": 0,
    "waiting": 1,
    "dropped": 0,
}

STATUS: dict[str, Any] = {
    "pid": 4711,
    "version": "0.1.0",
    "command": ["twistd", "-n", "signalfd", "web", "--path", "my files"],
    "directory": "/srv",
    "uptime": 3723.5,
    "state": "serves",
    "generations": [
        {"number": 1, "state": "drains", "connections": 1, "addresses": []},
        {"number": 2, "state": "serves", "connections": 0, "addresses": ["a", "b"]},
    ],
    "reloads": {
        "succeeded": 1,
        "failed": 0,
        "last": [{"time": "noon", "outcome": "reloaded", "requester": "\033[2J"}],
    },
    "signals": [
        {
            "name": "SIGHUP",
            "action": "reload",
            "received": 3,
            "handlers": [{**HANDLER, "handler": "action reload"}, HANDLER],
        },
        {"name": "SIGCHLD", "action": None, "received": 0, "handlers": []},
    ],
    "childCount": 3,
    "children": [{"pid": 4712, "command": "sleep"}],
    "workers": [
        {
            "generation": 2,
            "number": 1,
            "pid": 4712,
            "state": "serves",
            "connections": 1,
            "uptime": 61.5,
            "memory": 50 << 20,
        }
    ],
    "spareWorkers": [{"pid": 4713, "state": "waits", "memory": 40 << 20}],
}

TEXT = """\
pid 4711 serves, up 1:02:03, txsignalfd 0.1.0
  twistd -n signalfd web --path 'my files'
  in /srv
generations
  1 drains: 1 connection, no port
  2 serves: 0 connections, a, b
reloads: 1 succeeded, 0 failed
  noon reloaded
    requested by \\x1b[2J
signals
  SIGHUP=reload: 3 received
    example.f QUEUE: 2 handled, 0 running, 1 waiting, 0 dropped
  SIGCHLD: 0 received
children
  4712 sleep
  and 2 more
workers
  1 of generation 2, pid 4712: serves, 1 connection, 50 MiB, up 0:01:01
  spare, pid 4713: waits, 40 MiB"""


def test_theStatusIsATextForAnOperator() -> None:
    """
    Text of the daemon is shown, and its control sequences are not obeyed.
    """
    assert statusText(STATUS) == TEXT


@pytest.mark.parametrize(("count", "shown"), [(0, "none"), (None, "unknown on this")])
def test_childrenMayBeNoneOrUnknown(count: int | None, shown: str) -> None:
    """
    Without proc(5) they are unknown.
    """
    status = {**STATUS, "childCount": count, "children": [], "workers": []}
    del status["spareWorkers"]
    assert f"\nchildren: {shown}" in statusText(status)
    assert statusText(status).endswith("\nworkers: none")
