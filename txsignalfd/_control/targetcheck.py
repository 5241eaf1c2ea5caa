# -*- test-case-name: tests.control.test_check -*-
"""
Check the command line of a running daemon, as C{txsignalfd check} does.

The check runs in a process of its own, as much as possible like the daemon: with its
interpreter, arguments, environment, directory and user.  A reload would read the
files as that user; and root must not run what another user has chosen.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from txsignalfd._control.target import CannotAsk


def check(pid: int, status: dict[str, Any], timeout: float | None) -> str:
    """
    Check the command line of a daemon.

    @param pid: The daemon.
    @param status: Its answer to C{txsignalfd status}.
    @param timeout: Seconds that the check may take; C{None} for no limit.
    @return: Why a reload would fail, or an empty string.
    @raise CannotAsk: If it cannot be checked.
    """
    interpreter, arguments = _split(pid, [str(each) for each in status["command"]])
    command = [*interpreter, "-m", "txsignalfd", "check", "--json", *arguments]
    try:
        if not os.path.samestat(os.stat(f"/proc/{pid}/root"), os.stat("/")):
            raise CannotAsk(
                f"process {pid} has another root directory: check its command line"
                " there, by txsignalfd check"
            )
        done = subprocess.run(  # noqa: S603
            command,
            cwd=status["directory"],
            env=_environment(pid),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            # Away from the terminal of the caller, who may be root.
            start_new_session=True,
            **_credentials(pid),
        )
    except OSError as error:
        raise CannotAsk(f"process {pid} cannot be checked: {error}") from None
    except subprocess.TimeoutExpired:
        raise CannotAsk(f"the check has not ended within {timeout:g} s") from None
    return _reason(done)


def _split(pid: int, command: list[str]) -> tuple[list[str], list[str]]:
    """
    Split the command of a daemon into its interpreter and the arguments of C{check}.
    """
    for index, word in enumerate(command):
        name, others = os.path.basename(word), command[index + 1 :]
        if index and name == "twistd":
            return command[:index], others
        if name == "txsignalfd" and others[:1] == ["supervise"]:
            # The command, or python -m txsignalfd.
            return command[: index - (command[index - 1] == "-m")], others
    raise CannotAsk(
        f"process {pid} was not started by twistd or txsignalfd supervise: its program"
        " would have to run to be checked; reload it without --check"
    )


def _environment(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/environ", "rb") as file:
        lines = map(os.fsdecode, file.read().split(b"\0"))
    pairs = (line.partition("=") for line in lines)
    environment = {name: value for name, equals, value in pairs if equals}
    # Code of the service must not speak to the service manager.
    environment.pop("NOTIFY_SOCKET", None)
    return environment


def _credentials(pid: int) -> dict[str, Any]:
    """
    Return the user and the groups of a process, for C{subprocess}.
    """
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        lines = (line.partition(":") for line in file)
        fields = {name: value.split() for name, _, value in lines}
    user, group = int(fields["Uid"][1]), int(fields["Gid"][1])  # the effective ones
    if (user, group) == (os.geteuid(), os.getegid()):
        return {}
    groups = [int(each) for each in fields["Groups"]]
    return {"user": user, "group": group, "extra_groups": groups}


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    lines = done.stdout.splitlines()
    try:
        outcome = json.loads(lines[-1])
        return "" if outcome["exitStatus"] == 0 else str(outcome["text"])
    except (IndexError, KeyError, TypeError, ValueError):
        *_, last = done.stderr.splitlines() or [f"exit status {done.returncode}"]
        return f"the check ended without an outcome: {last}"
