"""
L{reasonOf}: exceptions in one line.
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest
from twisted.internet.defer import FirstError
from twisted.internet.error import CannotListenError
from twisted.python.failure import Failure

from txsignalfd._proc import reason
from txsignalfd._proc.reason import reasonOf

ME = f"pid {os.getpid()} ({Path('/proc/self/comm').read_text().strip()})"
IN_USE = OSError(errno.EADDRINUSE, "Address already in use")


class Error(Exception):
    """
    An exception whose name alone says nothing.
    """


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("one\n  two"), "ValueError: one two"),
        (KeyError(), "KeyError"),
        (Error("no key"), f"{__name__}.Error: no key"),
        (OSError(errno.ENOENT, "None", "x.pem"), "FileNotFoundError: [Errno 2] None"),
        (IN_USE, "OSError: [Errno 98] Address already in use"),
        (FirstError(Failure(ValueError("bad")), 0), "ValueError: bad"),
        (CannotListenError("", 1, OSError(errno.EACCES, "No")), "CannotListenError: C"),
    ],
)
def test_aReasonIsOneLine(error: BaseException, expected: str) -> None:
    assert reasonOf(error).startswith(expected)
    assert "used by" not in reasonOf(error)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_theUserOfAPortIsNamed(host: str, kind: int) -> None:
    with socket.socket(
        socket.AF_INET6 if ":" in host else socket.AF_INET, kind
    ) as used:
        used.bind((host, 0))
        if kind == socket.SOCK_STREAM:
            used.listen()
        error = CannotListenError(host, used.getsockname()[1], IN_USE)
        assert reasonOf(error).endswith(f"Address already in use: used by {ME}")


def test_theUserOfAPathIsNamed(tmp_path: Path) -> None:
    path = str(tmp_path / "a socket")
    with socket.socket(socket.AF_UNIX) as used:
        used.bind(path)
        error = CannotListenError(None, path, IN_USE)
        assert reasonOf(error).endswith(f"Address already in use: used by {ME}")


def test_aProcessMayEndWhileItIsLookedFor(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Then no user of the address is named, nor without C{/proc}.
    """
    with socket.create_server(("127.0.0.1", 0)) as used:
        error = CannotListenError("127.0.0.1", used.getsockname()[1], IN_USE)
        with monkeypatch.context() as patch:
            patch.setattr(os, "readlink", lambda path: os.stat("/none"))
            assert "used by" not in reasonOf(error)
        with monkeypatch.context() as patch:
            patch.setattr(reason, "_STATES", {"none": "0A"})
            assert "used by" not in reasonOf(error)
