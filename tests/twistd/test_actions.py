"""
The argument of C{--on SIGNAL=ACTION}.
"""

from __future__ import annotations

import os
from pathlib import Path
from signal import SIGHUP, SIGRTMIN, SIGUSR2
from typing import Any

import pytest

from txsignalfd._twistd.actions import (
    DEFAULTS,
    SIMPLE,
    Action,
    describeActions,
    parseActions,
    parseOn,
)


@pytest.mark.parametrize("name", SIMPLE)
def test_anySignalMayHaveAnyAction(name: str) -> None:
    assert parseOn(f"HUP={name}") == (SIGHUP, Action(name))
    assert parseOn(f" sigrtmin+1 = {name} ") == (SIGRTMIN + 1, Action(name))


def test_aFunctionIsImportedWhenItIsParsed() -> None:
    """
    A wrong name is an error at startup.
    """
    signo, action = parseOn("USR2=call:os.path.join")
    assert (signo, action.function) == (SIGUSR2, os.path.join)
    assert str(action) == "call:os.path.join"


def test_aCommandMayContainColonsAndEqualsSigns() -> None:
    _, action = parseOn("USR2=run:A=b logger -t web: reloaded")
    assert action == Action("run", "A=b logger -t web: reloaded")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("HUP", "expected SIGNAL=ACTION, got 'HUP'"),
        ("FOO=reload", "there is no signal 'FOO'"),
        ("KILL=reload", "SIGKILL cannot be watched"),
        ("HUP=restart", "unknown action 'restart': expected reload, stop, qu"),
        ("HUP=reload:", "unknown action 'reload:'"),
        ("HUP=run: ", "unknown action 'run:'"),
        ("HUP=call:", "unknown action 'call:'"),
        ("HUP=call:no.such.thing", "no module named 'no' (is it in PYTHONPATH?)"),
        ("HUP=call:nothing", "no module named 'nothing' (is it in PYTHONPATH?)"),
        (
            "HUP=call:os.gone",
            "the import failed: AttributeError: module 'os' has no attribute 'gone'",
        ),
        ("HUP=call:os.path", "call:os.path: not a function"),
    ],
)
def test_anErrorNamesTheWrongPart(text: str, message: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        parseOn(text)
    assert message in str(raised.value)


def test_anErrorNamesWhatTheModuleRaises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failing_at_import.py").write_text("{}['HOME']\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"the import failed: KeyError: 'HOME'$"):
        parseOn("HUP=call:failing_at_import.reload")


def test_actionsAreDescribedInTheOrderOfSignals() -> None:
    assert describeActions(DEFAULTS) == (
        "SIGHUP=reload, SIGINT=stop, SIGQUIT=quit, SIGUSR1=rotate, SIGUSR2=report,"
        " SIGTERM=stop"
    )


def test_aProgramNamesActions() -> None:
    """
    With functions in place of actions, and signals by name or number.
    """
    on: dict[Any, Any] = {"USR2": "rotate", SIGHUP: len}
    actions = parseActions(on)
    assert actions[SIGUSR2] == Action("rotate")
    assert str(actions[SIGHUP]) == "call:builtins.len"
    assert actions[SIGHUP].function is len
    assert parseActions("USR2=rotate") == parseActions(["USR2=rotate"])


@pytest.mark.parametrize("on", [17, {"HUP": 17}, {SIGHUP: None}, {None: "rotate"}])
def test_aProgramNamesWrongTypes(on: Any) -> None:
    with pytest.raises(TypeError):
        parseActions(on)
