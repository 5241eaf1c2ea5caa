"""
The arguments of the C{txsignalfd} command.
"""

from __future__ import annotations

import pytest

from txsignalfd._control.command import main


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["reload"], "the following arguments are required: TARGET"),
        (["reload", "--timeout=-1", "1"], "expected a number of seconds, 0 or more"),
        (["reload", "--timeout=x", "1"], "expected a number of seconds, 0 or more"),
        (["stop", "--check", "1"], "unrecognized arguments: --check"),
        (["check"], "the following arguments are required: ARGUMENT"),
        (["inspect", "x"], "expected a process id, got 'x'"),
    ],
)
def test_wrongArgumentsAreAUsageError(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    It prints the usage of the command, and exits with status 2.
    """
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert err.startswith("usage: txsignalfd")
    assert reason in err


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_theWholeHasHelp(capsys: pytest.CaptureFixture[str], option: str) -> None:
    """
    It names the commands.
    """
    assert main([option]) == 0
    assert "\n    reload     reload the service" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("reload", "--check"),
        ("stop", "--timeout"),
        ("rotate", "--json"),
        ("status", "--json"),
        ("check", "PLUGIN"),
        ("inspect", "PID"),
    ],
)
def test_eachCommandHasHelp(
    command: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    It names the options of the command.
    """
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: txsignalfd {command} ")
    assert option in out
