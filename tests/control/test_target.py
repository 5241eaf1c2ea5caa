"""
The target of a command: a pid, a pidfile or a unit of systemd.
"""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from signal import SIGHUP
from types import SimpleNamespace

import pytest

from tests.support.processes import SLEEP, foreign
from txsignalfd._control import target
from txsignalfd._control.target import CannotAsk, Target, parseTarget


def systemctl(directory: Path, script: str) -> None:
    """
    Put a program named systemctl into a directory.
    """
    path = directory / "systemctl"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("content", ["4711", "4711\n", " 4711 \n"])
def test_aPidfileNamesAProcess(tmp_path: Path, content: str) -> None:
    """
    As twistd and others write it.
    """
    pidfile = tmp_path / "twistd.pid"
    pidfile.write_text(content)
    assert parseTarget(str(pidfile)) == 4711


def test_aUnitIsItsMainProcess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    As systemctl(1) knows it.
    """
    systemctl(
        tmp_path, 'test "$*" = "show --property=MainPID --value -- web" && echo 42'
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert parseTarget("unit:web") == 42


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 0", "unit 'web' has no main process: it is not running"),
        ("echo no such bus >&2; exit 1", "unit 'web': no such bus"),
        ("echo what", "unit 'web': expected a process id, got 'what'"),
    ],
)
def test_aUnitWithoutAMainProcessCannotBeAsked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    """
    The message says why.
    """
    systemctl(tmp_path, script)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(CannotAsk, match=reason):
        parseTarget("unit:web")


def test_withoutSystemdNoUnitCanBeAsked(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The message names the program that is missing.
    """
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CannotAsk, match="systemctl: No such file"):
        parseTarget("unit:web")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0", "0: expected a process id, got '0'"),
        ("99999999999", "expected a process id"),
        ("nowhere.pid", "pidfile 'nowhere.pid': No such file or directory"),
        ("/dev/null", "pidfile '/dev/null': expected a process id, got ''"),
    ],
)
def test_aTargetThatNamesNoProcessCannotBeAsked(text: str, reason: str) -> None:
    """
    The message says why.
    """
    with pytest.raises(CannotAsk, match=reason):
        parseTarget(text)


def test_aProcessThatHasEndedCannotBeAsked() -> None:
    """
    Its pid may name another process later, so a pidfd is used from then on.
    """
    with foreign("true") as pid:
        pass
    with pytest.raises(CannotAsk, match=f"process {pid}: No such process"):
        Target(str(pid))


def test_aBlockedSignalMayBeHandledSoon(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    As by a daemon that upgrades, but not for ever: the second look is the last one.
    """
    slept: list[float] = []
    times = iter([0, 0, target._PATIENCE])
    clock = SimpleNamespace(monotonic=times.__next__, sleep=slept.append)
    monkeypatch.setattr(target, "time", clock)
    child = foreign(*SLEEP, setsigmask=[SIGHUP])
    with child as pid, closing(Target(str(pid))) as asked:
        with pytest.raises(CannotAsk, match=f"process {pid} has no handler for SIGHUP"):
            asked.checkCatches(SIGHUP)
    assert slept == [target._INTERVAL]


def test_aProcessThatEndsMeanwhileCannotBeAsked() -> None:
    """
    Also between two checks of it.
    """
    with foreign(*SLEEP) as pid:
        ended = Target(str(pid))
    with closing(ended), pytest.raises(CannotAsk, match=f"there is no process {pid}"):
        ended.canReceive(1)
