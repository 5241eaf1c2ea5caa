# -*- test-case-name: tests.proc.test_reason -*-
"""
L{reasonOf}: an exception in one line, and who uses an address that is in use.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from txsignalfd._proc.quoting import quoted
from txsignalfd._proc.sender import commandOf

#: The states of a socket in C{/proc/net} that has an address for itself: TCP_LISTEN,
#: and TCP_CLOSE for a datagram socket.
_STATES: Final = {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}


class RemoteError(Exception):
    """
    A failure of another process.

    Its text is the reason as that process has it, in one line.

    @ivar traceback: The traceback of that process, or an empty string.
    """

    traceback = ""


def reasonOf(error: BaseException | None) -> str:
    """
    Return the reason of a failure in one line, as at the end of a traceback.

    If an address is in use, the processes that use it follow, as far as C{/proc}
    shows them.
    """
    # The first failure of several Deferreds, Twisted's FirstError, is the reason.
    while first := getattr(error, "subFailure", None):
        error = first.value
    if isinstance(error, RemoteError):
        return str(error)
    kind = type(error)
    # OpenSSL has an exception that is only named Error.
    name = kind.__name__ if kind.__name__ != "Error" else f"{kind.__module__}.Error"
    message = " ".join(str(error).split())
    reason = f"{name}: {message}" if message else name
    owners = _ownersOf(error)
    return f"{reason.removesuffix('.')}: {' and '.join(owners)}" if owners else reason


def _ownersOf(error: BaseException | None) -> list[str]:
    # Twisted's CannotListenError has the number of the port, or the path, in port.
    cause = getattr(error, "socketError", error)
    if not isinstance(cause, OSError) or cause.errno != errno.EADDRINUSE:
        return []
    address = getattr(error, "port", None)
    inodes: set[str] = set()
    with suppress(OSError):
        inodes.update(_inodes(address))
    return [
        f"used by pid {pid} ({quoted(commandOf(pid) or 'unknown')})"
        for pid in sorted(_holders(inodes))
    ]


def _inodes(address: object) -> Iterator[str]:
    if isinstance(address, int):
        for kind, state in _STATES.items():
            for fields in _table(kind):
                port = int(fields[1].rpartition(":")[2], 16)
                if port == address and fields[3] == state:
                    yield fields[9]
    elif isinstance(address, (str, bytes)):
        for fields in _table("unix"):
            if fields[7:] == [os.fsdecode(address)]:
                yield fields[6]


def _table(kind: str) -> Iterator[list[str]]:
    path = f"/proc/net/{kind}"
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        next(file)
        for line in file:
            # A path is the last field, and may have spaces.
            yield line.rstrip("\n").split(None, 7 if kind == "unix" else -1)


def _holders(inodes: set[str]) -> set[int]:
    """
    Return the processes that have one of these sockets.
    """
    wanted = {f"socket:[{inode}]" for inode in inodes}
    found: set[int] = set()
    for pid in filter(str.isdecimal, os.listdir("/proc") if wanted else ()):
        # Another user's process, or one that has just ended.
        with suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{fd}") in wanted:
                    found.add(int(pid))
    return found
