"""
L{RunCommand}: which signals its own commands have caused.
"""

from __future__ import annotations

from signal import SIGCHLD, SIGPIPE, SIGUSR1
from typing import Any

import pytest

from tests.support.inreactor import inReactor
from tests.support.processes import foreign
from txsignalfd._native.names import CODES
from txsignalfd._twistd import commands
from txsignalfd._twistd.commands import OwnChildren, RunCommand
from txsignalfd.siginfo import SigInfo
from txsignalfd.testing import MemorySignals


@pytest.mark.parametrize(
    ("code", "known"), [("CLD_STOPPED", True), ("CLD_EXITED", False)]
)
def test_theEndOfItsShellStartsNoCommand(code: str, known: bool) -> None:
    """
    A shell that has stopped may continue, and its end comes later.
    """
    own = OwnChildren(MemorySignals())
    own.add(42)
    command = RunCommand("true", None, own)
    assert command._isOwn(SigInfo.make(SIGCHLD, code=CODES[code], pid=42))
    assert (42 in own._pids) is known
    assert not command._isOwn(SigInfo.make(SIGCHLD, code=CODES[code], pid=43))
    assert not command._isOwn(SigInfo.make(SIGCHLD, pid=42))


@inReactor
async def test_aCommandThatCannotBeStartedHasNoOrphans(
    reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("too many open files")

    monkeypatch.setattr(reactor, "spawnProcess", fail)
    monkeypatch.setattr(commands, "isInit", lambda: True)
    own = OwnChildren(MemorySignals())
    with pytest.raises(OSError, match="too many"):
        await RunCommand("true", reactor, own)(SigInfo.make(SIGCHLD))
    with foreign("true") as pid:
        own._note(SigInfo.make(SIGCHLD, pid=pid))
    assert own._pids == set()


def test_withoutProcOnlyTheShellIsItsOwn(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError("no /proc")

    monkeypatch.setattr(commands, "isInit", lambda: True)
    monkeypatch.setattr(commands, "childProcesses", fail)
    own = OwnChildren(MemorySignals())
    own.begin()
    own.add(42)
    own.end()
    assert own._pids == {42}


def test_signalsOfOthersStartIt() -> None:
    command: Any = RunCommand("true", None)
    assert repr(command) == "run:true"
    for signo in (SIGUSR1, SIGPIPE, SIGCHLD):
        assert not command._isOwn(SigInfo.make(signo, pid=1))
