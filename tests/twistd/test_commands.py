"""
L{RunCommand}: which signals its own commands have caused.
"""

from __future__ import annotations

from signal import SIGCHLD, SIGPIPE, SIGUSR1
from typing import Any

import pytest

from txsignalfd._native.names import CODES
from txsignalfd._twistd.commands import RunCommand
from txsignalfd.siginfo import SigInfo


@pytest.mark.parametrize(
    ("code", "known"), [("CLD_STOPPED", True), ("CLD_EXITED", False)]
)
def test_theEndOfItsShellStartsNoCommand(code: str, known: bool) -> None:
    """
    A shell that has stopped may continue, and its end comes later.
    """
    command = RunCommand("true", None)
    command._pids.add(42)
    assert command._isOwn(SigInfo.make(SIGCHLD, code=CODES[code], pid=42))
    assert (42 in command._pids) is known
    assert not command._isOwn(SigInfo.make(SIGCHLD, code=CODES[code], pid=43))


def test_signalsOfOthersStartIt() -> None:
    command: Any = RunCommand("true", None)
    assert repr(command) == "run:true"
    for signo in (SIGUSR1, SIGPIPE, SIGCHLD):
        assert not command._isOwn(SigInfo.make(signo, pid=1))
